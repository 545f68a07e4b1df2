"""What the front desk tells of models: put together from workers, for the lines a key may read."""

from __future__ import annotations

import contextlib
import json
import tempfile
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from fairlead.domain.catalog import Kill, with_kill
from fairlead.domain.ids import RevisionId
from fairlead.domain.status import NodeStatus, Replica, State
from fairlead.domain.table import RoutingTable, table_from
from fairlead.gateway.behind import Behind
from fairlead.gateway.front import FrontDesk, Visit
from fairlead.gateway.index import index
from fairlead.gateway.models import EXTENSIONS, ModelPages
from fairlead.gateway.settings import GatewaySettings
from fairlead.gateway.state import View
from support.gateway import DIGEST, catalog, revision
from support.models import scaled_artifact
from support.serving import in_process, listening

WANTED = catalog(
    revision("scaled/v1.1", 1),
    revision("scaled/v1.2", 2),
    revision("scaled/v2.1", 3),
    revision("other/v1.1", 1),
    traffic={
        "scaled/v1": {"1": 50, "2": 50},
        "scaled/v2": {"1": 100},
        "other/v1": {"1": 100},
    },
    pins={"scaled": "v1", "other": "v1"},
    keys={"all": ("*",), "one-line": ("scaled/v2",), "no-read": ("*:infer",), "none": ()},
)
STATS = "/v2/models/scaled/stats"
INDEX = "/v2/repository/index"
ROW = {"inputs": [{"name": "x", "shape": [1, 3], "datatype": "FP32", "data": [1, 2, 3]}]}


class Desk:
    def __init__(self, root: Path) -> None:
        self.root = root
        self.view = View(index(RoutingTable()), index(RoutingTable()))
        settings = GatewaySettings()
        self.app = FrontDesk(
            self.view, settings, ModelPages(settings, self.view, root / "activator.sock").pages()
        )
        self.route(WANTED.live())

    def route(self, ready: Any, reasons: Any = None, wanted: Any = WANTED) -> None:
        """What is proved; each of it has a worker that nobody answers for."""
        self.view.index = index(table_from(wanted, ready, reasons or {}, RoutingTable()))
        self.view.behind = Behind({one: (self.replica("gone", one),) for one in ready})

    def replica(self, name: str, one: RevisionId) -> Replica:
        return Replica(name, one, DIGEST, State.READY, socket=str(self.root / f"{name}.sock"))

    async def ask(
        self, method: str, path: str, key: str = "all", body: bytes = b"", **headers: str
    ) -> tuple[int, Any]:
        sent = {"x-client": key, **{name.replace("_", "-"): one for name, one in headers.items()}}
        answer = await self.app.answer(Visit(method, path, sent, body))
        return answer.status_code, json.loads(bytes(answer.body))

    async def states(self, key: str = "all", body: bytes = b"") -> list[tuple[str, ...]]:
        status, found = await self.ask("POST", INDEX, key, body)
        assert status == 200
        return [(one["name"], one["version"], one["state"], one["reason"]) for one in found]

    @contextlib.asynccontextmanager
    async def worker(
        self, name: str, one: RevisionId, version: int, asked: int
    ) -> AsyncIterator[None]:
        """One more worker, which has answered so many requests."""
        spec = scaled_artifact(self.root / name, version=version).spec(one)
        async with in_process(spec) as running, listening(running.app, self.root / f"{name}.sock"):
            for _ in range(asked):
                answer = await running.client.post("/v2/models/scaled/infer", json=ROW)
                assert answer.is_success
            before = self.view.behind.replicas
            self.view.behind = Behind({**before, one: (*before[one], self.replica(name, one))})
            yield


@pytest.fixture
def desk() -> Iterator[Desk]:
    with tempfile.TemporaryDirectory(prefix="fl-") as directory:
        yield Desk(Path(directory))


async def test_the_index_holds_the_lines_of_the_key_and_no_others(desk: Desk) -> None:
    assert await desk.states() == [
        ("other", "1", "READY", ""),
        ("scaled", "1", "READY", ""),
        ("scaled", "2", "READY", ""),
        ("scaled", "3", "READY", ""),
    ]
    assert await desk.states("one-line") == [("scaled", "3", "READY", "")]
    assert await desk.states("no-read") == []
    assert await desk.states("none") == []


async def test_the_index_says_how_far_things_are_and_never_why_in_full(desk: Desk) -> None:
    here, lost = RevisionId("scaled", "v1", "1"), RevisionId("scaled", "v1", "2")
    reasons = {
        RevisionId("scaled", "v2", "1"): "starting",
        RevisionId("other", "v1", "1"): "failed: /srv/secret: no such file",
    }
    desk.route((here, lost), reasons)
    desk.view.behind = Behind({here: desk.view.behind.replicas[here]})
    assert await desk.states() == [
        ("other", "1", "UNAVAILABLE", "failed; `fairlead status` says why"),
        ("scaled", "1", "READY", ""),
        ("scaled", "2", "UNAVAILABLE", "no worker of it is ready"),
        ("scaled", "3", "LOADING", "starting"),
    ]
    assert await desk.states(body=b'{"ready": true}') == [("scaled", "1", "READY", "")]


async def test_what_was_switched_off_is_unavailable_for_its_reason(desk: Desk) -> None:
    desk.route(WANTED.live(), wanted=with_kill(WANTED, "other", Kill("not today", 0.0)))
    assert (await desk.states())[0] == ("other", "1", "UNAVAILABLE", "not today")
    assert await desk.ask("GET", "/v2/models/other/stats") == (503, {"error": "not today"})


@pytest.mark.parametrize(
    "body", [b"{", b"[1]", b'{"ready": 1}', b"\xff", b"[" * 100_000], ids=range(5)
)
async def test_a_wrong_body_is_told(desk: Desk, body: bytes) -> None:
    status, found = await desk.ask("POST", INDEX, body=body)
    assert (status, list(found)) == (400, ["error"])


async def test_replicas_and_revisions_are_counted_together(desk: Desk) -> None:
    stable, other = RevisionId("scaled", "v1", "1"), RevisionId("scaled", "v2", "1")

    async def counts(path: str, key: str = "all", **headers: str) -> dict[str, int]:
        status, found = await desk.ask("GET", path, key, **headers)
        assert status == 200
        return {one["version"]: one["inference_count"] for one in found["model_stats"]}

    async with (
        desk.worker("w1", stable, 1, 2),
        desk.worker("w2", stable, 1, 3),
        desk.worker("w3", other, 3, 1),
    ):
        assert await counts(STATS) == {"1": 5, "3": 1}
        assert await counts("/v2/models/stats") == {"1": 5, "3": 1}
        assert await counts("/v2/models/scaled/versions/3/stats") == {"3": 1}
        assert await counts(STATS, accept_version="v1.1") == {"1": 5}
        assert await counts(STATS, accept_version="v2") == {"3": 1}
        assert await counts("/v2/models/stats", "one-line") == {"3": 1}
        assert await counts("/v2/models/stats", "none") == {}
        status, found = await desk.ask("GET", "/v2/models/scaled/config", accept_version="v2")
        assert (status, found["name"]) == (200, "scaled")
        assert found["version_policy"] == {"specific": {"versions": [3]}}


async def test_a_worker_that_has_just_come_up_is_asked_before_it_is_routed(desk: Desk) -> None:
    """Whoever was held for it has his answer already, and may ask what was counted."""
    one = RevisionId("scaled", "v1", "1")
    async with desk.worker("w1", one, 1, 2):
        desk.view.behind = Behind()
        assert await desk.ask("GET", STATS) == (200, {"model_stats": []})
        there = (desk.replica("w1", one), desk.replica("old", RevisionId("gone", "v1", "1")))
        desk.view.node = NodeStatus("local", 0.0, 1, 1, there)
        status, found = await desk.ask("GET", STATS)
        assert (status, [each["inference_count"] for each in found["model_stats"]]) == (200, [2])


async def test_no_worker_is_no_configuration_and_no_statistics(desk: Desk) -> None:
    assert await desk.ask("GET", STATS) == (200, {"model_stats": []})
    status, found = await desk.ask("GET", "/v2/models/other/config")
    assert status == 503
    assert "no worker of other/v1.1 answers" in found["error"]


@pytest.mark.parametrize("action", ["stats", "config"])
@pytest.mark.parametrize(
    ("key", "path", "status"),
    [
        ("all", "/v2/models/nobody", 404),
        ("all", "/v2/models/scaled/versions/9", 404),
        ("no-read", "/v2/models/scaled", 403),
        ("one-line", "/v2/models/other", 403),
        ("one-line", "/v2/models/scaled/versions/1", 403),
        ("none", "/v2/models/scaled", 403),
    ],
)
async def test_what_a_key_may_not_read_is_refused_as_anywhere(
    desk: Desk, key: str, path: str, status: int, action: str
) -> None:
    assert (await desk.ask("GET", f"{path}/{action}", key))[0] == status


@pytest.mark.parametrize("name", ["scaled", "nobody"])
@pytest.mark.parametrize("action", ["load", "unload"])
async def test_no_key_loads_or_unloads_and_none_learns_what_there_is(
    desk: Desk, name: str, action: str
) -> None:
    status, found = await desk.ask("POST", f"/v2/repository/models/{name}/{action}", "none")
    assert status == 403
    assert found["error"].startswith(f"failed to {action} '{name}': no key may load or unload")
    for command in ("apply", "kill", "revive"):
        assert f"`fairlead {command}`" in found["error"]


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("/v2/trace/setting", "trace"),
        ("/v2/models/scaled/trace/setting", "trace"),
        ("/v2/logging", "logging"),
        ("/v2/systemsharedmemory/region/r/register", "system_shared_memory"),
        ("/v2/cudasharedmemory/status", "cuda_shared_memory"),
    ],
)
async def test_an_extension_that_is_not_here_is_named(desk: Desk, path: str, name: str) -> None:
    for method in ("GET", "POST"):
        status, found = await desk.ask(method, path)
        assert status == 404
        assert f"the extension {name} is not served here; extensions: " in found["error"]
        assert name not in EXTENSIONS


async def test_a_body_comes_with_its_request_and_only_its_first_megabyte(desk: Desk) -> None:
    transport = httpx.ASGITransport(desk.app)
    async with httpx.AsyncClient(transport=transport, base_url="http://desk") as client:
        sent = {"x-client": "all"}
        answer = await client.post(INDEX, json={"ready": True}, headers=sent)
        assert len(answer.json()) == 4
        answer = await client.post(INDEX, content=b" " * (3 << 20), headers=sent)
        assert answer.status_code == 200


async def test_a_killed_key_is_told_so_by_the_index_too(desk: Desk) -> None:
    keys = {**WANTED.keys, "all": replace(WANTED.keys["all"], killed="stopped")}
    desk.route(WANTED.live(), wanted=replace(WANTED, keys=keys))
    for method, path in (("POST", INDEX), ("GET", "/v2/models/stats"), ("GET", STATS)):
        assert await desk.ask(method, path) == (403, {"error": "stopped"})
