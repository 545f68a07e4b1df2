"""What a home's processes say of themselves, read from their files."""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar

from fairlead.domain.catalog import Catalog, Service, ordered_traffic
from fairlead.domain.errors import FairleadError
from fairlead.domain.health import health_problems, held_problems
from fairlead.domain.ids import RevisionId
from fairlead.domain.status import (
    GatewayStatus,
    NodeStatus,
    OpenSwitch,
    Replica,
    gateway_status_from_bytes,
    node_status_from_bytes,
)
from fairlead.domain.uses import Use, uses_from_bytes
from fairlead.kits import files, processes
from fairlead.wiring.homes import Control

Status = TypeVar("Status")
Beating = TypeVar("Beating", NodeStatus, GatewayStatus)

_AGENT, _GATEWAY = "the agent", "the gateway"
_SILENT_SECONDS = 3.0  # six missed heartbeats


@dataclass(frozen=True, slots=True)
class Observed:
    """The catalog, and the status of agent and gateway; None where there is none or it is old.

    `running` is what the living `fairlead up` wrote of itself; None if none runs here.
    """

    catalog: Catalog
    node: NodeStatus | None
    gateway: GatewayStatus | None
    running: dict[str, Any] | None
    keys_mark: str  # the state of the key file
    away: Mapping[str, str] = field(default_factory=dict)  # why there is no word of whom

    @property
    def agent_away(self) -> str:
        """Why the agent says nothing, where it says nothing."""
        return self.away.get(_AGENT, f"{_AGENT} does not run")

    def problems(self) -> list[str]:
        """Why not everything serves; empty if everything does."""
        off = (one.what for one in self.switches() if one.whole)
        held = held_problems(self.catalog, self.node) if self.node is not None else ()
        return [*self._not_settled(), *off, *held]

    def switches(self) -> tuple[OpenSwitch, ...]:
        """The kill switches that are open."""
        return self.gateway.switches if self.gateway is not None else ()

    def _not_settled(self) -> list[str]:
        return self.unsettled(self.catalog.services)

    def unsettled(self, services: Collection[str]) -> list[str]:
        """Why what the catalog says of these services, and of all keys, is not in force yet."""
        catalog, found = self.catalog.only(services), self._processes()
        node = self.node.only(services) if self.node is not None else None
        if node is not None:
            found += health_problems(catalog, node)
        return found + list(self._behind(catalog, node))

    def serves_everything(self) -> bool:
        """Is every live revision proved, and does all traffic flow as the catalog wants it?"""
        return not self._not_settled()

    def _processes(self) -> list[str]:
        found = []
        if self.node is None:
            found.append(self.agent_away)
        elif self.node.problem:
            found.append(f"agent: {self.node.problem}")
        if self.gateway is None:
            found.append(self.away.get(_GATEWAY, f"{_GATEWAY} does not run"))
        elif self.gateway.problem:
            found.append(f"gateway: {self.gateway.problem}")
        return found

    def _behind(self, catalog: Catalog, node: NodeStatus | None) -> Iterator[str]:
        gateway = self.gateway
        if gateway is None:
            return
        if gateway.generation < catalog.generation:
            yield f"the gateway is at generation {gateway.generation} of {catalog.generation}"
            return
        if gateway.keys != self.keys_mark:
            yield "the gateway has not read the keys' secrets yet"
        ready = node.ready() if node is not None else {}
        routed = frozenset(gateway.workers) - set(gateway.coming)
        for service in catalog.services.values():
            if service.kill is None:
                yield from _service_behind(gateway, service, ready, routed)


class Observer:
    """Looks again and again, and reads only what has changed: whoever waits leaves the cores to what is waited for."""

    def __init__(self, control: Control) -> None:
        self._control = control
        self._node = _Kept(
            control.home.node_status, functools.partial(node_status_from_bytes, kept={})
        )
        self._gateway = _Kept(
            control.home.gateway_status, functools.partial(gateway_status_from_bytes, kept={})
        )

    def node(self) -> NodeStatus | None:
        """What the agent says now; asks no store, which may be away."""
        return _if_fresh(self._node.read(), self._control)

    def look(self) -> Observed:
        """Everything as it is now."""
        control = self._control
        node, gateway = self._node.read(), self._gateway.read()
        away: dict[str, tuple[NodeStatus | GatewayStatus | None, Path]] = {
            _AGENT: (node, control.home.agent_lock),
            _GATEWAY: (gateway, control.home.gateway_lock),
        }
        return Observed(
            control.catalogs.read(),
            _if_fresh(node, control),
            _if_fresh(gateway, control),
            running(control),
            files.mark(control.home.keys),
            {
                who: why
                for who, (said, lock) in away.items()
                if (why := _silent(who, said, lock, control))
            },
        )


def observe(control: Control) -> Observed:
    """Read everything once."""
    return Observer(control).look()


def node_status(control: Control) -> NodeStatus | None:
    """What the agent says, if it says anything now."""
    return _if_fresh(_read(control.home.node_status, node_status_from_bytes), control)


def gateway_status(control: Control) -> GatewayStatus | None:
    """What the gateway says, if it says anything now."""
    return _if_fresh(_read(control.home.gateway_status, gateway_status_from_bytes), control)


class _Kept(Generic[Status]):
    """One file, and what it said last."""

    def __init__(self, path: Path, parse: Callable[[bytes, str], Status]) -> None:
        self._path = path
        self._parse = parse
        self._mark: str | None = None
        self._said: Status | None = None

    def read(self) -> Status | None:
        mark = files.mark(self._path)
        if mark != self._mark:
            self._mark, self._said = mark, _read(self._path, self._parse)
        return self._said


def _service_behind(
    gateway: GatewayStatus,
    service: Service,
    ready: Mapping[RevisionId, Sequence[Replica]],
    routed: frozenset[str],
) -> Iterator[str]:
    if gateway.pins.get(service.name) != service.pin.line:
        yield f"the pin of {service.name} has not moved yet"
    for line in service.lines.values():
        if ordered_traffic(gateway.effective.get(line.id, ())) != line.traffic:
            yield f"traffic of {line.id} has not moved yet"
        for revision in line.live():
            workers = [replica.worker for replica in ready.get(revision.id, ())]
            if workers and routed.isdisjoint(workers):
                yield f"the gateway does not route to the worker of {revision.id} yet"


def key_uses(control: Control) -> Mapping[str, Use]:
    """What the gateway counted of each key; empty if none ever ran here."""
    uses = _read(control.home.key_uses, uses_from_bytes)
    return uses.keys if uses is not None else {}


def _silent(
    who: str, status: NodeStatus | GatewayStatus | None, lock: Path, control: Control
) -> str:
    """That this one runs, and what it says is old: a disk that is full takes no status either; empty if that is not so.

    Its lock is not tried for: whoever just starts would find it taken.
    """
    if status is None:
        return ""
    seconds = abs(control.clock.now() - status.written_at)
    if seconds <= _SILENT_SECONDS or not processes.holds_open(status.pid, lock):
        return ""
    return f"{who} runs, but has said nothing for {seconds:.0f} s: `fairlead doctor` looks why"


def _if_fresh(status: Beating | None, control: Control) -> Beating | None:
    """Not if it is of long ago, nor of a future that a clock set back has left behind."""
    if status is None or abs(control.clock.now() - status.written_at) > _SILENT_SECONDS:
        return None
    return status


def running(control: Control) -> dict[str, Any] | None:
    """What the `fairlead up` of this home wrote of itself, if that very process lives."""
    try:
        record: dict[str, Any] | None = files.read_json(control.home.running)
        if record is None or not processes.alive(processes.from_record(record)):
            return None
    except (OSError, ValueError, KeyError, TypeError):
        return None  # damaged: whoever wrote it says no more than a dead one
    return record


def _read(path: Path, parse: Callable[[bytes, str], Status]) -> Status | None:
    try:
        return parse(path.read_bytes(), str(path))
    except (OSError, ValueError, FairleadError):
        return None
