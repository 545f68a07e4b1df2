"""The kill switches of workers that the activator asks: it sees their answers, where Envoy sees only the activator."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass

from fairlead.domain.ids import EndpointId
from fairlead.domain.kill_switch import KillSwitch, Tally
from fairlead.domain.status import Replica
from fairlead.kits.clock import Clock


@dataclass(frozen=True, slots=True)
class HeldOff:
    """One endpoint behind the activator: its workers, and those of them that get no requests."""

    workers: tuple[str, ...]
    off: frozenset[str]


class Failures:
    """Every worker's answers, by endpoint: each endpoint has switches of its own."""

    def __init__(self, switch: KillSwitch, clock: Clock) -> None:
        self.switch = switch
        self._clock = clock
        self._tallies: dict[EndpointId, dict[str, Tally]] = {}

    def count(self, endpoint: EndpointId, worker: str, *, failed: bool) -> None:
        """A worker has answered, or has failed to."""
        tallies = self._tallies.setdefault(endpoint, {})
        if worker not in tallies:
            tallies[worker] = Tally(self.switch)
        tallies[worker].count(self._clock.monotonic(), failed=failed)

    def off(self, endpoint: EndpointId, workers: Iterable[str]) -> frozenset[str]:
        """Those of these workers that are switched off now."""
        tallies = self._tallies.get(endpoint)
        if not tallies:
            return frozenset()
        now = self._clock.monotonic()
        return frozenset(one for one in workers if one in tallies and tallies[one].off(now))

    def on(self, endpoint: EndpointId, replicas: tuple[Replica, ...]) -> tuple[Replica, ...]:
        """Those of these replicas that may be asked."""
        off = self.off(endpoint, (one.worker for one in replicas))
        return tuple(one for one in replicas if one.worker not in off) if off else replicas

    def seen(self) -> list[EndpointId]:
        """The endpoints at which anybody has answered."""
        return list(self._tallies)

    def keep(self, endpoint: EndpointId, workers: Collection[str]) -> None:
        """Forget the workers that are not there any more: whoever replaces them begins anew."""
        tallies = self._tallies.get(endpoint, {})
        for gone in tallies.keys() - set(workers):
            del tallies[gone]
        if not tallies:
            self._tallies.pop(endpoint, None)
