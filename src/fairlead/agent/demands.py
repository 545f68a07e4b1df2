"""How much every scale unit is asked: what the table knows of it beside replicas and artifacts.

The gateway's activator says for whom somebody waits, the workers say how much they do, and the scalers what
follows from it. Times are steady seconds.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace

from fairlead.agent.steps import NEVER, NO_DEMAND, Demand
from fairlead.domain.ids import EndpointId, RevisionId
from fairlead.domain.scale_units import ScaleUnit
from fairlead.kits.clock import Clock


@dataclass(frozen=True, slots=True)
class _Waiting:
    number: int
    until: float


class Demands:
    """What is known of each unit; one of which nothing is known has the defaults."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._of: dict[ScaleUnit, Demand] = {}
        self._waiting: dict[ScaleUnit, dict[str, _Waiting]] = {}  # by endpoint

    def view(self) -> Mapping[ScaleUnit, Demand]:
        """Everything, as a snapshot holds it."""
        return dict(self._of)

    def of(self, unit: ScaleUnit) -> Demand:
        return self._of.get(unit, NO_DEMAND)

    def keep(self, revisions: Collection[RevisionId]) -> None:
        """Forget whoever is of another revision: there are ever new ones."""
        self._of = {unit: one for unit, one in self._of.items() if unit.revision in revisions}
        gone = [unit for unit in self._waiting if unit.revision not in revisions]
        for unit in gone:
            del self._waiting[unit]

    def waits(self, unit: ScaleUnit, endpoint: EndpointId, number: int, seconds: float) -> bool:
        """So many wait for an endpoint of this unit, and will say so again within `seconds`; is the first of them new?"""
        now, before = self._clock.monotonic(), self.of(unit)
        waiting = self._waiting.setdefault(unit, {})
        if number:
            waiting[endpoint.endpoint] = _Waiting(number, now + seconds)
        else:
            waiting.pop(endpoint.endpoint, None)
        until = max((one.until for one in waiting.values()), default=NEVER)
        if not waiting:
            del self._waiting[unit]
        self._set(unit, replace(before, waited_until=until))
        return number > 0 and before.waited_until <= now

    def waiting(self, unit: ScaleUnit, endpoint: str) -> int:
        """How many wait for an endpoint of this unit in front of its replicas now."""
        found = self._waiting.get(unit, {}).get(endpoint)
        return found.number if found is not None and found.until > self._clock.monotonic() else 0

    def proved(self, unit: ScaleUnit) -> None:
        """A replica has answered as it should."""
        used_at = max(self.of(unit).used_at, self._clock.monotonic())
        self._set(unit, replace(self.of(unit), proved=True, used_at=used_at))

    def failed(self, unit: ScaleUnit) -> None:
        """A replica never got ready: nothing is promised of it until one has."""
        self._set(unit, replace(self.of(unit), proved=False, cold=False))

    def desires(self, unit: ScaleUnit, replicas: int | None) -> bool:
        """Its load asks for so many replicas; is that news?"""
        before = self.of(unit)
        self._set(unit, replace(before, desired=replicas))
        return before.desired != replicas

    def used(self, unit: ScaleUnit, at: float, *, busy: bool) -> None:
        """It was last asked then; `busy`: it still works on it."""
        before = self.of(unit)
        self._set(unit, replace(before, used_at=max(before.used_at, at), busy=busy))

    def settle(self, cold: Collection[ScaleUnit]) -> None:
        """These are cold now, and no others; what a load asked for before says nothing any more."""
        for unit in [unit for unit, one in self._of.items() if one.cold and unit not in cold]:
            self._set(unit, replace(self.of(unit), cold=False))
        for unit in cold:
            before = self.of(unit)
            if not before.cold:
                self._set(unit, replace(before, cold=True, desired=None, busy=False))

    def cold(self) -> int:
        """How many are."""
        return sum(one.cold for one in self._of.values())

    def were_cold(self, cold: Collection[ScaleUnit]) -> None:
        """The agent before this one had proved these, and let them go cold."""
        for unit in cold:
            self._set(unit, replace(self.of(unit), cold=True, proved=True))

    def _set(self, unit: ScaleUnit, demand: Demand) -> None:
        self._of[unit] = demand
