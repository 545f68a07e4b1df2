"""Who answers behind each route, from what the node says and what was there before."""

from __future__ import annotations

import os
from dataclasses import replace

from fairlead.domain.ids import EndpointId, RevisionId
from fairlead.domain.release import EndpointSpec
from fairlead.domain.status import NodeStatus, Replica, State
from fairlead.domain.table import RoutingTable, table_from
from fairlead.gateway.activator import failure, least_loaded
from fairlead.gateway.behind import BURST_CAPACITY, Behind, behind
from support.gateway import DIGEST, catalog, revision

ONE = RevisionId("speech", "v9", "2")
STREAM, VALIDATE = (EndpointId("speech", "v9", "2", name) for name in ("stream", "validate"))
APART = (
    EndpointSpec("stream", 0, 4, 1, ("/say",)),
    EndpointSpec("validate", 1, 1, 0, ("/check",)),
)


def table(*endpoints: EndpointSpec) -> RoutingTable:
    one = replace(revision("speech/v9.2"), endpoints=endpoints)
    wanted = catalog(
        one, traffic={"speech/v9": {"2": 100}}, pins={"speech": "v9"}, keys={"demo": ("*",)}
    )
    return table_from(wanted, [ONE], {}, RoutingTable())


def replica(
    worker: str, endpoint: str = "", state: State = State.READY, reason: str = ""
) -> Replica:
    return Replica(worker, ONE, DIGEST, state, reason, f"/run/{worker}.sock", endpoint=endpoint)


def node(*replicas: Replica, cold: tuple[EndpointId, ...] = ()) -> NodeStatus:
    return NodeStatus("node", 0.0, os.getpid(), 1, replicas, cold=cold)


def test_each_endpoint_has_the_replicas_that_serve_it() -> None:
    limited = (replace(APART[0], max_scale=1, min_scale=1), APART[1])
    there = behind(
        table(*limited), node(replica("a", "stream"), replica("b", "validate")), Behind()
    )
    assert [one.worker for one in there.of(STREAM)] == ["a"]
    assert [one.worker for one in there.of(VALIDATE)] == ["b"]
    assert not there.held


def test_a_cold_endpoint_is_held_and_has_no_worker_also_while_one_is_left() -> None:
    there = behind(
        table(*APART),
        node(replica("a", "stream"), replica("b", "validate"), cold=(STREAM,)),
        Behind(),
    )
    assert (there.held, there.cold) == ({STREAM}, {STREAM})
    assert there.of(STREAM) == ()
    assert [one.worker for one in there.replicas[ONE]] == ["a", "b"]


def test_one_that_is_coming_up_stays_held() -> None:
    before = behind(table(*APART), node(replica("b", "validate"), cold=(STREAM,)), Behind())
    starting = replica("a", "stream", State.STARTING)
    there = behind(table(*APART), node(replica("b", "validate"), starting), before)
    assert there.cold == {STREAM}


def test_workers_that_died_are_kept_until_others_are_there() -> None:
    plain = table(EndpointSpec("predict"))
    before = behind(plain, node(replica("a")), Behind())
    endpoint = EndpointId("speech", "v9", "2")
    gone = behind(plain, node(replica("a", state=State.FAILED)), before)
    assert [one.worker for one in gone.of(endpoint)] == ["a"]
    assert [one.worker for one in behind(plain, node(replica("b")), gone).of(endpoint)] == ["b"]
    assert behind(plain, None, before) == before


def test_a_limited_endpoint_that_may_grow_is_held_while_it_has_little_room() -> None:
    endpoint = EndpointId("speech", "v9", "2")

    def held(spec: EndpointSpec, ready: int) -> bool:
        there = [replica(f"w{number}") for number in range(ready)]
        found = behind(table(spec), node(*there), Behind())
        assert len(found.of(endpoint)) == ready, "its workers must not be ended"
        return endpoint in found.held

    assert held(EndpointSpec("predict", 1, 4, 1), 1)
    assert held(EndpointSpec("predict", 1, 0, 100), BURST_CAPACITY // 100)
    assert not held(EndpointSpec("predict", 1, 0, 100), BURST_CAPACITY // 100 + 1)
    assert not held(EndpointSpec("predict", 1, 4, 0), 1), "no limit, so nothing to wait for"
    assert not held(EndpointSpec("predict", 2, 2, 1), 2), "there will never be more"
    assert not held(EndpointSpec("predict", 0, 1, 1), 1), "nor here"


def test_the_least_loaded_with_room_is_asked() -> None:
    a, b = replica("a"), replica("b")
    chosen = least_loaded([a, b], {"a": 1}, 1)
    assert chosen is b
    assert least_loaded([a, b], {"a": 1, "b": 1}, 1) is None
    assert least_loaded([a, b], {"a": 7, "b": 6}, 0) is b
    assert least_loaded([], {}, 0) is None


def test_what_failed_says_why_unless_it_is_tried_again() -> None:
    failed = replica("a", state=State.FAILED, reason="no such file")
    predict = EndpointId("speech", "v9", "2")
    assert failure(node(failed), predict) == "failed: no such file"
    assert failure(node(failed, replica("b", state=State.STARTING)), predict) == ""
    assert failure(node(replica("c", "validate", State.FAILED, "x")), STREAM) == ""
    assert failure(node(), predict) == failure(None, predict) == ""
