"""Code that hangs keeps its thread; the process says so to whoever asks, and a request pays nothing for it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fairlead.api.cancellation import Cancellation, running, under_way
from fairlead.api.held import Held, held_from_json, held_to_json
from fairlead.api.inference import InferRequest, InferResponse
from fairlead.api.worker import WorkerSpec
from fairlead.domain.ids import RevisionId
from support.models import example, make_artifact
from support.serving import InProcess, eventually, in_process

WAITS = """
import os, time
class Model:
    def predict(self, until: str) -> str:
        while not os.path.exists(until):
            time.sleep(0.005)
        return "done"
"""
SEVERAL_AT_ONCE = WAITS.replace("class Model:", "class Model:\n    concurrent = True")
BATCHED = f"""{WAITS}
    def predict_batch(self, gates: list[str]) -> list[str]:
        return [self.predict(one) for one in gates]
"""
REVISION = RevisionId("code", "v1", "1")


def serves(tmp_path: Path, code: str) -> WorkerSpec:
    made = make_artifact(tmp_path, {"model.py": code}, [example("/", "done")])
    spec = made.spec(REVISION)
    if code is not BATCHED:
        return spec
    batched = (replace(one, batching={"enabled": True}) for one in spec.endpoints)
    return replace(spec, endpoints=tuple(batched))


async def replica(serving: InProcess) -> Mapping[str, Any]:
    found: Mapping[str, Any] = (await serving.client.get("/internal/replicas")).json()
    return dict(found["replicas"][0])


async def begun(serving: InProcess, gate: Path) -> asyncio.Task[InferResponse]:
    """A request whose run goes on until there is a file `gate`."""
    before = len(under_way())
    one = serving.plane.endpoints()[0]
    asked = asyncio.ensure_future(one.infer(InferRequest(document=str(gate)), 60))
    await eventually(lambda: len(under_way()) > before)
    return asked


async def given_up(serving: InProcess, gate: Path) -> None:
    """The same, and its caller leaves."""
    asked = await begun(serving, gate)
    asked.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await asked


@pytest.mark.parametrize("code", [WAITS, BATCHED])
async def test_a_run_that_nobody_waits_for_and_that_leaves_no_place_is_told(
    tmp_path: Path, code: str
) -> None:
    gate = tmp_path / "gate"
    async with in_process(serves(tmp_path, code)) as serving:
        assert bool(serving.plane.endpoints()[0].batcher) == (code is BATCHED)
        assert (await replica(serving))["held"] is None
        await given_up(serving, gate)
        first = held_from_json((await replica(serving))["held"])
        then = held_from_json((await replica(serving))["held"])
        assert first is not None
        assert then is not None
        assert 0 < first.left_seconds < first.seconds < then.seconds
        gate.touch()
        await eventually(lambda: not under_way())
        assert (await replica(serving))["held"] is None, "it came back"


async def test_a_run_that_somebody_waits_for_holds_nothing(tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    async with in_process(serves(tmp_path, WAITS)) as serving:
        asked = await begun(serving, gate)
        assert (await replica(serving))["held"] is None
        gate.touch()
        assert (await asked).document == "done"


async def test_a_place_that_is_left_is_enough(tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    async with in_process(serves(tmp_path, SEVERAL_AT_ONCE)) as serving:
        for _ in range(serving.artifacts[0].threads.limit - 1):
            await given_up(serving, gate)
        assert (await replica(serving))["held"] is None
        await given_up(serving, gate)
        told = held_from_json((await replica(serving))["held"])
        assert told is not None
        now = [one.left_seconds for one in under_way()]
        assert told.left_seconds <= min(now), "since the last place was taken"
        gate.touch()
        await eventually(lambda: not under_way())


async def test_a_run_that_keeps_every_slot_leaves_no_place_either(tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    spec = serves(tmp_path, SEVERAL_AT_ONCE)
    narrow = tuple(replace(one, concurrency=1) for one in spec.endpoints)
    async with in_process(replace(spec, endpoints=narrow)) as serving:
        await given_up(serving, gate)
        assert (await replica(serving))["held"] is not None
        gate.touch()
        await eventually(lambda: not under_way())
    other = replace(narrow[0], name="other", paths=("/other",))
    gate.unlink()
    async with in_process(replace(spec, endpoints=(*narrow, other))) as serving:
        await given_up(serving, gate)
        assert (await replica(serving))["held"] is None, "the other endpoint is asked as before"
        gate.touch()
        await eventually(lambda: not under_way())


async def test_a_server_is_not_ready_while_such_a_run_keeps_a_model_from_everybody(
    tmp_path: Path,
) -> None:
    """Where no agent asks, a load balancer does."""
    gate = tmp_path / "gate"
    code = f"{WAITS}# another model"
    other = make_artifact(tmp_path / "b", {"model.py": code}, [example("/", "done")])
    specs = [
        replace(serves(tmp_path / "a", WAITS), drain_seconds=0.01),
        other.spec(RevisionId("other", "v1", "1")),
    ]
    async with in_process(*specs) as serving:
        asked = await begun(serving, gate)
        assert (await serving.client.get("/healthz")).status_code == 200, "somebody waits for it"
        asked.cancel()
        (run,) = under_way()
        await eventually(lambda: any(one.seconds > run.seconds + 0.02 for one in under_way()))
        for path in ("/healthz", "/v1/ready", "/v2/health/ready", "/v2/models/code/ready"):
            told = await serving.client.get(path)
            assert told.status_code == 503, path
            document = told.json()
            assert document["ready"] is False
            (problem,) = document["problems"]
            assert problem.startswith("code/v1.1: a run nobody waits for has gone on for ")
        for path in ("/livez", "/v2/models/other/ready"):
            assert (await serving.client.get(path)).status_code == 200, path
        gate.touch()
        await eventually(lambda: not under_way())
        assert (await serving.client.get("/healthz")).json() == {"ready": True}


async def test_a_run_that_has_not_had_its_time_yet_leaves_the_server_ready(tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    async with in_process(serves(tmp_path, WAITS)) as serving:
        await given_up(serving, gate)
        assert (await replica(serving))["held"] is not None
        assert (await serving.client.get("/healthz")).status_code == 200
        gate.touch()
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
