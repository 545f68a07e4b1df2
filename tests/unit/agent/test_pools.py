"""Who shares a process: decided over a simulated node until nothing moves any more."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace

import pytest
from hypothesis import given, strategies as st

from fairlead.agent.plan import wanted
from fairlead.agent.pools import processes_for
from fairlead.agent.settings import AgentSettings
from fairlead.agent.steps import (
    NO_FAILURE,
    Drain,
    Forget,
    GiveUp,
    Kill,
    Prove,
    Resume,
    Retire,
    Snapshot,
    Start,
    Step,
    Stop,
)
from fairlead.domain.catalog import Catalog, Line, Pin, Revision, Service
from fairlead.domain.ids import ArtifactRef, LineId, RevisionId
from fairlead.domain.release import EndpointSpec, TrafficShare
from fairlead.domain.scale_units import ScaleUnit
from fairlead.domain.status import GatewayStatus, Replica, State
from support.effort import effort
from support.planning import next_steps

NOW = 10_000.0
LONG_AGO = NOW - 5_000
PLENTY = AgentSettings(cores=2, pool_size=256)


def revision(number: int, scale: int = 1) -> Revision:
    return Revision(
        RevisionId(f"s{number:04d}", "v1", "1"),
        ArtifactRef("m", 1),
        f"sha256:{number:064x}",
        (EndpointSpec("predict", scale, scale),),
        "",
        0.0,
    )


def catalog_of(revisions: Iterable[Revision], generation: int = 1) -> Catalog:
    services = {}
    for one in revisions:
        line = Line(one.id.line_id, {"1": one}, (TrafficShare("1", 100),))
        services[one.id.service] = Service(one.id.service, {"v1": line}, Pin("v1", by_hand=False))
    return Catalog(generation, services)


@dataclass
class Node:
    """A node where everything works at once: what is started gets ready, what is asked to leave leaves."""

    revisions: list[Revision]
    settings: AgentSettings
    routed: bool = True
    now: float = NOW
    replicas: dict[str, Replica] = field(default_factory=dict)
    homes: dict[str, str] = field(default_factory=dict)
    asked: dict[str, float] = field(default_factory=dict)
    ended: set[str] = field(default_factory=set)
    proving: set[str] = field(default_factory=set)
    led: frozenset[LineId] | None = frozenset()
    light: frozenset[str] = frozenset()
    restless: frozenset[RevisionId] = frozenset()
    steps: list[Step] = field(default_factory=list)
    _names: int = 0

    def __post_init__(self) -> None:
        self.catalog = catalog_of(self.revisions)
        self.light = self.light or frozenset(one.digest for one in self.revisions)

    def process(
        self, revisions: Iterable[Revision], state: State = State.READY, since: float = LONG_AGO
    ) -> str:
        """A process with these."""
        home = ""
        for one in revisions:
            self._names += 1
            name = f"w{self._names:05d}"
            home = home or name
            self.replicas[name] = Replica(name, one.id, one.digest, state, since=since)
            self.homes[name] = home
        return home

    def snapshot(self) -> Snapshot:
        return Snapshot(
            now=self.now,
            catalog=self.catalog,
            catalog_since=LONG_AGO,
            gateway=self._gateway() if self.routed else None,
            gateway_at=self.now,
            replicas=tuple(self.replicas.values()),
            artifacts={one.digest: self.now for one in self.revisions},
            proving=frozenset(self.proving),
            asked=dict(self.asked),
            ended=frozenset(self.ended),
            homes=dict(self.homes),
            light=self.light,
            restless=self.restless,
            led=self.led,
        )

    def _gateway(self) -> GatewayStatus:
        ready = [one.worker for one in self.replicas.values() if one.state is State.READY]
        effective = {one.id.line_id: (TrafficShare("1", 100),) for one in self.revisions}
        return GatewayStatus(self.now, 1, self.catalog.generation, "", tuple(ready), effective)

    def tick(self, seconds: float = 1.0) -> list[Step]:
        """Do what is to be done, and let some time pass."""
        steps = next_steps(self.snapshot(), self.settings)
        for step in steps:
            self._do(step)
        self.now += seconds
        for name in list(self.replicas):
            if self.replicas[name].state is State.STARTING and name not in self.ended:
                self._became(name, State.PROVING)
        self.steps += steps
        return steps

    def _do(self, step: Step) -> None:
        match step:
            case Start(revisions):
                self.process(revisions, State.STARTING, self.now)
            case Prove(name):
                self.proving.discard(name)
                self._became(name, State.READY)
            case Resume(name):
                self._became(name, State.READY)
            case Drain(name):
                self._became(name, State.DRAINING)
            case Retire(name) | GiveUp(name):
                assert len(self.at(self.homes[name])) > 1, "the last one's process is stopped"
                self.ended.add(name)
            case Stop(process) | Kill(process):
                self.ended |= set(self.at(process))
            case Forget(name):
                del self.replicas[name], self.homes[name]
                self.ended.discard(name)
            case _:
                pytest.fail(f"{step} is not for this node")

    def _became(self, name: str, state: State) -> None:
        self.replicas[name] = replace(self.replicas[name], state=state, since=self.now)

    def at(self, process: str) -> list[str]:
        return [
            name for name, home in self.homes.items() if home == process and name not in self.ended
        ]

    def ready(self) -> set[RevisionId]:
        return {
            one.revision
            for one in self.replicas.values()
            if one.state is State.READY and one.worker not in self.ended
        }

    def sizes(self) -> list[int]:
        """How many replicas each process has."""
        there = {self.homes[name] for name in self.replicas if name not in self.ended}
        return sorted(len(self.at(home)) for home in there)

    def run(self, most: int = 400) -> None:
        """Until nothing has happened for long; whoever was ready stays so throughout."""
        calm = 0
        ready = self.ready()
        for _ in range(most):
            calm = 0 if self.tick() else calm + 1
            assert self.ready() >= ready, "somebody who served does not any more"
            ready = self.ready()
            if calm > 2 * self.settings.compact_seconds:
                return
        pytest.fail(f"it does not come to an end; last: {self.steps[-5:]}")


ALL = [revision(number) for number in range(60)]
STATES = st.sampled_from(
    [State.READY, State.READY, State.STARTING, State.PROVING, State.DRAINING, State.FAILED]
)


@st.composite
def nodes(draw: st.DrawFn) -> Node:
    revisions = ALL[: draw(st.integers(1, 24))]
    settings = AgentSettings(
        cores=draw(st.integers(1, 8)), pool_size=draw(st.integers(1, 9)), compact_seconds=5.0
    )
    node = Node(revisions, settings, routed=draw(st.booleans()))
    for _ in range(draw(st.integers(0, 12))):
        numbers = st.integers(0, len(revisions) - 1)
        there = [
            revisions[at]
            for at in draw(st.lists(numbers, min_size=1, max_size=settings.pool_size, unique=True))
        ]
        state, age = draw(STATES), draw(st.floats(0, 100))
        home = node.process(there, state, NOW - age)
        for name in node.at(home)[1:]:
            if draw(st.integers(0, 3)) == 0:
                node.replicas[name] = replace(node.replicas[name], state=draw(STATES))
    return node


@given(node=nodes())
@effort(120)
def test_from_any_state_it_comes_to_the_fewest_processes_and_rests(node: Node) -> None:
    node.run()
    assert node.ready() == {one.id for one in node.revisions}
    assert len(node.replicas) == len(node.revisions), "one replica each"
    sizes = node.sizes()
    assert len(sizes) <= processes_for([one.id for one in node.revisions], node.settings)
    assert max(sizes) <= node.settings.pool_size


def test_what_comes_up_together_shares_processes() -> None:
    node = Node([revision(number) for number in range(600)], PLENTY)
    (first, second, third) = [
        step for step in node.tick() + node.tick() + node.tick() if isinstance(step, Start)
    ]
    assert [len(one.revisions) for one in (first, second, third)] == [200, 200, 200]
    assert first.revisions == tuple(node.revisions[:200]), "neighbours stay together"


def test_both_sides_of_a_split_share_one_process() -> None:
    one, two = (replace(revision(0), id=RevisionId("digits", "v1", tag)) for tag in "12")
    line = Line(
        one.id.line_id, {"1": one, "2": two}, (TrafficShare("1", 90), TrafficShare("2", 10))
    )
    node = Node([one, two], replace(PLENTY, cores=64))
    node.catalog = Catalog(1, {"digits": Service("digits", {"v1": line}, Pin("v1", by_hand=False))})
    assert node.tick() == [Start((one, two))]


def test_a_change_gets_a_process_of_its_own_and_joins_the_others_when_it_is_calm() -> None:
    node = Node(ALL[:5], PLENTY)
    node.process(ALL[:4])
    assert node.tick() == [Start((ALL[4],))]
    for _ in range(5):
        node.tick()
    assert node.sizes() == [1, 4]
    node.run()
    assert node.sizes() == [5]
    assert [step for step in node.steps if isinstance(step, Start)][1:] == [
        Start(tuple(ALL[:5]), compaction=True)
    ]


def test_compaction_takes_the_smallest_and_leaves_the_large_alone() -> None:
    node = Node(ALL[:9], AgentSettings(cores=4, pool_size=256))
    for group in (ALL[:6], ALL[6:8], ALL[8:9]):
        node.process(group)
    assert node.tick() == [Start(tuple(ALL[6:9]), compaction=True)]


MOVING = {
    "the gateway has not read the catalog": lambda node: replace(
        node, gateway=replace(node.gateway, generation=0)
    ),
    "the gateway moves traffic": lambda node: replace(
        node, gateway=replace(node.gateway, coming=("w00001",))
    ),
    "the catalog has just changed": lambda node: replace(node, catalog_since=NOW - 9),
    "nobody knows what a rollout leads": lambda node: replace(node, led=None),
    "a rollout leads the line of one of two": lambda node: replace(
        node, led=frozenset({ALL[0].id.line_id})
    ),
    "an artifact is on its way": lambda node: replace(node, pulling=frozenset({"sha256:1"})),
    "a compaction has failed": lambda node: replace(node, compaction_failed_at=NOW - 599),
    "one has just become ready": lambda node: replace(
        node, replicas=(replace(node.replicas[0], since=NOW - 9), *node.replicas[1:])
    ),
    "one of two is too large": lambda node: replace(node, light=frozenset({ALL[0].digest})),
    "one of two has died in company twice": lambda node: replace(
        node, restless=frozenset({ALL[0].id})
    ),
}


@pytest.mark.parametrize("change", MOVING.values(), ids=MOVING.keys())
def test_nothing_is_tidied_up_while(change: object) -> None:
    node = Node(ALL[:2], PLENTY)
    node.process(ALL[:1])
    node.process(ALL[1:2])
    calm = node.snapshot()
    assert next_steps(calm, PLENTY) == [Start(tuple(ALL[:2]), compaction=True)]
    assert next_steps(change(calm), PLENTY) == []  # type: ignore[operator]


def test_code_large_ones_many_replicas_and_the_restless_stay_alone() -> None:
    there = [*ALL[:3], revision(3, scale=2), *ALL[4:6]]
    node = Node(there, AgentSettings(cores=9, pool_size=256))
    node.light = node.light - {there[0].digest}
    node.restless = frozenset({there[1].id})
    starts = [step for step in node.tick() if isinstance(step, Start)]
    assert sorted(len(step.revisions) for step in starts) == [1] * 7
    node.settings = replace(node.settings, cores=2)
    node.replicas.clear()
    node.homes.clear()
    starts = [step for _ in range(8) for step in node.tick() if isinstance(step, Start)]
    assert Start((there[2], there[4], there[5])) in starts


def test_one_that_failed_leaves_and_its_neighbours_stay() -> None:
    node = Node(ALL[:3], PLENTY)
    home = node.process(ALL[:3])
    failed = node.at(home)[1]
    node.replicas[failed] = replace(node.replicas[failed], state=State.FAILED)
    snapshot = replace(
        node.snapshot(), failures={ScaleUnit(ALL[1].id): NO_FAILURE.again("wrong", NOW, hard=True)}
    )
    assert next_steps(snapshot, PLENTY) == [Retire(failed)]
    late = replace(snapshot, asked={failed: NOW - 3})
    assert next_steps(late, PLENTY) == [GiveUp(failed)]


def test_a_process_of_which_all_leave_is_stopped_and_at_last_killed() -> None:
    node = Node(ALL[:2], PLENTY)
    home = node.process(ALL[:2], State.FAILED)
    failures = {ScaleUnit(one.id): NO_FAILURE.again("hangs", NOW, hard=True) for one in ALL[:2]}
    snapshot = replace(node.snapshot(), failures=failures)
    assert next_steps(snapshot, PLENTY) == [Stop(home)]
    asked = dict.fromkeys(node.at(home), NOW - 1.9)
    assert next_steps(replace(snapshot, asked=asked), PLENTY) == []
    asked = dict.fromkeys(node.at(home), NOW - 2)
    assert next_steps(replace(snapshot, asked=asked), PLENTY) == [Kill(home)]


def test_small_ones_wait_a_moment_for_those_whose_artifacts_are_on_their_way() -> None:
    node = Node(ALL[:2], PLENTY)
    fresh = replace(
        node.snapshot(),
        catalog_since=NOW - 0.5,
        pulled_at=NOW - 0.1,
        artifacts={ALL[0].digest: NOW},
        pulling=frozenset({ALL[1].digest}),
    )
    assert next_steps(fresh, PLENTY) == []
    assert next_steps(fresh, replace(PLENTY, pool_size=1)) == [Start((ALL[0],))]
    assert next_steps(replace(fresh, pulled_at=NOW - 0.5), PLENTY) == [Start((ALL[0],))]
    assert next_steps(replace(fresh, catalog_since=NOW - 30), PLENTY) == [Start((ALL[0],))]


def test_the_decision_for_a_thousand_replicas_takes_milliseconds() -> None:
    node = Node([revision(number) for number in range(1_000)], PLENTY)
    for low in range(0, 1_000, 250):
        node.process(node.revisions[low : low + 250])
    snapshot = node.snapshot()
    calls = 0

    class Counted(dict[str, str]):
        def get(self, key: str, default: str | None = None) -> str:  # type: ignore[override]
            nonlocal calls
            calls += 1
            return super().get(key) or key

    next_steps(replace(snapshot, homes=Counted(snapshot.homes)), PLENTY)
    assert calls <= 5 * 1_000, "linear: each replica is looked at a few times"
    assert len(wanted(snapshot, PLENTY)) == 1_000
