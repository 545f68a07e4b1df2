"""Code that hangs keeps its thread; the process says so to whoever asks, and a request pays nothing for it."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fairlead.api.cancellation import Cancellation, running, under_way
from fairlead.api.held import Held, held_from_json, held_to_json
from fairlead.api.worker import WorkerSpec
from fairlead.domain.ids import RevisionId
from support.models import example, make_artifact
from support.serving import InProcess, eventually, in_process

WAITS = """
import threading
class Model:
    def predict(self, request: float) -> str:
        threading.Event().wait(request)
        return "done"
"""
SEVERAL_AT_ONCE = WAITS.replace("class Model:", "class Model:\n    concurrent = True")
BATCHED = """
import threading
class Model:
    def predict(self, request: float) -> str:
        return self.predict_batch([request])[0]
    def predict_batch(self, requests: list[float]) -> list[str]:
        threading.Event().wait(max(requests))
        return ["done"] * len(requests)
"""
REVISION = RevisionId("code", "v1", "1")


def serves(tmp_path: Path, code: str) -> WorkerSpec:
    made = make_artifact(tmp_path, {"model.py": code}, [example(0, "done")])
    spec = made.spec(REVISION)
    if code is not BATCHED:
        return spec
    batched = (replace(one, batching={"enabled": True}) for one in spec.endpoints)
    return replace(spec, endpoints=tuple(batched))


async def replica(serving: InProcess) -> Mapping[str, Any]:
    found: Mapping[str, Any] = (await serving.client.get("/internal/replicas")).json()
    return dict(found["replicas"][0])


async def given_up(serving: InProcess, seconds: str) -> None:
    """A request whose caller stops waiting long before its run ends."""
    answer = await serving.client.post(
        "/v1/model/code/predict",
        content=seconds.encode(),
        headers={"X-Request-Timeout-Ms": "50"},
    )
    assert answer.status_code == 504


@pytest.mark.parametrize("code", [WAITS, BATCHED])
async def test_a_run_that_nobody_waits_for_and_that_leaves_no_place_is_told(
    tmp_path: Path, code: str
) -> None:
    async with in_process(serves(tmp_path, code)) as serving:
        assert bool(serving.plane.endpoints()[0].batcher) == (code is BATCHED)
        assert (await replica(serving))["held"] is None
        await given_up(serving, "0.8")
        first = held_from_json((await replica(serving))["held"])
        assert first is not None
        assert 0.05 <= first.seconds < 0.8
        assert 0 < first.left_seconds < first.seconds
        await eventually(lambda: not under_way())
        assert (await replica(serving))["held"] is None, "it came back"


async def test_a_run_that_somebody_waits_for_holds_nothing(tmp_path: Path) -> None:
    async with in_process(serves(tmp_path, WAITS)) as serving:
        waiting = asyncio.ensure_future(
            serving.client.post("/v1/model/code/predict", content=b"0.3")
        )
        await eventually(lambda: bool(under_way()))
        assert (await replica(serving))["held"] is None
        assert (await waiting).json() == "done"


async def test_a_place_that_is_left_is_enough(tmp_path: Path) -> None:
    async with in_process(serves(tmp_path, SEVERAL_AT_ONCE)) as serving:
        limit = serving.artifacts[0].threads.limit
        for _ in range(limit - 1):
            await given_up(serving, "2")
        assert (await replica(serving))["held"] is None
        await given_up(serving, "2")
        told = held_from_json((await replica(serving))["held"])
        assert told is not None
        assert told.left_seconds < 0.05 * limit, "since the last place was taken"
        await eventually(lambda: not under_way())


def test_only_what_has_had_its_time_and_is_awaited_by_nobody_is_beyond_it() -> None:
    assert Held(40.0, 39.0).beyond(35.0) == 5.0
    assert Held(40.0, 2.0).beyond(35.0) == 2.0
    assert Held(20.0, 19.0).beyond(35.0) == 0.0


@pytest.mark.parametrize("document", [None, [], {}, {"seconds": "1", "left_seconds": 1}])
def test_what_is_no_word_of_runs_is_none(document: object) -> None:
    assert held_from_json(document) is None
    assert held_to_json(None) is None
    assert held_from_json(held_to_json(Held(2.0, 1.0))) == Held(2.0, 1.0)


def test_a_run_is_under_way_while_it_goes_on_and_left_once_it_is_cancelled() -> None:
    run = Cancellation()
    with running(run):
        (one,) = under_way()
        assert (one.thread, one.left_seconds) == ("MainThread", 0.0)
        run.cancel()
        (one,) = under_way()
        assert one.seconds >= one.left_seconds >= 0
        left_at = run.left_at
        run.cancel()
        assert run.left_at == left_at > 0
    assert under_way() == []
