"""Deleting a revision, a line or a service: out of the catalog in one step, unless a rollout is at it.

What follows from it (routes, workers, files of the node) is the gateway's and the agent's work.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from fairlead.control import catalogs as changing
from fairlead.domain.catalog import Catalog
from fairlead.domain.errors import Kind, Refused
from fairlead.domain.ports import Catalogs
from fairlead.domain.removal import Removal, Target, without
from fairlead.domain.rollout_ports import Rollouts
from fairlead.domain.status import GatewayStatus
from fairlead.kits.clock import Clock


@dataclass(frozen=True, slots=True)
class Deleting:
    """`routed` says what the gateway routes now; None if none does."""

    catalogs: Catalogs
    rollouts: Rollouts
    clock: Clock
    routed: Callable[[], GatewayStatus | None]

    def plan(self, target: Target) -> Removal:
        """What deleting would take away. Raises Refused if it must not be."""
        return self._without(self.catalogs.read(), target)

    def delete(self, target: Target) -> Removal:
        """Do it; the removal's catalog is the one that stands now. Raises Refused if it must not be."""
        made: list[Removal] = []

        def what(catalog: Catalog) -> Catalog:
            made.append(self._without(catalog, target))
            return made[-1].catalog

        catalog = changing.change(self.catalogs, self.clock, what, f"delete {target}")
        last = made[-1]
        return Removal(target, catalog, last.revisions, last.keys)

    def _without(self, catalog: Catalog, target: Target) -> Removal:
        # Within the change: a rollout writes its journal before it touches the catalog, so one that begins
        # meanwhile is either seen here or finds its line gone.
        removal = without(catalog, target, self.routed())
        for other in self.rollouts.unfinished():
            if target.touches(other.rollout.line):
                name = other.rollout.id
                message = (
                    f"rollout {name} of {other.rollout.candidate} has not ended: wait for it, or end it with "
                    f"`fairlead rollout --abort {name}`"
                )
                raise Refused(Kind.CONFLICT, message)
        return removal
