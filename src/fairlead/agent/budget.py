"""What fits into the node's memory budget: pure, as everything that is planned.

Whoever somebody waits for comes up; for him the least recently used units that answer nobody go cold. Their
artifacts stay on the disk, so that they are back as soon as they are asked. Whoever nobody waits for takes what
room is left and never drives anybody out, so nothing goes back and forth by itself. What the release wants
loaded in any case (`minScale`) goes only when nothing else is left to go.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from fairlead.agent import pools
from fairlead.agent.scales import Wish, Wishes, least_of
from fairlead.agent.settings import AgentSettings
from fairlead.agent.steps import COMING, WORKING, Snapshot
from fairlead.domain.scale_units import ScaleUnit
from fairlead.domain.status import Replica, State

PROCESS_BYTES = 44 << 20  # of a worker before it has loaded anything
_UNKNOWN_BYTES = 16 << 20  # of a replica, until one like it was measured
_MARGIN = 0.05  # of the budget, that must be free before what was driven out comes back unasked
_GIB = 1 << 30


def afford(seen: Snapshot, wished: Wishes, settings: AgentSettings) -> Wishes:
    """The wishes, as far as there is memory for them."""
    if not settings.memory_budget_bytes:
        return wished
    return _Ledger(seen, wished, settings).settle()


@dataclass(slots=True)
class _Asker:
    """A unit that lacks replicas. `awaited`: somebody waits for it; `busy`: it serves and has too much to do."""

    unit: ScaleUnit
    missing: int
    awaited: bool
    busy: bool
    least: int
    used_at: float

    @property
    def rank(self) -> tuple[object, ...]:
        """Whose turn is first."""
        return not self.awaited, not self.busy, not self.least, -self.used_at, self.unit


@dataclass(slots=True)
class _Ledger:
    """What memory is taken, and what is left when those have gone who are on their way out."""

    seen: Snapshot
    wished: Wishes
    settings: AgentSettings
    room: int = 0  # once everybody has gone who leaves
    free: int = 0  # now
    result: dict[ScaleUnit, Wish] = field(default_factory=dict)
    working: Mapping[ScaleUnit, Sequence[Replica]] = field(default_factory=dict)
    processes: dict[str, list[Replica]] = field(default_factory=dict)
    staying: Counter[str] = field(
        default_factory=Counter
    )  # replicas of each process that do not leave
    light: int = 0  # small ones that may start: they share what a process costs
    _victims: list[ScaleUnit] | None = None

    def settle(self) -> dict[ScaleUnit, Wish]:
        self.result = dict(self.wished)
        self.working, self.processes = self.seen.working, self.seen.processes()
        self._count()
        if self.room < 0:
            self._make_room(0, also_wanted=True)
        for asker in sorted(self._askers(), key=lambda one: one.rank):
            self._grant(asker)
        return self.result

    def _count(self) -> None:
        """What is taken now, and what of it will be."""
        leaving = 0
        taken = 0
        for process, replicas in self.processes.items():
            size = self._taken(process, replicas)
            staying = [one for one in replicas if one.state in WORKING]
            self.staying[process] = len(staying)
            gone = sum(self._need(one.digest) for one in replicas if one not in staying)
            leaving += min(size, gone) if staying else size
            taken += size
        self.free = self.settings.memory_budget_bytes - taken
        self.room = self.free + leaving

    def _taken(self, process: str, replicas: list[Replica]) -> int:
        """A process's memory; what it will be when all it has to load is loaded."""
        measured = self.seen.memory.get(process)
        expected = PROCESS_BYTES + sum(self._need(one.digest) for one in replicas)
        if measured is None:
            return expected
        # Of one that has just become ready the last measure is from before.
        since = self.seen.now - 2 * self.settings.load_seconds
        loading = any(one.state in COMING or one.since > since for one in replicas)
        return max(measured, expected) if loading else measured

    def _need(self, digest: str) -> int:
        return self.seen.needs.get(digest, _UNKNOWN_BYTES)

    def _askers(self) -> Iterable[_Asker]:
        seen = self.seen
        for unit, wish in self.result.items():
            have = len(self.working.get(unit, ()))
            if wish.replicas > have:
                demand = seen.demand(unit)
                yield _Asker(
                    unit,
                    wish.replicas - have,
                    awaited=demand.waited_until > seen.now and not have,
                    busy=have > 0,
                    least=least_of(wish.revision, unit),
                    used_at=demand.used_at,
                )

    def _grant(self, asker: _Asker) -> None:
        """As many of the missing replicas as there is room for, or as room can be made for."""
        wish = self.result[asker.unit]
        held, started = 0, 0
        for nth in range(asker.missing):
            awaited = asker.awaited and nth == 0
            cost = self._cost(asker.unit, wish)
            if not self._fits(asker, cost, awaited=awaited):
                held = asker.missing - nth - (1 if awaited else 0)
                break
            self.room -= cost
            if cost <= self.free:
                self.free -= cost
                started += 1
                self.light += self._shares(asker.unit, wish)
        full = f"the memory budget of {_shown(self.settings.memory_budget_bytes)} is full"
        replicas = wish.replicas - held
        if held:
            unasked = "; it comes up when somebody asks" if not replicas else ""
            over = f"; minScale {asker.least} has to wait" if asker.least > replicas else ""
            wish = replace(wish, replicas=replicas, why=full + over + unasked)
        elif started < asker.missing:
            wish = replace(wish, why=f"{full}; it waits until others have gone")
        self.result[asker.unit] = replace(wish, may_start=started)

    def _cost(self, unit: ScaleUnit, wish: Wish) -> int:
        """What one more replica takes. One larger than the whole budget comes up alone."""
        need = self._need(wish.revision.digest)
        if self._shares(unit, wish):
            before = pools.spread(self.light, self.light, self.settings)
            after = pools.spread(self.light + 1, self.light + 1, self.settings)
            need += PROCESS_BYTES * (after - before)
        else:
            need += PROCESS_BYTES
        return min(need, self.settings.memory_budget_bytes)

    def _shares(self, unit: ScaleUnit, wish: Wish) -> bool:
        return pools.may_share(self.seen, unit, wish, self.settings)

    def _fits(self, asker: _Asker, cost: int, *, awaited: bool) -> bool:
        if awaited or asker.busy:
            return cost <= self.room or self._make_room(cost, also_wanted=awaited)
        margin = 0
        if self.seen.demand(asker.unit).cold:
            margin = int(_MARGIN * self.settings.memory_budget_bytes)
        return cost + margin <= self.room

    def _make_room(self, cost: int, *, also_wanted: bool) -> bool:
        """Let the least recently used go until there is room; nobody, if there would not be in the end.

        But for a budget that is overdrawn (no `cost`): then everybody goes who can.
        """
        found, room, staying = [], self.room, self.staying.copy()
        for unit in self._least_used():
            if room >= cost:
                break
            if least_of(self.result[unit].revision, unit) and not also_wanted:
                continue
            found.append(unit)
            room += self._freed(unit, staying)
        if room < cost and cost:
            return False
        for unit in found:
            self._let_go(unit)
        self.room, self.staying = room, staying
        return room >= cost

    def _freed(self, unit: ScaleUnit, staying: Counter[str]) -> int:
        """What its replicas give back: all of a process that nobody else stays in."""
        freed = 0
        for replica in self.working[unit]:
            home = self.seen.home(replica.worker)
            staying[home] -= 1
            if staying[home]:
                freed += self._need(replica.digest)
            else:
                # What those before it in this process gave back is counted already.
                others = [one for one in self.processes[home] if one is not replica]
                size = self._taken(home, [*others, replica])
                freed += max(0, size - sum(self._need(one.digest) for one in others))
        return freed

    def _let_go(self, unit: ScaleUnit) -> None:
        wish = self.result[unit]
        least = least_of(wish.revision, unit)
        over = f", minScale {least} notwithstanding" if least else ""
        why = f"unloaded{over}: the memory budget of {_shown(self.settings.memory_budget_bytes)} is full"
        self.result[unit] = replace(wish, replicas=0, why=f"{why}; it comes up when somebody asks")

    def _least_used(self) -> list[ScaleUnit]:
        """Who may go, in order: what need not be loaded before what should be, then by its last use.

        Nobody goes in the place of one whose turn is first and who has only just come: that one may go soon.
        """
        if self._victims is None:
            idle = sorted((unit for unit in self.working if self._idle(unit)), key=self._turn)
            just_come = (place for place, unit in enumerate(idle) if self._has_just_come(unit))
            self._victims = idle[: next(just_come, len(idle))]
        return [unit for unit in self._victims if self.result[unit].replicas]

    def _turn(self, unit: ScaleUnit) -> tuple[object, ...]:
        wanted = least_of(self.wished[unit].revision, unit) > 0
        return wanted, self.seen.demand(unit).used_at, unit

    def _idle(self, unit: ScaleUnit) -> bool:
        """It answers nobody, and nobody waits for it."""
        demand, wish = self.seen.demand(unit), self.wished.get(unit)
        return (
            wish is not None
            and wish.replicas > 0
            and not demand.busy
            and demand.waited_until <= self.seen.now
            and all(one.state is State.READY for one in self.working[unit])
        )

    def _has_just_come(self, unit: ScaleUnit) -> bool:
        latest = self.seen.now - self.settings.loaded_seconds
        return any(one.since > latest for one in self.working[unit])


def share_of(size: int, replicas: int) -> int:
    """What one of so many replicas takes of its process's memory, beside what every process takes."""
    return max(0, size - PROCESS_BYTES) // max(1, replicas)


def guess(artifact_bytes: int) -> int:
    """What a replica from an artifact of that size may take: its weights, and as much again to work with."""
    return 2 * artifact_bytes + (1 << 20)


def _shown(size: int) -> str:
    whole: Mapping[int, str] = {_GIB: "GiB", 1 << 20: "MiB", 1 << 10: "KiB"}
    for unit, name in whole.items():
        if size >= unit:
            return f"{size / unit:.4g} {name}"
    return f"{size} B"
