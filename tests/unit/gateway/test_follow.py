"""The loop: add, move, drain, drop; and what it does when things are away."""

from __future__ import annotations

import asyncio
import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fairlead.adapters.memory.envoy import MemoryEnvoy
from fairlead.adapters.memory.store import MemoryObjectStore
from fairlead.adapters.store.catalogs import StoredCatalogs
from fairlead.domain.catalog import Catalog, Service, with_key
from fairlead.domain.ids import RevisionId
from fairlead.domain.keys import Quota, Rate
from fairlead.domain.layout import Home
from fairlead.domain.status import NodeStatus, Replica, State, node_status_to_bytes
from fairlead.domain.table import RoutingTable
from fairlead.gateway import follow
from fairlead.gateway.clusters import named_clusters
from fairlead.gateway.follow import Follower, watch_catalog
from fairlead.gateway.index import index
from fairlead.gateway.settings import GatewaySettings
from fairlead.gateway.snapshot import Snapshot, snapshot
from fairlead.gateway.state import CatalogCache, View, read_gateway_status, table_before
from fairlead.kits import files
from fairlead.kits.clock import FakeClock
from support.gateway import CLOCK, DIGEST, catalog, eventually, revision


class Node:
    """A home, a follower, a fake Envoy and a clock that obeys."""

    def __init__(self, root: Path, envoy: MemoryEnvoy | None = None) -> None:
        self.home = Home(root, root)
        self.envoy = envoy or MemoryEnvoy()
        self.clock = FakeClock()
        status = read_gateway_status(self.home.gateway_status)
        before = index(table_before(at("1"), status, "v1"))
        self.view = View(before, before)
        self.follower = Follower(
            GatewaySettings(drain_seconds=30), self.home, self.envoy, self.view, self.clock
        )

    async def step(self, seconds: float = 0.1) -> None:
        self.clock.advance(seconds)
        await self.follower.step()

    def has(self, *replicas: Replica) -> None:
        status = NodeStatus("node", self.clock.now(), os.getpid(), 1, replicas)
        self.home.node_status.parent.mkdir(exist_ok=True)
        self.home.node_status.write_bytes(node_status_to_bytes(status))

    def says(self) -> dict[str, Any]:
        return dict(json.loads(self.home.gateway_status.read_bytes()))

    def routed(self) -> set[str]:
        return {_revision(name) for name in named_clusters(self.envoy.routes())} - {"front"}

    def clusters(self) -> set[str]:
        return {_revision(name) for name in self.envoy.clusters()} - {"front"}


def _revision(cluster: str) -> str:
    return cluster.partition("@")[0].removesuffix("/predict")


def at(tag: str, generation: int = 1) -> Catalog:
    wanted = catalog(
        revision(f"speech/v1.{tag}"),
        traffic={"speech/v1": {tag: 100}},
        pins={"speech": "v1"},
        keys={"demo": ("*",)},
    )
    return replace(wanted, generation=generation)


def worker(tag: str, state: State = State.READY, name: str = "") -> Replica:
    one = RevisionId("speech", "v1", tag)
    name = name or f"w{tag}"
    return Replica(name, one, DIGEST, state, socket=f"/run/{name}.sock")


@pytest.fixture
def node(tmp_path: Path) -> Node:
    node = Node(tmp_path)
    keys = node.home.keys
    keys.parent.mkdir()
    keys.write_text('{"schema": 1, "keys": {"demo": "s-demo"}}')
    keys.chmod(0o600)
    return node


async def moved_to_two(node: Node) -> None:
    node.view.catalog = at("1")
    node.has(worker("1"))
    await node.step()
    node.view.catalog = at("2", 2)
    node.has(worker("1"), worker("2"))
    await node.step()


async def test_clusters_come_before_routes_and_routes_before_the_listener(node: Node) -> None:
    node.view.catalog = at("1")
    node.has(worker("1"))
    await node.step()
    assert node.envoy.told == ["clusters", "routes", "listener"]
    assert node.says()["workers"] == ["w1"]
    assert node.says()["generation"] == 1


async def test_an_envoy_that_was_started_with_older_routes_is_told_the_newest_once_more(
    node: Node,
) -> None:
    await moved_to_two(node)
    newest, clusters = node.envoy.routes(), list(node.envoy.clusters().values())
    await node.envoy.set_clusters(clusters[:1])
    await node.envoy.set_routes({})
    await node.step()
    assert node.envoy.routes() == {}
    node.follower.again()
    await node.step()
    assert node.envoy.routes() == newest
    assert list(node.envoy.clusters().values()) == clusters
    told = len(node.envoy.told)
    await node.step()
    assert len(node.envoy.told) == told


async def test_a_worker_of_what_a_name_meant_before_gets_no_request(node: Node) -> None:
    await moved_to_two(node)
    assert node.routed() == {"speech/v1.2"}
    node.view.catalog = replace(at("2", 3), services=made_anew(at("2", 3)))
    await node.step()
    assert node.routed() == set()
    node.has(replace(worker("2", name="fresh"), digest="sha256:" + "1" * 64), worker("2"))
    await node.step()
    assert node.routed() == {"speech/v1.2"}
    routed = {name for name in node.envoy.clusters() if name.startswith("speech/v1.2")}
    text = json.dumps([node.envoy.clusters()[name] for name in routed & named(node)])
    assert "/run/fresh.sock" in text
    assert "/run/w2.sock" not in text


def named(node: Node) -> set[str]:
    return set(named_clusters(node.envoy.routes()))


def made_anew(wanted: Catalog) -> dict[str, Service]:
    """The same names, but the artifact is another."""
    service = wanted.services["speech"]
    line = service.lines["v1"]
    anew = {tag: replace(one, digest="sha256:" + "1" * 64) for tag, one in line.revisions.items()}
    return {"speech": replace(service, lines={"v1": replace(line, revisions=anew)})}


def gated(wanted: Catalog, requests: int) -> Catalog:
    quota = Quota(Rate(requests, 1, requests))
    return with_key(wanted, replace(wanted.keys["demo"], quota=quota))


async def test_a_gate_opens_before_its_routes_and_closes_after_its_last_request(node: Node) -> None:
    node.view.catalog = at("1")
    node.has(worker("1"))
    await node.step()
    node.envoy.told.clear()
    node.view.catalog = gated(at("1", 2), 5)
    await node.step()
    assert node.envoy.told == ["listener", "clusters", "routes"]
    assert next(iter(node.envoy.listeners())) == "gateway"
    (gate,) = set(node.envoy.listeners()) - {"gateway"}
    assert gate in named_clusters(node.envoy.routes())
    node.envoy.numbers[f"cluster.{gate}.upstream_rq_active"] = 1
    node.view.catalog = gated(at("1", 3), 6)
    for _ in range(9):
        await node.step()
    assert gate not in named_clusters(node.envoy.routes())
    assert len(node.envoy.listeners()) == 3, "a request is still in the old gate"
    node.envoy.numbers[f"cluster.{gate}.upstream_rq_active"] = 0
    for _ in range(9):
        await node.step()
    assert gate not in {**node.envoy.listeners(), **node.envoy.clusters()}
    assert len(node.envoy.listeners()) == 2


async def test_the_status_says_which_key_file_is_in_force(node: Node) -> None:
    node.view.catalog = at("1")
    node.has(worker("1"))
    await node.step()
    first = files.mark(node.home.keys)
    assert node.says()["keys"] == first
    node.envoy.refuse = "routes"
    node.home.keys.write_text('{"schema": 1, "keys": {"demo": "s-another"}}')
    await node.step(0.6)
    assert node.says()["keys"] == first
    node.envoy.refuse = ""
    await node.step(1.0)
    assert node.says()["keys"] == files.mark(node.home.keys) != first


async def test_an_old_secret_ends_without_anybody_writing(node: Node) -> None:
    until = node.clock.now() + 5
    old = {"client": "demo", "secret": "s-old", "until": until}
    document = {"schema": 2, "keys": {"demo": "s-demo"}, "old": [old]}
    node.home.keys.write_text(json.dumps(document))
    node.view.catalog = at("1")
    node.has(worker("1"))
    await node.step()
    assert "s-old" in str(node.envoy.routes())
    await node.step(4.0)
    assert "s-old" in str(node.envoy.routes())
    await node.step(1.0)
    assert "s-old" not in str(node.envoy.routes())
    assert "s-demo" in str(node.envoy.routes())


async def test_nothing_is_told_twice(node: Node) -> None:
    node.view.catalog = at("1")
    node.has(worker("1"))
    await node.step()
    told = list(node.envoy.told)
    for _ in range(3):
        node.has(worker("1"))
        await node.step()
    assert node.envoy.told == told


async def test_while_a_revision_comes_up_only_the_reason_changes(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    node.view.catalog = at("1")
    node.has(worker("1"))
    await node.step()
    told = list(node.envoy.told)
    rendered: list[RoutingTable] = []

    def counted(table: RoutingTable, *more: Any) -> Snapshot:
        rendered.append(table)
        return snapshot(table, *more)

    monkeypatch.setattr(follow, "snapshot", counted)
    node.view.catalog = at("2", 2)
    for state, reason in ((State.PULLING, "1 of 2 MiB"), (State.STARTING, ""), (State.PROVING, "")):
        node.has(worker("1"), replace(worker("2", state), reason=reason))
        await node.step()
        line = node.view.index.table.services["speech"].lines["v1"]
        assert line.revisions["2"].reason.startswith(state)
        assert node.view.index.table.generation == 2
        # Envoy's threads may still be at that one.
        assert node.view.previous.table.generation == 1
    assert len(rendered) == 1, "the new revision's own name leads to a refusal instead of to nobody"
    node.has(worker("1"), worker("2"))
    await node.step()
    assert len(rendered) == 2
    assert node.routed() == {"speech/v1.2"}
    assert node.envoy.told != told


async def test_an_old_cluster_stays_until_nobody_uses_it(node: Node) -> None:
    node.view.catalog = at("1")
    node.has(worker("1"))
    await node.step()
    name = next(one for one in node.envoy.clusters() if one.startswith("speech"))
    active = f"cluster.{name}.upstream_rq_active"
    node.envoy.numbers[active] = 3
    node.view.catalog = at("2", 2)
    node.has(worker("1"), worker("2"))
    for _ in range(9):
        await node.step()
    assert node.routed() == {"speech/v1.2"}
    assert node.clusters() == {"speech/v1.1", "speech/v1.2"}
    assert node.says()["workers"] == ["w1", "w2"]
    node.envoy.numbers[active] = 0
    await node.step()
    assert node.clusters() == {"speech/v1.1", "speech/v1.2"}, "seen idle once is not enough"
    await node.step()
    assert node.clusters() == {"speech/v1.2"}
    assert node.says()["workers"] == ["w2"]


async def test_after_the_drain_deadline_it_goes_with_its_requests(node: Node) -> None:
    await moved_to_two(node)
    await node.step(29)
    assert node.clusters() == {"speech/v1.1", "speech/v1.2"}
    await node.step(2)
    assert node.clusters() == {"speech/v1.2"}


async def test_a_newer_move_does_not_wait_for_an_older_drain(node: Node) -> None:
    await moved_to_two(node)
    node.view.catalog = at("3", 3)
    node.has(worker("1"), worker("2"), worker("3"))
    await node.step()
    assert node.routed() == {"speech/v1.3"}
    assert node.clusters() == {"speech/v1.1", "speech/v1.2", "speech/v1.3"}


async def test_moving_back_takes_the_draining_cluster_into_use_again(node: Node) -> None:
    await moved_to_two(node)
    node.view.catalog = at("1", 3)
    await node.step()
    assert node.routed() == {"speech/v1.1"}
    await node.step(31)
    assert node.clusters() == {"speech/v1.1"}


async def test_a_refused_move_leaves_everything_and_is_tried_again_after_a_pause(
    node: Node,
) -> None:
    node.view.catalog = at("1")
    node.has(worker("1"))
    await node.step()
    node.envoy.refuse = "routes"
    node.view.catalog = at("2", 2)
    node.has(worker("1"), worker("2"))
    await node.step(0.1)
    await node.step(0.3)
    assert node.view.rejected_updates == 1, "not before half a second has passed"
    await node.step(0.2)
    await node.step(0.9)
    assert node.view.rejected_updates == 2, "and the pauses grow"
    assert node.says()["generation"] == 1
    assert "Envoy refused its routes" in node.says()["problem"]
    assert set(node.says()["workers"]) >= {"w1"}
    node.envoy.refuse = ""
    await node.step(10)
    assert (node.routed(), node.says()["problem"]) == ({"speech/v1.2"}, "")


async def test_dead_workers_stay_routed_until_others_are_ready(node: Node) -> None:
    node.view.catalog = at("1")
    node.has(worker("1"))
    await node.step()
    node.has(worker("1", State.FAILED))
    await node.step(0.6)
    assert node.says()["workers"] == ["w1"]
    node.has(worker("1", State.FAILED), worker("1", name="w1b"))
    await node.step()
    await node.step(31)
    assert node.says()["workers"] == ["w1b"]


async def test_a_broken_status_changes_nothing_and_is_said(node: Node) -> None:
    node.view.catalog = at("1")
    node.has(worker("1"))
    await node.step()
    node.home.node_status.write_bytes(b'{"schema": 1, "no')
    await node.step(0.6)
    assert node.routed() == {"speech/v1.1"}
    assert "status cannot be read" in node.says()["problem"]
    node.has(worker("1"))
    await node.step(0.6)
    assert node.says()["problem"] == ""


async def test_after_a_restart_the_routes_stand_though_the_status_is_gone(node: Node) -> None:
    node.view.catalog = at("1")
    node.has(worker("1"))
    await node.step()
    node.home.node_status.unlink()
    told = list(node.envoy.told)
    following = Node(node.home.root, node.envoy)
    following.view.catalog = at("1")
    await following.step()
    assert node.envoy.told == told
    assert following.says()["workers"] == ["w1"]


async def test_after_a_restart_what_the_one_before_left_drains_too(node: Node) -> None:
    node.view.catalog = at("1")
    node.has(worker("1"))
    await node.step()
    following = Node(node.home.root, node.envoy)
    following.view.catalog = at("2", 2)
    following.has(worker("1"), worker("2"))
    await following.step()
    assert (following.routed(), following.clusters()) == (
        {"speech/v1.2"},
        {"speech/v1.1", "speech/v1.2"},
    )
    assert following.says()["workers"] == ["w1", "w2"]
    await following.step(31)
    assert following.clusters() == {"speech/v1.2"}


async def test_a_key_file_others_can_read_is_a_warning(
    node: Node, caplog: pytest.LogCaptureFixture
) -> None:
    node.home.keys.chmod(0o644)
    await node.step()
    assert "can be read by others" in caplog.text
    assert "s-demo" not in caplog.text


async def test_a_broken_key_file_keeps_the_keys_and_shows_none(node: Node) -> None:
    node.view.catalog = at("1")
    node.has(worker("1"))
    await node.step()
    node.home.keys.write_text('{"schema": 1, "keys": {"demo": "s-new"')
    await node.step(0.6)
    assert "s-demo" in str(node.envoy.routes())
    assert "s-new" not in node.says()["problem"]
    assert "is not JSON" in node.says()["problem"]


def test_without_a_status_the_table_before_is_empty() -> None:
    assert table_before(at("1"), None, "v1") == RoutingTable()


async def test_the_status_stays_young_while_envoy_is_slow(tmp_path: Path) -> None:
    node = Node(tmp_path)
    follower = Follower(GatewaySettings(), node.home, node.envoy, node.view, CLOCK)
    node.view.catalog = at("1")
    node.has(worker("1"))
    node.envoy.slow = asyncio.Event()
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(follower.follow()), group.create_task(follower.heartbeat())]
        await eventually(node.home.gateway_status.exists, 3, "the first status")
        await eventually(lambda: node.says()["workers"] == ["w1"], 3, "its worker is needed")
        first = node.says()["written_at"]
        await eventually(lambda: node.says()["written_at"] > first + 0.4, 3, "it is written again")
        assert node.says()["workers"] == ["w1"]
        assert node.envoy.told == []
        before = node.view.node
        node.has(worker("1"))
        await eventually(lambda: node.view.node is not before, 3, "the agent is listened to")
        node.envoy.slow.set()
        await eventually(lambda: node.says()["generation"] == 1, 3, "moved")
        for task in tasks:
            task.cancel()


async def test_a_disk_that_takes_nothing_keeps_no_catalog_from_being_routed(tmp_path: Path) -> None:
    node = Node(tmp_path)
    catalogs = StoredCatalogs(MemoryObjectStore(), CLOCK)
    catalogs.commit(replace(at("1"), generation=catalogs.read().generation), "test")
    path = tmp_path / "blocked" / "catalog.json"
    path.parent.write_bytes(b"a file where a directory should be")
    async with asyncio.TaskGroup() as group:
        task = group.create_task(watch_catalog(catalogs, CatalogCache(path), node.view, CLOCK))
        await eventually(lambda: "cache" in node.view.problems, 3, "the problem is said")
        assert node.view.catalog.live() == at("1").live()
        path.parent.unlink()
        await eventually(path.exists, 5, "it is kept once the disk takes it")
        await eventually(lambda: "cache" not in node.view.problems, 3, "all right again")
        assert not task.done()
        task.cancel()


async def test_old_clusters_that_could_not_be_dropped_are_dropped_later(node: Node) -> None:
    await moved_to_two(node)
    node.envoy.refuse = "clusters"
    await node.step(31)
    assert node.says()["workers"] == ["w1", "w2"]
    assert "old clusters stay" in node.says()["problem"]
    node.envoy.refuse = ""
    await node.step(1)
    assert (node.says()["workers"], node.says()["problem"]) == (["w2"], "")


async def test_a_move_says_once_what_it_changed(
    node: Node, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    await moved_to_two(node)
    node.has(worker("1"), worker("2", name="w2b"))
    await node.step()
    told = [one.getMessage() for one in caplog.records if getattr(one, "event", "") == "routes"]
    assert told == [
        "routes: speech/v1.1 added, speech v1 now 1=100, key demo made",
        "routes: speech/v1.2 added, speech/v1.1 removed, speech v1 now 2=100",
    ]
