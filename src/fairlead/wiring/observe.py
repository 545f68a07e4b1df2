"""What a home's processes say of themselves, read from their files."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from fairlead.domain.catalog import Catalog, ordered_traffic
from fairlead.domain.errors import FairleadError
from fairlead.domain.status import (
    GatewayStatus,
    NodeStatus,
    gateway_status_from_bytes,
    health_problems,
    node_status_from_bytes,
)
from fairlead.kits import files
from fairlead.wiring.homes import Control

Status = TypeVar("Status")

_SILENT_SECONDS = 3.0  # six missed heartbeats


@dataclass(frozen=True, slots=True)
class Observed:
    """The catalog, and the status of agent and gateway; None where there is none or it is old."""

    catalog: Catalog
    node: NodeStatus | None
    gateway: GatewayStatus | None
    running: dict[str, Any] | None

    def problems(self) -> list[str]:
        """Why not everything serves; empty if everything does."""
        found = []
        if self.node is None:
            found.append("the agent does not run")
        elif self.node.problem:
            found.append(f"agent: {self.node.problem}")
        if self.gateway is None:
            found.append("the gateway does not run")
        elif self.gateway.problem:
            found.append(f"gateway: {self.gateway.problem}")
        if self.node is not None:
            found += health_problems(self.catalog, self.node)
        return found + self._behind()

    def serves_everything(self) -> bool:
        """Is every live revision proved, and does all traffic flow as the catalog wants it?"""
        return not self.problems()

    def _behind(self) -> list[str]:
        gateway = self.gateway
        if gateway is None:
            return []
        if gateway.generation < self.catalog.generation:
            return [
                f"the gateway is at generation {gateway.generation} of {self.catalog.generation}"
            ]
        return self._unrouted(gateway) + [
            f"traffic of {line.id} has not moved yet"
            for service in self.catalog.services.values()
            for line in service.lines.values()
            if ordered_traffic(gateway.effective.get(line.id, ())) != line.traffic
        ]

    def _unrouted(self, gateway: GatewayStatus) -> list[str]:
        """Ready revisions whose ready workers the gateway does not know yet."""
        ready = self.node.ready() if self.node is not None else {}
        return [
            f"the gateway does not route to the worker of {revision_id} yet"
            for revision_id in self.catalog.live()
            if revision_id in ready
            and not any(replica.worker in gateway.workers for replica in ready[revision_id])
        ]


def observe(control: Control) -> Observed:
    """Read everything once."""
    home = control.home
    node = _read(home.node_status, node_status_from_bytes)
    gateway = _read(home.gateway_status, gateway_status_from_bytes)
    oldest = control.clock.now() - _SILENT_SECONDS
    return Observed(
        control.catalogs.read(),
        node if node is not None and node.written_at >= oldest else None,
        gateway if gateway is not None and gateway.written_at >= oldest else None,
        files.read_json(home.running),
    )


def _read(path: Path, parse: Callable[[bytes, str], Status]) -> Status | None:
    try:
        return parse(path.read_bytes(), str(path))
    except (FileNotFoundError, ValueError, FairleadError):
        return None
