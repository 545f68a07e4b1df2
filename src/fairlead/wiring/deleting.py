"""Deleting from the command line: what this machine still has of it, and waiting until that is nothing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from fairlead.control.deleting import Deleting
from fairlead.domain.catalog import digests_of
from fairlead.domain.errors import FairleadError
from fairlead.domain.removal import Removal, remains
from fairlead.domain.status import GatewayStatus, gateway_status_from_bytes
from fairlead.wiring.homes import Control
from fairlead.wiring.journals import journals_in
from fairlead.wiring.observe import gateway_status, node_status, running

_LOOK_SECONDS = 0.1

Tell = Callable[[str], None]


def deleting(control: Control) -> Deleting:
    """Deleting in this home."""
    rollouts = journals_in(control)
    return Deleting(control.catalogs, rollouts, control.clock, lambda: _routed(control))


def until_gone(
    control: Control, removal: Removal, timeout_seconds: float, show: Tell
) -> tuple[str, ...]:
    """Wait until nothing is left of it; returns what still is when the time is up.

    `show` gets what is missing, in one line, each time that changes.
    """
    started, told = control.clock.monotonic(), ""
    while True:
        left = _left(control, removal)
        if not left or control.clock.monotonic() - started > timeout_seconds:
            return left
        line = f"waiting: {'; '.join(left)}"
        if line != told and control.clock.monotonic() - started > _LOOK_SECONDS:
            told = line
            show(line)
        control.clock.pause(_LOOK_SECONDS)


def anything_runs(control: Control) -> bool:
    """Is there an agent or a gateway that can take anything away?"""
    here = running(control), node_status(control), gateway_status(control)
    return any(one is not None for one in here)


def _left(control: Control, removal: Removal) -> tuple[str, ...]:
    node, gateway = node_status(control), _routed(control)
    up = running(control) is not None
    # Without an agent nobody removes files, and nobody is about to.
    files = _on_disk(control, removal) if up or node is not None else []
    found = list(remains(removal, node, gateway, files))
    if up:
        missing = {"agent": node, "gateway": gateway_status(control)}
        found += [f"the {name} does not run" for name, one in missing.items() if one is None]
    return tuple(found)


def _on_disk(control: Control, removal: Removal) -> list[str]:
    """Its files that are still here, but for those that somebody has released again meanwhile."""
    used = digests_of(control.catalogs.read())
    there = [one for one in removal.digests if control.home.artifact(one).exists()]
    return [one for one in there if one not in used]


def _routed(control: Control) -> GatewayStatus | None:
    """What the gateway said last, however long ago: its Envoy routes by it until an orderly end removes it."""
    path: Path = control.home.gateway_status
    try:
        return gateway_status_from_bytes(path.read_bytes(), str(path))
    except (OSError, ValueError, FairleadError):
        return None
