"""How many replicas each unit should have, when it goes cold, and when it comes back: decisions as tables."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from fairlead.agent.plan import decide
from fairlead.agent.settings import AgentSettings
from fairlead.agent.steps import (
    NO_FAILURE,
    Demand,
    Drain,
    Prove,
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
from support.planning import next_steps

SETTINGS = AgentSettings(cores=8, max_replicas=8)
NOW = 1_000.0
LINE = LineId("speech", "v1")
ID = RevisionId("speech", "v1", "1")
DIGEST = "sha256:" + "a" * 64
STREAM = EndpointSpec("stream", 0, 4, 1)
VALIDATE = EndpointSpec("validate", 1, 2, 4)
WHOLE = ScaleUnit(ID)
S, V = ScaleUnit(ID, "stream"), ScaleUnit(ID, "validate")
SLEEPY = EndpointSpec("predict", 0, 4, 1)
PROVED = Demand(proved=True)
COLD = Demand(proved=True, cold=True)


def revision(*endpoints: EndpointSpec, tag: str = "1") -> Revision:
    identity = replace(ID, revision=tag)
    return Revision(identity, ArtifactRef("speech", 1), DIGEST, endpoints, "", 0.0)


ONE = revision(SLEEPY)
APART = revision(STREAM, VALIDATE)


def catalog(one: Revision) -> Catalog:
    line = Line(LINE, {"1": one}, (TrafficShare("1", 100),))
    return Catalog(5, {"speech": Service("speech", {"v1": line}, Pin("v1", by_hand=False))})


def worker(
    name: str, state: State = State.READY, serves: str = "", since: float = NOW - 90
) -> Replica:
    return Replica(name, ID, DIGEST, state, since=since, endpoint=serves)


def seen(one: Revision, *replicas: Replica, **changes: Any) -> Snapshot:
    """A gateway routes to every replica that is ready, unless told otherwise."""
    ready = tuple(found.worker for found in replicas if found.state is State.READY)
    base = Snapshot(
        now=NOW,
        catalog=catalog(one),
        catalog_since=NOW - 90,
        gateway=GatewayStatus(0.0, 1, 5, "", ready, {LINE: (TrafficShare("1", 100),)}),
        gateway_at=NOW,
        replicas=replicas,
        artifacts={DIGEST: NOW},
        led=frozenset(),
    )
    return replace(base, **changes)


def demand(unit: ScaleUnit = WHOLE, **changes: Any) -> Mapping[ScaleUnit, Demand]:
    return {unit: replace(PROVED, **changes)}


CASES: dict[str, tuple[Snapshot, dict[ScaleUnit, int], set[ScaleUnit], list[Step]]] = {
    "a new one comes up, so that it is proved": (
        seen(ONE),
        {WHOLE: 1},
        set(),
        [Start((ONE,))],
    ),
    "also if nobody asks for it": (
        seen(ONE, demands={WHOLE: Demand(desired=0)}),
        {WHOLE: 1},
        set(),
        [Start((ONE,))],
    ),
    "one that nobody asked for a while goes cold, and drains": (
        seen(ONE, worker("w"), demands=demand(desired=0)),
        {WHOLE: 0},
        {WHOLE},
        [Drain("w")],
    ),
    "but not where no gateway would hold the next request": (
        seen(ONE, worker("w"), demands=demand(desired=0), gateway=None),
        {WHOLE: 1},
        set(),
        [],
    ),
    "while it drains it is cold": (
        seen(ONE, worker("w", State.DRAINING, since=NOW), demands={WHOLE: COLD}),
        {WHOLE: 0},
        {WHOLE},
        [],
    ),
    "and is stopped when the gateway leads nobody to it": (
        seen(ONE, worker("w", State.DRAINING, since=NOW - 2), demands={WHOLE: COLD}),
        {WHOLE: 0},
        {WHOLE},
        [Stop("w")],
    ),
    "not a moment before": (
        seen(
            ONE,
            worker("w", State.DRAINING, since=NOW - 9),
            demands={WHOLE: COLD},
            gateway=GatewayStatus(0.0, 1, 5, "", ("w",), {LINE: (TrafficShare("1", 100),)}),
        ),
        {WHOLE: 0},
        {WHOLE},
        [],
    ),
    "somebody asks meanwhile: it is back at once": (
        seen(
            ONE,
            worker("w", State.DRAINING, since=NOW - 2),
            demands=demand(cold=True, waited_until=NOW + 1),
        ),
        {WHOLE: 1},
        {WHOLE},
        [Resume("w")],
    ),
    "unless it was asked to end: then another one comes up": (
        seen(
            ONE,
            worker("w", State.DRAINING, since=NOW - 2),
            asked={"w": NOW - 1},
            demands=demand(cold=True, waited_until=NOW + 1),
        ),
        {WHOLE: 1},
        {WHOLE},
        [Start((ONE,))],
    ),
    "nobody asks: it stays cold": (
        seen(ONE, demands={WHOLE: COLD}),
        {WHOLE: 0},
        {WHOLE},
        [],
    ),
    "cold it stays also when the gateway is gone": (
        seen(ONE, demands={WHOLE: COLD}, gateway=None),
        {WHOLE: 0},
        {WHOLE},
        [],
    ),
    "somebody waits: it comes up, and until it is ready it is cold": (
        seen(ONE, demands=demand(cold=True, waited_until=NOW + 1)),
        {WHOLE: 1},
        {WHOLE},
        [Start((ONE,))],
    ),
    "many wait: as many come up as their number asks for": (
        seen(ONE, demands=demand(cold=True, waited_until=NOW + 1, desired=3)),
        {WHOLE: 3},
        {WHOLE},
        [Start((ONE,))] * 3,
    ),
    "nobody waits any more while it is proved: it is proved nevertheless": (
        seen(ONE, worker("w", State.PROVING), demands=demand(cold=True, waited_until=NOW - 1)),
        {WHOLE: 0},
        {WHOLE},
        [Prove("w")],
    ),
    "ready it is not cold": (
        seen(ONE, worker("w"), demands=demand(cold=True, waited_until=NOW + 1)),
        {WHOLE: 1},
        set(),
        [],
    ),
    "one that failed when it was woken is not cold, and is tried again by itself": (
        seen(
            ONE,
            demands={WHOLE: Demand()},
            failures={WHOLE: NO_FAILURE.again("no", NOW - 9, hard=True)},
        ),
        {WHOLE: 1},
        set(),
        [Start((ONE,))],
    ),
    "after a pause": (
        seen(
            ONE, demands={WHOLE: Demand()}, failures={WHOLE: NO_FAILURE.again("no", NOW, hard=True)}
        ),
        {WHOLE: 1},
        set(),
        [],
    ),
    "more is wanted than there is": (
        seen(ONE, worker("w"), demands=demand(desired=3)),
        {WHOLE: 3},
        set(),
        [Start((ONE,))] * 2,
    ),
    "no more than maxScale": (
        seen(ONE, worker("w"), demands=demand(desired=30)),
        {WHOLE: 4},
        set(),
        [Start((ONE,))] * 3,
    ),
    "without a limit of its own the node's holds": (
        seen(revision(replace(SLEEPY, max_scale=0)), demands=demand(desired=30)),
        {WHOLE: 8},
        set(),
        [Start((revision(replace(SLEEPY, max_scale=0)),))] * 8,
    ),
    "less is wanted: the youngest go": (
        seen(ONE, worker("a"), worker("b", since=NOW - 9), demands=demand(desired=1)),
        {WHOLE: 1},
        set(),
        [Drain("b")],
    ),
    "endpoints that scale apart have replicas of their own": (
        seen(APART),
        {S: 1, V: 1},
        set(),
        [Start((APART,), endpoint="stream"), Start((APART,), endpoint="validate")],
    ),
    "one of them is cold, the other never": (
        seen(
            APART,
            worker("s", serves="stream"),
            worker("v", serves="validate"),
            demands={S: Demand(desired=0, proved=True), V: Demand(desired=0, proved=True)},
        ),
        {S: 0, V: 1},
        {S},
        [Drain("s")],
    ),
    "a failure of one does not hold the other": (
        seen(APART, failures={S: NO_FAILURE.again("no", NOW, hard=True)}),
        {S: 1, V: 1},
        set(),
        [Start((APART,), endpoint="validate")],
    ),
    "what an earlier agent started for all endpoints stays until each has its own": (
        seen(APART, worker("old"), worker("s", serves="stream")),
        {S: 1, V: 1},
        set(),
        [Start((APART,), endpoint="validate")],
    ),
    "and goes then": (
        seen(APART, worker("old"), worker("s", serves="stream"), worker("v", serves="validate")),
        {S: 1, V: 1},
        set(),
        [Drain("old")],
    ),
}


@pytest.mark.parametrize(("snapshot", "wished", "cold", "steps"), CASES.values(), ids=CASES.keys())
def test_scales(
    snapshot: Snapshot,
    wished: dict[ScaleUnit, int],
    cold: set[ScaleUnit],
    steps: list[Step],
) -> None:
    plan = decide(snapshot, SETTINGS)
    assert {unit: wish.replicas for unit, wish in plan.wished.items()} == wished
    assert plan.cold == cold
    assert list(plan.steps) == steps
    assert decide(snapshot, SETTINGS) == plan, "deciding changes nothing"


def test_whoever_is_waited_for_does_not_wait_behind_others_that_load() -> None:
    settings = AgentSettings(cores=1)
    loading = worker("other", State.STARTING)
    one = revision(SLEEPY)
    other = replace(loading, revision=RevisionId("large", "v1", "1"))
    awaited = seen(one, other, demands=demand(cold=True, waited_until=NOW + 1))
    assert Start((one,)) in next_steps(awaited, settings)
    assert Start((one,)) not in next_steps(seen(one, other), settings)


def test_a_worker_that_drains_has_as_long_as_its_endpoint_lets_a_request_take() -> None:
    going = seen(ONE, worker("w"), worker("v", State.DRAINING), asked={"v": NOW - 600.0})
    assert next_steps(replace(going, patience={"v": 3_600.0}), SETTINGS) == []
    assert next_steps(replace(going, patience={"v": 500.0}), SETTINGS) != []


def test_small_ones_that_are_woken_together_share_a_process() -> None:
    names = ["ants", "bees", "cats"]
    services, demands, all_of = {}, {}, []
    for name in names:
        identity = RevisionId(name, "v1", "1")
        one = replace(ONE, id=identity)
        line = Line(identity.line_id, {"1": one}, (TrafficShare("1", 100),))
        services[name] = Service(name, {"v1": line}, Pin("v1", by_hand=False))
        waited = NOW + 1 if name != "bees" else 0.0
        demands[ScaleUnit(identity)] = replace(COLD, waited_until=waited)
        all_of.append(one)
    woken = seen(ONE, catalog=Catalog(5, services), demands=demands, light=frozenset({DIGEST}))
    assert next_steps(woken, AgentSettings(cores=2)) == [Start((all_of[0], all_of[2]))]
