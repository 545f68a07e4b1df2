"""Decisions, as tables: a snapshot, and the steps it must give."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, strategies as st

from fairlead.agent.plan import wanted
from fairlead.agent.scales import wishes
from fairlead.agent.settings import AgentSettings
from fairlead.agent.steps import (
    NO_FAILURE,
    CleanUp,
    Drain,
    Failure,
    Forget,
    Kill,
    Prove,
    Pull,
    Resume,
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

SETTINGS = AgentSettings(
    pulls_ahead=0, cores=2, retire_pause_seconds=1.0, drain_seconds=10.0, stop_grace_seconds=2.0
)
NOW = 1_000.0
LINE = LineId("digits", "v1")
A, B = "sha256:" + "a" * 64, "sha256:" + "b" * 64


def revision(tag: str, digest: str = A, scale: int = 1, line: LineId = LINE) -> Revision:
    return Revision(
        RevisionId(line.service, line.line, tag),
        ArtifactRef(line.service, int(tag)),
        digest,
        (EndpointSpec("predict", scale, scale),),
        "",
        0.0,
    )


ONE, TWO = revision("1", A), revision("2", B)


def catalog(traffic: Mapping[str, int], *revisions: Revision, generation: int = 5) -> Catalog:
    known = revisions or (ONE, TWO)
    shares = tuple(TrafficShare(tag, percent) for tag, percent in traffic.items())
    line = Line(LINE, {one.id.revision: one for one in known}, shares)
    service = Service("digits", {"v1": line}, Pin("v1", by_hand=False))
    return Catalog(generation, {"digits": service})


def worker(name: str, of: Revision, state: State = State.READY, since: float = NOW - 60) -> Replica:
    return Replica(name, of.id, of.digest, state, since=since)


def gateway(*workers: str, routes: Mapping[str, int], generation: int = 5) -> GatewayStatus:
    shares = tuple(TrafficShare(tag, percent) for tag, percent in routes.items())
    return GatewayStatus(0.0, 1, generation, "", workers, {LINE: shares})


def seen(**changes: Any) -> Snapshot:
    base = Snapshot(
        now=NOW,
        catalog=catalog({"1": 100}),
        catalog_since=NOW - 60,
        gateway_at=NOW - 0.5,
        artifacts={A: NOW, B: NOW},
    )
    return replace(base, **changes)


CASES: dict[str, tuple[Snapshot, list[Step]]] = {
    "a missing artifact is pulled": (seen(artifacts={}), [Pull(ONE.artifact, A)]),
    "an artifact on its way is not pulled twice": (seen(artifacts={}, pulling=frozenset({A})), []),
    "an artifact that could not be pulled waits for its pause": (
        seen(artifacts={}, pull_failures={A: Failure("away", NOW - 0.5, 4)}),
        [],
    ),
    "and is pulled again after it": (
        seen(artifacts={}, pull_failures={A: Failure("away", NOW - 1.0, 4)}),
        [Pull(ONE.artifact, A)],
    ),
    "no more pulls at once than allowed": (
        seen(artifacts={}, pulling=frozenset({"x", "y"})),
        [],
    ),
    "a pulled artifact gets its worker": (seen(), [Start((ONE,))]),
    "a worker that loads is left alone": (seen(replicas=(worker("w", ONE, State.STARTING),)), []),
    "a loaded worker is proved": (
        seen(replicas=(worker("w", ONE, State.PROVING),)),
        [Prove("w")],
    ),
    "but only once": (
        seen(replicas=(worker("w", ONE, State.PROVING),), proving=frozenset({"w"})),
        [],
    ),
    "a ready worker is all that is wanted": (seen(replicas=(worker("w", ONE),)), []),
    "every revision gets a worker before any gets its second": (
        seen(catalog=catalog({"1": 50, "2": 50}, revision("1", A, 3), revision("2", B, 3))),
        [Start((revision("1", A, 3),)), Start((revision("2", B, 3),))],
    ),
    "no more workers come up at once than there are cores": (
        seen(
            catalog=catalog({"1": 100}, revision("1", A, 5)),
            replicas=(worker("w", ONE, State.STARTING), worker("v", ONE)),
        ),
        [Start((revision("1", A, 5),))],
    ),
    "a dead worker is forgotten and replaced at once": (
        seen(
            replicas=(worker("w", ONE, State.FAILED),),
            ended=frozenset({"w"}),
            failures={ScaleUnit(ONE.id): Failure("died", NOW)},
        ),
        [Forget("w"), Start((ONE,))],
    ),
    "one that failed is stopped and tried again after its pause": (
        seen(
            replicas=(worker("w", ONE, State.FAILED),),
            failures={ScaleUnit(ONE.id): NO_FAILURE.again("wrong answer", NOW, hard=True)},
        ),
        [Stop("w")],
    ),
    "one that failed and does not stop is killed": (
        seen(
            replicas=(worker("w", ONE, State.FAILED),),
            asked={"w": NOW - 2.0},
            failures={ScaleUnit(ONE.id): NO_FAILURE.again("wrong answer", NOW, hard=True)},
        ),
        [Kill("w")],
    ),
    "the old revision stays while the gateway routes it": (
        seen(
            catalog=catalog({"2": 100}),
            replicas=(worker("old", ONE), worker("new", TWO)),
            gateway=gateway("old", routes={"1": 100}),
        ),
        [],
    ),
    "it stays while only its traffic flows there and its worker has just been replaced": (
        seen(
            catalog=catalog({"2": 100}),
            replicas=(worker("old", ONE), worker("new", TWO)),
            gateway=gateway(routes={"1": 100}),
        ),
        [],
    ),
    "a worker of it that died is replaced": (
        seen(
            catalog=catalog({"2": 100}),
            replicas=(worker("new", TWO, State.STARTING),),
            gateway=gateway(routes={"1": 100}),
        ),
        [Start((ONE,))],
    ),
    "it drains when the gateway has left it": (
        seen(
            catalog=catalog({"2": 100}),
            replicas=(worker("old", ONE), worker("new", TWO)),
            gateway=gateway("new", routes={"2": 100}),
        ),
        [Drain("old")],
    ),
    "not while the gateway still knows its worker": (
        seen(
            catalog=catalog({"2": 100}),
            replicas=(worker("old", ONE), worker("new", TWO)),
            gateway=gateway("old", "new", routes={"2": 100}),
        ),
        [],
    ),
    "nor on the word of a gateway that has not read this catalog": (
        seen(
            catalog=catalog({"2": 100}),
            replicas=(worker("old", ONE), worker("new", TWO)),
            gateway=gateway("new", routes={"2": 100}, generation=4),
        ),
        [],
    ),
    "a draining worker nobody is routed to is stopped": (
        seen(
            catalog=catalog({"2": 100}),
            replicas=(worker("old", ONE, State.DRAINING, NOW), worker("new", TWO)),
            gateway=gateway("new", routes={"2": 100}),
        ),
        [Stop("old")],
    ),
    "one that somebody is routed to is not": (
        seen(
            catalog=catalog({"2": 100}),
            replicas=(worker("old", ONE, State.DRAINING), worker("new", TWO)),
            gateway=gateway("old", "new", routes={"2": 100}),
        ),
        [],
    ),
    "a stopped worker gets the time to finish what it has": (
        seen(
            replicas=(worker("w", ONE), worker("v", ONE, State.DRAINING)), asked={"v": NOW - 11.9}
        ),
        [],
    ),
    "and no more": (
        seen(
            replicas=(worker("w", ONE), worker("v", ONE, State.DRAINING)), asked={"v": NOW - 12.0}
        ),
        [Kill("v")],
    ),
    "without a gateway the old one stays until the new one is ready": (
        seen(
            catalog=catalog({"2": 100}),
            replicas=(worker("old", ONE), worker("new", TWO, State.STARTING)),
        ),
        [],
    ),
    "and a moment longer": (
        seen(
            catalog=catalog({"2": 100}),
            replicas=(worker("old", ONE), worker("new", TWO, State.READY, NOW - 0.9)),
        ),
        [],
    ),
    "then it drains": (
        seen(
            catalog=catalog({"2": 100}),
            replicas=(worker("old", ONE), worker("new", TWO, State.READY, NOW - 1.0)),
        ),
        [Drain("old")],
    ),
    "a gateway that has been silent for long still routes what it said last": (
        seen(
            catalog=catalog({"2": 100}),
            replicas=(worker("old", ONE), worker("new", TWO)),
            gateway=gateway("old", routes={"1": 100}, generation=4),
            gateway_at=NOW - 3_600,
        ),
        [],
    ),
    "and the drain of a worker it lists does not go on": (
        seen(
            replicas=(worker("w", ONE), worker("v", ONE, State.DRAINING)),
            gateway=gateway("v", "w", routes={"1": 100}),
            gateway_at=NOW - 3_600,
        ),
        [],
    ),
    "a surplus worker drains, the youngest first": (
        seen(
            replicas=(worker("young", ONE, since=NOW - 1), worker("old", ONE, since=NOW - 9)),
            gateway=gateway("young", "old", routes={"1": 100}),
        ),
        [Drain("young")],
    ),
    "it is stopped only when the gateway had the time to notice": (
        seen(
            replicas=(worker("old", ONE), worker("young", ONE, State.DRAINING, NOW - 1)),
            gateway=gateway("old", routes={"1": 100}),
        ),
        [],
    ),
    "which a second is": (
        seen(
            replicas=(worker("old", ONE), worker("young", ONE, State.DRAINING, NOW - 2)),
            gateway=gateway("old", routes={"1": 100}),
        ),
        [Stop("young")],
    ),
    "a worker of what its name meant before makes room": (
        seen(
            catalog=catalog({"1": 100}, revision("1", B)),
            replicas=(worker("w", ONE),),
            gateway=gateway(routes={}),
        ),
        [Drain("w"), Start((revision("1", B),))],
    ),
    "but not before nobody is sent to it": (
        seen(
            catalog=catalog({"1": 100}, revision("1", B)),
            replicas=(worker("w", ONE),),
            gateway=gateway("w", routes={"1": 100}),
        ),
        [Start((revision("1", B),))],
    ),
    "an artifact that no revision names any more is removed soon": (
        seen(
            catalog=catalog({"1": 100}, ONE),
            replicas=(worker("w", ONE),),
            artifacts={A: NOW, B: NOW - 1},
        ),
        [CleanUp(B)],
    ),
    "an unused artifact is removed after its grace": (
        seen(replicas=(worker("w", ONE),), artifacts={A: NOW - 9_999, B: NOW - 600}),
        [CleanUp(B)],
    ),
    "not before": (
        seen(replicas=(worker("w", ONE),), artifacts={A: NOW, B: NOW - 599}),
        [],
    ),
    "nor while a worker of it still runs": (
        seen(
            replicas=(worker("w", ONE), worker("v", TWO, State.DRAINING)),
            asked={"v": NOW},
            artifacts={A: NOW, B: NOW - 9_999},
        ),
        [],
    ),
    "a service that is gone takes its workers along": (
        seen(
            catalog=Catalog(6),
            replicas=(worker("w", ONE),),
            gateway=gateway(routes={}, generation=6),
        ),
        [Drain("w")],
    ),
}


@pytest.mark.parametrize(("snapshot", "steps"), CASES.values(), ids=CASES.keys())
def test_steps(snapshot: Snapshot, steps: list[Step]) -> None:
    assert next_steps(snapshot, SETTINGS) == steps
    assert next_steps(snapshot, SETTINGS) == steps, "deciding changes nothing"


def test_pauses_grow_to_half_a_minute_and_the_first_deaths_have_none() -> None:
    death, pauses = NO_FAILURE, []
    for _ in range(10):
        death = death.again("died", NOW, hard=False)
        pauses.append(death.retry_at - NOW)
    assert pauses == [0, 0, 0, 1, 2, 4, 8, 16, 30, 30]
    assert NO_FAILURE.again("wrong", NOW, hard=True).retry_at - NOW == 1
    assert replace(death, count=5_000).retry_at - NOW == 30


@pytest.mark.parametrize(("scale", "workers"), [(0, 1), (1, 1), (4, 4), (10_000, 16)])
def test_replicas_follow_the_release_within_bounds(scale: int, workers: int) -> None:
    one = revision("1", scale=scale)
    wished = wishes(seen(), {one.id: one}, SETTINGS)
    assert wished[ScaleUnit(one.id)].replicas == workers


STATES = st.sampled_from(list(State))
REPLICAS = st.lists(
    st.builds(
        lambda number, which, state, age: Replica(
            f"w{number}", (ONE, TWO)[which].id, (A, B)[which], state, since=NOW - age
        ),
        st.integers(0, 5),
        st.integers(0, 1),
        STATES,
        st.floats(0, 100),
    ),
    max_size=5,
    unique_by=lambda replica: replica.worker,
)


@given(
    replicas=REPLICAS,
    routed=st.sets(st.sampled_from([f"w{number}" for number in range(6)])),
    routes=st.sampled_from([{"1": 100}, {"2": 100}, {"1": 90, "2": 10}, {}]),
    wish=st.sampled_from([{"1": 100}, {"2": 100}, {"1": 90, "2": 10}]),
    age=st.floats(0, 10_000),
    generation=st.integers(4, 6),
)
@effort(150)
def test_whatever_is_seen_a_routed_worker_is_never_stopped(
    replicas: list[Replica],
    routed: set[str],
    routes: dict[str, int],
    wish: dict[str, int],
    age: float,
    generation: int,
) -> None:
    snapshot = seen(
        catalog=catalog(wish),
        replicas=tuple(replicas),
        gateway=gateway(*sorted(routed), routes=routes, generation=generation),
        gateway_at=NOW - age,
    )
    steps = next_steps(snapshot, SETTINGS)
    states = {replica.worker: replica.state for replica in replicas}
    needed = wanted(snapshot, SETTINGS)
    for step in steps:
        if isinstance(step, Stop):
            assert step.process not in routed or states[step.process] is State.FAILED
        if isinstance(step, Drain):
            left = [
                replica
                for replica in replicas
                if replica.revision
                == next(one.revision for one in replicas if one.worker == step.worker)
                and (replica.state is State.READY or Resume(replica.worker) in steps)
                and Drain(replica.worker) not in steps
            ]
            gone = next(one for one in replicas if one.worker == step.worker).revision not in needed
            assert gone or left, "the last ready worker of a wanted revision stays"
    starting = [replica for replica in replicas if replica.state in (State.STARTING, State.PROVING)]
    starts = [step for step in steps if isinstance(step, Start)]
    assert len(starts) <= max(0, SETTINGS.cores - len(starting))
