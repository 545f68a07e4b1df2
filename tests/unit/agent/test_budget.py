"""What fits into a memory budget: tables, and a simulated node of many services."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace

import pytest
from hypothesis import given, settings as hypothesis_settings, strategies as st

from fairlead.agent.budget import PROCESS_BYTES
from fairlead.agent.plan import decide
from fairlead.agent.settings import AgentSettings
from fairlead.agent.steps import (
    CleanUp,
    Demand,
    Drain,
    Forget,
    GiveUp,
    Kill,
    Prove,
    Pull,
    Resume,
    Retire,
    Snapshot,
    Start,
    Step,
    Stop,
)
from fairlead.domain.catalog import Catalog, Line, Pin, Revision, Service
from fairlead.domain.ids import ArtifactRef, RevisionId
from fairlead.domain.release import EndpointSpec, TrafficShare
from fairlead.domain.scale_units import ScaleUnit
from fairlead.domain.status import GatewayStatus, Replica, State

NOW = 10_000.0
MIB = 1 << 20
EACH = 20 * MIB  # of a replica, beside its process


def revision(number: int, least: int = 0, most: int = 1) -> Revision:
    return Revision(
        RevisionId(f"s{number:04d}", "v1", "1"),
        ArtifactRef("m", 1),
        f"sha256:{number:064x}",
        (EndpointSpec("predict", least, most, 1),),
        "",
        0.0,
    )


def unit(one: Revision) -> ScaleUnit:
    return ScaleUnit(one.id)


@dataclass
class Node:
    """A node with memory, where what is started gets ready and what is asked to leave leaves."""

    revisions: list[Revision]
    settings: AgentSettings
    shared: bool = False
    each: int = EACH
    now: float = NOW
    replicas: dict[str, Replica] = field(default_factory=dict)
    homes: dict[str, str] = field(default_factory=dict)
    sizes: dict[str, int] = field(default_factory=dict)  # what each process ever had loaded
    asked: dict[str, float] = field(default_factory=dict)
    ended: set[str] = field(default_factory=set)
    demands: dict[ScaleUnit, Demand] = field(default_factory=dict)
    needs: dict[str, int] = field(default_factory=dict)
    cold: frozenset[ScaleUnit] = frozenset()
    went: dict[ScaleUnit, int] = field(default_factory=dict)  # how often each was unloaded
    gateway: GatewayStatus | None = None
    _names: int = 0

    def __post_init__(self) -> None:
        services = {}
        for one in self.revisions:
            line = Line(one.id.line_id, {"1": one}, (TrafficShare("1", 100),))
            pin = Pin("v1", by_hand=False)
            services[one.id.service] = Service(one.id.service, {"v1": line}, pin)
        self.catalog = Catalog(1, services)
        for one in self.revisions:
            self.needs.setdefault(one.digest, self.each)

    def snapshot(self) -> Snapshot:
        every = frozenset(one.digest for one in self.revisions)
        return Snapshot(
            now=self.now,
            catalog=self.catalog,
            catalog_since=NOW - 5_000,
            gateway=self.gateway,
            gateway_at=self.now,
            replicas=tuple(self.replicas.values()),
            artifacts=dict.fromkeys(every, self.now),
            asked=dict(self.asked),
            ended=frozenset(self.ended),
            homes=dict(self.homes),
            light=every if self.shared else frozenset(),
            demands=dict(self.demands),
            memory=self.memory(),
            needs=self.needs,
            led=frozenset(),
        )

    def memory(self) -> dict[str, int]:
        """As it is measured: what a process once had loaded stays with it."""
        there = {home for name, home in self.homes.items() if name not in self.ended}
        return {home: PROCESS_BYTES + self.sizes[home] for home in there}

    def of(self, one: Revision) -> Demand:
        return self.demands.get(unit(one), Demand())

    def note(self, one: Revision, **changes: object) -> None:
        self.demands[unit(one)] = replace(self.of(one), **changes)  # type: ignore[arg-type]

    def ask(self, one: Revision) -> None:
        """Somebody waits for it, or is answered at once."""
        self.note(one, waited_until=self.now + 30)

    def tick(self, seconds: float = 1.0) -> list[Step]:
        """Look once, do it, and let time pass."""
        # The gateway leads to whoever is ready, a moment later than the status says it.
        ready = [one.worker for one in self.replicas.values() if one.state is State.READY]
        effective = {one.id.line_id: (TrafficShare("1", 100),) for one in self.revisions}
        self.gateway = GatewayStatus(self.now, 1, 1, "", tuple(ready), effective)
        plan = decide(self.snapshot(), self.settings)
        for step in plan.steps:
            self._do(step)
        for gone in plan.cold - self.cold:
            self.went[gone] = self.went.get(gone, 0) + 1
            self.demands[gone] = replace(self.demands.get(gone, Demand()), desired=None)
        self.cold = plan.cold
        for one in self.revisions:
            self.note(one, cold=unit(one) in plan.cold)
        self.now += seconds
        self.steps_checked()
        return list(plan.steps)

    def steps_checked(self) -> None:
        budget = self.settings.memory_budget_bytes
        taken = sum(self.memory().values())
        assert taken <= budget, f"{taken / MIB:.0f} MiB of {budget / MIB:.0f}"

    def _do(self, step: Step) -> None:
        match step:
            case Start(revisions):
                self._start(revisions)
            case Prove(name):
                self._ready(name)
            case Resume(name):
                self._became(name, State.READY)
            case Drain(name):
                demand = self.demands[self.replicas[name].unit]
                assert not demand.busy, "whoever answers somebody stays"
                assert demand.waited_until <= self.now, "whoever is waited for stays"
                assert self.now - self.replicas[name].since >= self.settings.loaded_seconds
                self._became(name, State.DRAINING)
            case Retire(name) | GiveUp(name):
                self.ended.add(name)
            case Stop(process) | Kill(process):
                self.ended |= {one for one, home in self.homes.items() if home == process}
            case Forget(name):
                del self.replicas[name], self.homes[name]
                self.ended.discard(name)
            case Pull() | CleanUp():
                pytest.fail(f"{step} is not for this node")

    def _start(self, revisions: Iterable[Revision]) -> None:
        home = ""
        for one in revisions:
            self._names += 1
            name = f"w{self._names:05d}"
            home = home or name
            self.replicas[name] = Replica(name, one.id, one.digest, State.PROVING, since=self.now)
            self.homes[name] = home
            self.sizes[home] = self.sizes.get(home, 0) + self.each

    def _ready(self, name: str) -> None:
        self._became(name, State.READY)
        of = self.replicas[name].unit
        before = self.demands.get(of, Demand())
        # He who waited has his answer.
        self.demands[of] = replace(before, proved=True, used_at=self.now, waited_until=0.0)

    def _became(self, name: str, state: State) -> None:
        self.replicas[name] = replace(self.replicas[name], state=state, since=self.now)

    def loaded(self) -> set[ScaleUnit]:
        return {
            one.unit
            for one in self.replicas.values()
            if one.state is State.READY and one.worker not in self.ended
        }


def node(count: int, room: int, least: int = 0, **changes: object) -> Node:
    """So many services, and memory for so many of them, each in a process of its own."""
    budget = room * (PROCESS_BYTES + EACH)
    settings = AgentSettings(cores=4, memory_budget_bytes=budget, retire_pause_seconds=0.0)
    return Node([revision(number, least) for number in range(count)], settings, **changes)  # type: ignore[arg-type]


def run(there: Node, ticks: int) -> None:
    for _ in range(ticks):
        there.tick()


def test_what_does_not_fit_at_the_start_is_cold_and_nothing_moves_any_more() -> None:
    there = node(10, 4, least=1)
    run(there, 20)
    assert len(there.loaded()) == 4
    assert there.cold == {unit(one) for one in there.revisions} - there.loaded()
    assert [step for _ in range(50) for step in there.tick()] == []
    plan = decide(there.snapshot(), there.settings)
    why = {wish.why for of, wish in plan.wished.items() if of in there.cold}
    assert why == {
        "the memory budget of 256 MiB is full; minScale 1 has to wait; it comes up when somebody asks"
    }


def test_the_least_recently_used_makes_room() -> None:
    there = node(5, 4)
    run(there, 20)
    asked = next(one for one in there.revisions if unit(one) in there.cold)
    oldest = there.revisions[2]
    for one in there.revisions:
        there.note(one, used_at=there.now - (100 if one is oldest else 50))
    there.ask(asked)
    run(there, 6)
    assert unit(asked) in there.loaded()
    assert there.cold == {unit(oldest)}


def test_what_need_not_be_loaded_goes_before_what_should_be() -> None:
    there = node(3, 2)
    there.revisions[0] = revision(0, least=1)
    there.__post_init__()
    run(there, 20)
    assert unit(there.revisions[0]) in there.loaded(), "whatever should be loaded comes up first"
    there.note(there.revisions[0], used_at=0.0)
    asked = next(one for one in there.revisions if unit(one) in there.cold)
    there.ask(asked)
    run(there, 6)
    assert there.loaded() == {unit(there.revisions[0]), unit(asked)}
    other = next(one for one in there.revisions if unit(one) in there.cold)
    there.note(asked, busy=True)
    there.ask(other)
    plan = decide(there.snapshot(), there.settings)
    assert Drain("w00001") not in plan.steps or there.now - NOW > 5
    run(there, 10)
    assert there.loaded() == {unit(other), unit(asked)}, "there was no other way"
    wish = decide(there.snapshot(), there.settings).wished[unit(there.revisions[0])]
    assert "minScale 1 has to wait" in wish.why


def test_whoever_waits_is_held_while_everybody_works() -> None:
    there = node(3, 2)
    run(there, 20)
    for one in there.revisions:
        there.note(one, busy=unit(one) in there.loaded())
    before = there.loaded()
    asked = next(one for one in there.revisions if unit(one) in there.cold)
    there.ask(asked)
    run(there, 5)
    assert there.loaded() == before
    wish = decide(there.snapshot(), there.settings).wished[unit(asked)]
    assert wish.replicas == 1
    assert wish.why == "the memory budget of 128 MiB is full; it waits until others have gone"
    done = next(one for one in there.revisions if unit(one) in before)
    there.note(done, busy=False)
    run(there, 4)
    assert unit(asked) in there.loaded()


def test_what_has_grown_over_the_budget_shrinks() -> None:
    there = node(4, 4)
    run(there, 20)
    assert len(there.loaded()) == 4
    there.sizes["w00002"] += EACH
    grown = there.snapshot()
    assert sum(grown.memory.values()) > there.settings.memory_budget_bytes
    drains = [step for step in decide(grown, there.settings).steps if isinstance(step, Drain)]
    assert len(drains) == 1


def test_one_that_is_larger_than_the_budget_comes_up_alone() -> None:
    there = node(3, 2)
    huge = there.revisions[2]
    there.needs = {**there.needs, huge.digest: there.settings.memory_budget_bytes}
    run(there, 20)
    assert there.cold == {unit(huge)}
    there.ask(huge)
    steps = [step for _ in range(8) for step in there.tick()]
    assert Start((huge,)) in steps
    assert there.loaded() == {unit(huge)}


def test_without_a_budget_nothing_is_held() -> None:
    there = node(10, 1)
    there.settings = replace(there.settings, memory_budget_bytes=0)
    wished = decide(there.snapshot(), there.settings).wished
    assert {wish.replicas for wish in wished.values()} == {1}


@given(
    count=st.integers(1, 12),
    room=st.integers(1, 6),
    least=st.lists(st.integers(0, 1), min_size=12, max_size=12),
    asks=st.lists(
        st.tuples(st.integers(0, 11), st.booleans(), st.integers(1, 9)), min_size=1, max_size=25
    ),
)
@hypothesis_settings(max_examples=40, deadline=None)
def test_whatever_is_asked_comes_up_and_the_budget_is_kept(
    count: int, room: int, least: list[int], asks: list[tuple[int, bool, int]]
) -> None:
    there = node(count, room)
    there.revisions = [revision(number, least[number]) for number in range(count)]
    there.__post_init__()
    run(there, 10)
    busy: list[Revision] = []
    for number, works, seconds in asks:
        asked = there.revisions[number % count]
        there.note(asked, used_at=there.now)
        if unit(asked) not in there.loaded():
            there.ask(asked)
        # Whoever works does not for ever, and never everybody: somebody can go.
        for one in busy[: max(0, len(busy) + 2 - room)]:
            there.note(one, busy=False)
            busy.remove(one)
        for _ in range(10):
            there.tick(1.0)
            if unit(asked) in there.loaded():
                break
        assert unit(asked) in there.loaded(), "one that is asked is loaded"
        if works and room > 1 and asked not in busy:
            there.note(asked, busy=True)
            busy.append(asked)
        run(there, seconds)
    went = dict(there.went)
    run(there, 100)
    new = sum(there.went.values()) - sum(went.values())
    assert new <= 1, "by itself nothing goes back and forth"


def test_a_thousand_services_live_in_memory_for_a_hundred() -> None:
    there = node(1_000, 100, least=1)
    there.settings = replace(there.settings, cores=100)
    while len(there.loaded()) < 100:
        there.tick()
    assert len(there.cold) == 900
    for turn in range(2):
        asked = [there.revisions[(turn * 37 + nth * 331) % 1_000] for nth in range(8)]
        for one in asked:
            there.note(one, used_at=there.now)
            if unit(one) not in there.loaded():
                there.ask(one)
        for _ in range(8):
            there.tick()
        assert {unit(one) for one in asked} <= there.loaded()
    assert 100 - 8 <= len(there.loaded()) <= 100


def test_small_ones_share_what_a_process_costs() -> None:
    there = node(100, 4, shared=True, each=MIB)
    run(there, 10)
    assert len(there.loaded()) == 100
