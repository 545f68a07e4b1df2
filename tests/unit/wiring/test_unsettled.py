"""What a waiting command is told: why its own services are not live yet, and nothing of anybody else's."""

from __future__ import annotations

from dataclasses import replace

from fairlead.cli.status import _rows
from fairlead.domain import catalog as catalogs
from fairlead.domain.catalog import Catalog, Kill, Revision
from fairlead.domain.ids import ArtifactRef, LineId, RevisionId
from fairlead.domain.release import EndpointSpec, TrafficShare
from fairlead.domain.status import (
    GatewayStatus,
    NodeStatus,
    Replica,
    State,
    node_status_from_bytes,
    node_status_to_bytes,
)
from fairlead.wiring.observe import Observed

ALL = (TrafficShare("1", 100),)


def of(*services: str) -> Catalog:
    found = Catalog()
    for name in services:
        identity = RevisionId(name, "v1", "1")
        made = Revision(
            identity, ArtifactRef(name, 1), f"sha256:{name}", (EndpointSpec("predict"),), "x", 5.0
        )
        found = catalogs.with_revision(found, made)
        found = catalogs.with_traffic(found, identity.line_id, ALL)
    return replace(found, generation=3)


def ready(name: str) -> Replica:
    identity = RevisionId(name, "v1", "1")
    return Replica(f"w-{name}", identity, f"sha256:{name}", State.READY, "", f"/{name}", 7, 2.0)


def seen(*, up: tuple[str, ...] = ("a", "b"), routed: tuple[str, ...] = ("a", "b")) -> Observed:
    """Two services as the catalog wants them, of which these are ready, and these routed."""
    node = NodeStatus("local", 1.0, 42, 3, tuple(ready(name) for name in up))
    gateway = GatewayStatus(
        1.0,
        43,
        3,
        "http://x",
        tuple(f"w-{name}" for name in routed),
        {LineId(name, "v1"): ALL for name in routed},
        dict.fromkeys(routed, "v1"),
        keys="mark",
    )
    return Observed(of("a", "b"), node, gateway, {"pid": 1}, "mark")


def test_what_is_live_is_settled_for_everybody() -> None:
    assert seen().unsettled({"a", "b"}) == []
    assert seen().serves_everything()
    assert seen().problems() == []


def test_nothing_is_told_of_another_service() -> None:
    half = seen(up=("a",), routed=("a",))
    assert half.unsettled({"a"}) == []
    assert half.unsettled({"b"}) == [
        "b/v1.1 is not ready (not started)",
        "the pin of b has not moved yet",
        "traffic of b/v1 has not moved yet",
    ]
    assert half.problems() == half.unsettled({"a", "b"})
    assert not half.serves_everything()


def test_a_ready_worker_that_is_not_routed_or_only_coming_is_told() -> None:
    live = seen()
    assert live.gateway is not None
    told = ["the gateway does not route to the worker of a/v1.1 yet"]
    coming = replace(live, gateway=replace(live.gateway, coming=("w-a",)))
    unrouted = replace(live, gateway=replace(live.gateway, workers=("w-b",)))
    assert (coming.unsettled({"a"}), unrouted.unsettled({"a"})) == (told, told)
    assert (coming.unsettled({"b"}), unrouted.unsettled({"b"})) == ([], [])


def test_a_killed_service_and_one_that_is_not_there_keep_nobody_waiting() -> None:
    none = seen(up=(), routed=())
    killed = replace(none, catalog=catalogs.with_kill(none.catalog, "a", Kill("later", 1.0)))
    assert killed.unsettled({"a", "nobody"}) == []


def test_whoever_waits_for_keys_only_is_told_of_processes_generation_and_keys() -> None:
    live = seen(up=("a",), routed=("a",))
    assert live.unsettled(()) == []
    assert replace(live, keys_mark="other").unsettled(()) == [
        "the gateway has not read the keys' secrets yet"
    ]
    later = replace(live, catalog=replace(live.catalog, generation=4))
    assert later.unsettled(()) == ["the gateway is at generation 3 of 4"]
    assert replace(live, node=None, gateway=None).unsettled(()) == [
        "the agent does not run",
        "the gateway does not run",
    ]


def test_what_is_held_by_a_run_that_does_not_end_is_a_problem_and_keeps_nobody_waiting() -> None:
    live = seen()
    assert live.node is not None
    held, free = (replace(one, held_since=1.0) for one in live.node.replicas)
    node = replace(live.node, written_at=42.0, replicas=(held, replace(free, held_since=0.0)))
    told = replace(live, node=node)
    assert told.problems() == ["a/v1.1: a run has gone on for 41 s; nobody else is answered"]
    assert told.unsettled({"a"}) == []
    assert node_status_from_bytes(node_status_to_bytes(node)) == node
    (row,) = _rows(told, told.catalog.services["a"], {})
    assert (row["state"], row["why"]) == (
        "held",
        "a run has gone on for 41 s; nobody else is answered",
    )
    beside = replace(node, replicas=(*node.replicas, replace(held, worker="w2", held_since=0.0)))
    assert replace(told, node=beside).problems() == [], "another replica answers"
    off = replace(told, catalog=catalogs.with_kill(told.catalog, "a", Kill("later", 1.0)))
    assert off.problems() == []
