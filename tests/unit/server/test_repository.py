"""Loading and unloading in a stand-alone server, without a network."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import weakref
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from fairlead.api.worker import ServingSettings
from fairlead.domain.ids import ArtifactRef, RevisionId
from fairlead.kits.clock import SystemClock
from fairlead.server import repository
from fairlead.server.http.routes import ServedRevision
from fairlead.server.http.serve import Listen
from fairlead.server.loading import LoadedArtifact
from fairlead.server.repository import Repository
from fairlead.server.worker import no_control
from support.models import Artifact, echo_artifact, example, make_artifact, scaled_artifact
from support.serving import InProcess, eventually, in_process

ROW = {"inputs": [{"name": "x", "shape": [1, 3], "datatype": "FP32", "data": [1, 2, 3]}]}
SLOW = """
import os, time
class Model:
    def predict(self, until: str) -> str:
        while not os.path.exists(until):
            time.sleep(0.005)
        return "done"
"""


@dataclass
class Started:
    running: InProcess
    artifacts: dict[str, Artifact]

    async def change(self, name: str, action: str, **parameters: Any) -> tuple[int, Any]:
        body = {"parameters": parameters} if parameters else None
        answer = await self.running.client.post(f"/v2/repository/models/{name}/{action}", json=body)
        return answer.status_code, answer.json()

    async def states(self, **body: Any) -> list[tuple[str, str, str]]:
        answer = await self.running.client.post("/v2/repository/index", json=body or None)
        return [(one["name"], one["version"], one["state"]) for one in answer.json()]


@contextlib.asynccontextmanager
async def started(directory: Path) -> AsyncIterator[Started]:
    artifacts = {
        "scaled/1": scaled_artifact(directory / "a", 2.0, 1),
        "scaled/2": scaled_artifact(directory / "b", 3.0, 2),
        "echo/1": echo_artifact(directory / "c"),
        "slow/1": make_artifact(
            directory / "d", {"model.py": SLOW}, [example("/", "done")], ArtifactRef("slow", 1)
        ),
    }
    specs = [
        one.spec(RevisionId(*name.split("/")[:1], "v1", name.split("/")[1]), drain_seconds=20)
        for name, one in artifacts.items()
    ]
    async with in_process(*specs, versioned=True) as running:
        repository = Repository(specs, running.plane, running.app, SystemClock())
        served = [
            ServedRevision(spec, one) for spec, one in zip(specs, running.artifacts, strict=True)
        ]
        repository.start(served)
        running.app.give_control(repository, "")
        yield Started(running, artifacts)


async def test_unloading_takes_every_version_away_and_loading_brings_them_back(
    tmp_path: Path,
) -> None:
    async with started(tmp_path) as one:
        client = one.running.client
        before = [("scaled", "1", "READY"), ("scaled", "2", "READY"), ("echo", "1", "READY")]
        assert (await one.states())[:3] == before
        assert await one.change("scaled", "unload") == (200, {})
        assert await one.change("scaled", "unload") == (200, {})
        assert [state for _, _, state in await one.states()][:3] == [
            "UNAVAILABLE",
            "UNAVAILABLE",
            "READY",
        ]
        assert [name for name, *_ in await one.states(ready=True)] == ["echo", "slow"]
        gone = "Request for unknown model: 'scaled' has no available versions: unloaded"
        for method, path in (
            ("POST", "/infer"),
            ("GET", ""),
            ("GET", "/ready"),
            ("GET", "/versions/1/ready"),
            ("GET", "/stats"),
            ("GET", "/config"),
        ):
            answer = await client.request(method, f"/v2/models/scaled{path}", json=ROW)
            assert (answer.status_code, answer.json()) == (503, {"error": gone}), path
        for method, path in (("POST", "predict"), ("GET", "bio")):
            answer = await client.request(method, f"/v1/model/scaled/{path}", json=ROW)
            told = {"detail": "'scaled' has no available versions: unloaded"}
            assert (answer.status_code, answer.json()) == (503, told), path
            assert answer.headers["x-error-code"] == "unavailable"
        for path in ("/v1/model/scaled/other", "/v1/model/nope/predict", "/v1/model/scaled"):
            assert (await client.post(path, json=ROW)).status_code == 404, path
        assert (await client.post("/v1/model/echo/predict", json={"text": "a"})).is_success
        assert (await client.get("/v2/health/ready")).is_success
        assert await one.change("scaled", "load") == (200, {})
        assert await one.change("scaled", "load") == (200, {})
        for version, factor in ((1, 2.0), (2, 3.0)):
            answer = await client.post(f"/v2/models/scaled/versions/{version}/infer", json=ROW)
            assert answer.json()["outputs"][0]["data"][0] == factor
        assert (await one.states())[:3] == before


async def test_what_is_unloaded_is_freed(tmp_path: Path) -> None:
    async with started(tmp_path) as one:
        await one.change("scaled", "unload")
        await one.change("scaled", "load")  # what is loaded now, this test itself does not hold
        assert (await one.running.client.post("/v2/models/scaled/infer", json=ROW)).is_success
        models = [
            weakref.ref(endpoint.model)
            for endpoint in one.running.plane.endpoints()
            if endpoint.id.service == "scaled"
        ]
        assert len(models) == 2
        await one.change("scaled", "unload")
        gc.collect()
        assert [found() for found in models] == [None, None]


async def test_what_was_loaded_for_a_model_that_does_not_load_is_freed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At once, and not with the next look for garbage; and its memory is given back."""
    load, given = repository.load_artifact, list[str]()
    loaded: list[weakref.ref[Any]] = []

    async def second_fails(*args: Any, **kwargs: Any) -> LoadedArtifact:
        if loaded:
            raise ValueError("no second one")
        made = await load(*args, **kwargs)
        loaded.append(weakref.ref(made.model))
        return made

    async with started(tmp_path) as one:
        await one.change("scaled", "unload")
        monkeypatch.setattr(repository, "load_artifact", second_fails)
        monkeypatch.setattr(repository.memory, "give_back", lambda: given.append("back"))
        # What is logged is kept for tests, with the frames it came from.
        monkeypatch.setattr(logging.getLogger("fairlead.server.repository"), "disabled", True)
        gc.collect()
        gc.disable()
        try:
            assert (await one.change("scaled", "load"))[0] == 500
            await eventually(lambda: loaded[0]() is None)  # a thread may be about to let it go
        finally:
            gc.enable()
        assert given == ["back"]


async def test_a_request_under_way_is_answered_before_its_model_goes(tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    async with started(tmp_path) as one, asyncio.TaskGroup() as group:
        client = one.running.client
        asked = group.create_task(client.post("/v1/model/slow/predict", json=str(gate)))
        await eventually(lambda: under_way(one))
        unloading = group.create_task(one.change("slow", "unload"))
        await eventually(lambda: gone(one, "slow"))
        for _ in range(5):  # time enough for one that does not wait
            refused = await client.post("/v1/model/slow/predict", json="/")
            assert refused.status_code == 503
            assert refused.json() == {"detail": "'slow' has no available versions: unloading"}
        assert (await one.states())[-1] == ("slow", "1", "UNLOADING")
        assert not unloading.done()
        gate.touch()
        assert (await asked).json() == "done"
        assert (await unloading) == (200, {})


async def test_a_run_whose_caller_has_left_is_over_before_its_model_is_unloaded(
    tmp_path: Path,
) -> None:
    """It holds what the model took: that could not be given back before."""
    gate = tmp_path / "gate"
    async with started(tmp_path) as one, asyncio.TaskGroup() as group:
        client = one.running.client
        asked = client.post(
            "/v1/model/slow/predict", json=str(gate), headers={"x-request-timeout-ms": "50"}
        )
        assert (await asked).status_code == 504
        assert not under_way(one)
        unloading = group.create_task(one.change("slow", "unload"))
        await eventually(lambda: gone(one, "slow"))
        done, _ = await asyncio.wait(
            {unloading}, timeout=0.5
        )  # time enough for one that does not wait
        assert not done
        gate.touch()
        assert (await unloading) == (200, {})


async def test_a_model_that_is_loaded_again_is_unavailable_until_it_is_proved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, may_go_on = asyncio.Event(), asyncio.Event()
    load = repository.load_artifact

    async def held(*args: Any, **kwargs: Any) -> LoadedArtifact:
        begun.set()
        await may_go_on.wait()
        return await load(*args, **kwargs)

    async with started(tmp_path) as one, asyncio.TaskGroup() as group:
        client = one.running.client
        await one.change("scaled", "unload")
        monkeypatch.setattr(repository, "load_artifact", held)
        loading = group.create_task(one.change("scaled", "load"))
        await begun.wait()
        refused = await client.post("/v1/model/scaled/predict", json=ROW)
        assert refused.status_code == 503
        assert refused.json() == {"detail": "'scaled' has no available versions: loading"}
        may_go_on.set()
        assert await loading == (200, {})
        answer = await client.post("/v1/model/scaled/predict", json={"instances": [[1, 2, 3]]})
        assert answer.is_success


def under_way(one: Started) -> bool:
    return any(route.in_progress for route in one.running.plane.stats if route.endpoint)


async def gone(one: Started, name: str) -> bool:
    return (name, "1", "READY") not in await one.states()


async def test_a_model_that_does_not_load_is_said_and_leaves_the_others_alone(
    tmp_path: Path,
) -> None:
    async with started(tmp_path) as one:
        await one.change("scaled", "unload")
        path = one.artifacts["scaled/2"].directory / "model.onnx"
        good = path.read_bytes()
        path.write_bytes(good[:-1] + b"x")
        status, body = await one.change("scaled", "load")
        assert status == 409
        assert body["error"].startswith("failed to load 'scaled': ")
        assert "SHA-256" in body["error"]
        reason = (await one.running.client.get("/v2/models/scaled")).json()["error"]
        assert "SHA-256" in reason
        assert (await one.running.client.get("/v2/models/echo")).is_success
        path.write_bytes(good)
        assert await one.change("scaled", "load") == (200, {})
        assert (await one.running.client.post("/v2/models/scaled/infer", json=ROW)).is_success


@pytest.mark.parametrize(
    ("name", "action", "parameters", "status", "text"),
    [
        ("nope", "load", {}, 404, "failed to load 'nope': no such model here; models: scaled, echo, slow"),
        ("nope", "unload", {}, 404, "failed to unload 'nope'"),
        ("scaled", "load", {"config": "{}"}, 400, "failed to load 'scaled': config cannot be given"),
        ("scaled", "load", {"file:1/model.onnx": "eA=="}, 400, "publish another version"),
    ],
)  # fmt: skip
async def test_what_cannot_be_done_is_refused(
    tmp_path: Path, name: str, action: str, parameters: Any, status: int, text: str
) -> None:
    async with started(tmp_path) as one:
        found, body = await one.change(name, action, **parameters)
        assert found == status
        assert text in body["error"]


@pytest.mark.parametrize("body", [b"{", b"[1]", b'{"parameters": 3}', b"\xff"])
async def test_a_wrong_body_is_told(tmp_path: Path, body: bytes) -> None:
    async with started(tmp_path) as one:
        answer = await one.running.client.post("/v2/repository/models/echo/load", content=body)
        assert answer.status_code == 400
        assert answer.json()["error"].startswith("the body is wrong: ")
        large = await one.running.client.post("/v2/repository/index", content=b" " * 100_000)
        assert large.status_code == 413


async def test_changes_at_once_are_made_one_after_another(tmp_path: Path) -> None:
    async with started(tmp_path) as one:
        actions = ["unload", "load", "unload", "load", "unload", "load"]
        found = await asyncio.gather(*(one.change("scaled", action) for action in actions))
        assert found == [(200, {})] * 6
        assert ("scaled", "1", "READY") in await one.states()
        assert (await one.running.client.post("/v2/models/scaled/infer", json=ROW)).is_success


async def test_a_worker_refuses_what_is_its_agents(tmp_path: Path) -> None:
    async with in_process(scaled_artifact(tmp_path).spec(RevisionId("scaled", "v1", "1"))) as one:
        answer = await one.client.post("/v2/repository/models/scaled/unload")
        assert answer.status_code == 403
        assert "the agent of this node decides" in answer.json()["error"]
        index = (await one.client.post("/v2/repository/index")).json()
        assert index == [{"name": "scaled", "version": "1", "state": "READY", "reason": ""}]


@pytest.mark.parametrize(
    ("listen", "forced", "text"),
    [
        (Listen(host="127.0.0.1"), False, ""),
        (Listen(host="0.0.0.0"), False, "FAIRLEAD_SERVING_MODEL_CONTROL=true"),
        (Listen(host="0.0.0.0"), True, ""),
        (Listen(host="127.0.0.1", shared=True), True, "start the server with one worker"),
        (Listen(uds=Path("/w.sock")), True, "the agent of this node decides"),
    ],
)
def test_who_may_load_and_unload_follows_from_where_the_server_listens(
    listen: Listen, forced: bool, text: str
) -> None:
    found = no_control(listen, ServingSettings(model_control=forced))
    assert text in found
    assert bool(found) == bool(text)
