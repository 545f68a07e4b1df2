"""How many replicas every scale unit should have now, and which units are cold: pure, as everything that is planned.

The number is what its load asks for, between `minScale` and `maxScale` and within the node's own limit. A unit
that may go to zero does so only where a gateway routes, for somebody must hold the next request and wake it; and
only after it has been ready here once, so that nothing is promised of a model that was never proved.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from fairlead.agent.settings import AgentSettings
from fairlead.agent.steps import NO_FAILURE, Snapshot
from fairlead.domain.catalog import Revision
from fairlead.domain.ids import RevisionId
from fairlead.domain.scale_units import ScaleUnit, served, units

UNASKED = "scaled to zero: nobody asked for it"
AWAITED = "somebody waits for it"


@dataclass(frozen=True, slots=True)
class Wish:
    """How many replicas a unit should have, and why. `may_start` is how many of them there is room for now; None: all."""

    revision: Revision
    replicas: int
    why: str = ""
    may_start: int | None = None


Wishes = Mapping[ScaleUnit, Wish]


def wishes(
    seen: Snapshot, needed: Mapping[RevisionId, Revision], settings: AgentSettings
) -> dict[ScaleUnit, Wish]:
    """What every unit of the needed revisions is worth, whatever memory there is."""
    ready = seen.ready
    return {
        unit: _wish(seen, revision, unit, settings, ready=unit in ready)
        for revision in needed.values()
        for unit in units(revision)
    }


def least_of(revision: Revision, unit: ScaleUnit) -> int:
    """How many replicas the release asks for in any case."""
    return max((endpoint.min_scale for endpoint in served(revision, unit)), default=1)


def _wish(
    seen: Snapshot, revision: Revision, unit: ScaleUnit, settings: AgentSettings, *, ready: bool
) -> Wish:
    demand, why = seen.demand(unit), ""
    cold = (
        demand.cold and not ready
    )  # one that has just come up stays until its load says otherwise
    least, most = least_of(revision, unit), _most(revision, unit, settings)
    number = demand.desired
    if number is None:
        number = 0 if cold else 1
    elif number > least:
        why = "as its load asks"
    if number == 0 and demand.waited_until > seen.now:
        number, why = 1, AWAITED
    elif (number == 0 and not demand.proved) or (number == 0 and seen.gateway is None and not cold):
        number = 1
    number = min(max(number, least), most)
    return Wish(revision, number, UNASKED if number == 0 else why)


def _most(revision: Revision, unit: ScaleUnit, settings: AgentSettings) -> int:
    """The node's limit, where the release has none or a larger one."""
    said = max((endpoint.max_scale for endpoint in served(revision, unit)), default=1)
    return min(said or settings.max_replicas, settings.max_replicas)


def cold(seen: Snapshot, wished: Wishes) -> frozenset[ScaleUnit]:
    """The units without a ready replica that come up when somebody asks, or are just coming up for him."""
    ready = seen.ready
    return frozenset(
        unit for unit, wish in wished.items() if _is_cold(seen, unit, wish, ready=unit in ready)
    )


def _is_cold(seen: Snapshot, unit: ScaleUnit, wish: Wish, *, ready: bool) -> bool:
    demand = seen.demand(unit)
    if wish.replicas:
        return demand.cold and not ready
    if demand.proved:
        return True
    # There is no room for it: what was pulled and verified may wait for the first who asks, but for what
    # has just failed.
    failure = seen.failures.get(unit, NO_FAILURE)
    return wish.revision.digest in seen.artifacts and failure.retry_at <= seen.now
