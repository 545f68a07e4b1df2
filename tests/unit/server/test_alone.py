"""Requests that run one by one: in threads, in order, with the limits of their queue, and without anybody's tricks."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path
from typing import Any

import httpx
import pytest

from fairlead.api.worker import ServedEndpoint
from fairlead.domain.ids import RevisionId
from fairlead.server.endpoint import Endpoint
from fairlead.server.threads import Threads
from support.models import example, make_artifact
from support.serving import InProcess, eventually, in_process, listening

CODE = RevisionId("code", "v1", "1")
PATH = "/v1/model/code/predict"
# Waits until a file is there, and tells who came before its end.
WAITS = """
import pathlib, time
seen = []
class Model:
    def predict(self, request: dict) -> dict:
        gate = pathlib.Path(request["gate"])
        seen.append(request["n"])
        while request["gate"] and not gate.exists():
            time.sleep(0.002)
        return {"n": request["n"], "order": list(seen) if request["gate"] else [0]}
"""
GOLDEN = [example({"n": 0, "gate": ""}, {"n": 0, "order": [0]})]
# Refuses a batch with 666 in it, and changes what it was given before it says so.
CHANGES = """
class Model:
    def predict(self, request: dict) -> dict:
        return self.predict_batch([request])[0]
    def predict_batch(self, requests: list[dict]) -> list[dict]:
        if any(one["x"] == 666 for one in requests):
            for one in requests:
                one["x"] += 1
            raise ValueError("not this one")
        return [{"y": 2 * one["x"]} for one in requests]
"""


def waits(tmp_path: Path, *endpoints: ServedEndpoint) -> Any:
    made = make_artifact(tmp_path / "waits", {"model.py": WAITS}, GOLDEN)
    return made.spec(CODE, endpoints=endpoints or (ServedEndpoint(),))


def post(
    client: httpx.AsyncClient, n: int, gate: Path, path: str = PATH, **headers: str
) -> asyncio.Task[httpx.Response]:
    asked = {"n": n, "gate": str(gate)}
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return asyncio.create_task(client.post(path, json=asked, headers=named))


def runs(one: InProcess) -> Endpoint:
    (endpoint,) = one.plane.endpoints()
    assert endpoint.threaded is not None
    assert endpoint.batcher is None, "no two of them share a run"
    return endpoint


async def test_each_request_has_a_run_of_its_own(tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    async with in_process(waits(tmp_path)) as one, listening(one.app, tmp_path / "s") as path:
        endpoint = runs(one)
        transport = httpx.AsyncHTTPTransport(uds=str(path))
        async with httpx.AsyncClient(transport=transport, base_url="http://w", timeout=40) as wire:
            for client in (one.client, wire):  # as ASGI has it, and as a connection brings it
                gate.unlink(missing_ok=True)
                tasks = [post(client, n, gate) for n in range(5)]
                await eventually(lambda: endpoint.admission.taken == 5)
                gate.touch()
                answers = [await task for task in tasks]
                assert [answer.json()["n"] for answer in answers] == [0, 1, 2, 3, 4]
                assert all("batch;desc=1" in one.headers["server-timing"] for one in answers)
        metrics = (await one.client.get("/metrics")).text
        assert "fairlead_batch_size" not in metrics
        assert endpoint.executions.requests == 10


async def test_the_limits_of_the_queue_hold_without_batches_too(tmp_path: Path) -> None:
    said = {
        "enabled": False,
        "maxQueueSize": 2,
        "defaultTimeoutMicroseconds": 50_000,
        "priorityLevels": 2,
    }
    gate = tmp_path / "gate"
    async with in_process(waits(tmp_path, ServedEndpoint(batching=said))) as one:
        endpoint = runs(one)
        assert endpoint.threaded is not None
        first = post(one.client, 0, gate)
        await eventually(lambda: endpoint.threaded is not None and not endpoint.threaded.waiting)
        at_once = endpoint.threaded.abreast
        running = [post(one.client, n, gate) for n in range(1, at_once)]
        await eventually(lambda: endpoint.admission.taken == at_once)
        await eventually(lambda: endpoint.threaded is not None and not endpoint.threaded.waiting)
        late = [post(one.client, 100 + n, gate) for n in range(2)]
        await eventually(lambda: endpoint.threaded is not None and endpoint.threaded.waiting == 2)
        full = await post(one.client, 200, gate)
        assert full.status_code == 503
        assert "2 requests wait for this model already" in full.text
        for refused in late:
            answer = await refused
            assert answer.status_code == 504
            assert "no run within 0.05 s" in answer.text
        for level, words in (("abc", "is no level"), ("4", "priority 4 is no level of this model")):
            wrong = await post(one.client, 300, gate, X_Request_Priority=level)
            assert wrong.status_code == 400
            assert words in wrong.text
        gate.touch()
        assert {(await task).status_code for task in (first, *running)} == {200}


async def test_a_burst_at_an_idle_model_does_not_fill_its_queue(tmp_path: Path) -> None:
    """What a free thread is about to take does not wait."""
    said = {"enabled": False, "maxQueueSize": 1}
    gate = tmp_path / "gate"
    async with in_process(waits(tmp_path, ServedEndpoint(batching=said))) as one:
        threaded = runs(one).threaded
        assert threaded is not None
        tasks = [post(one.client, n, gate) for n in range(threaded.abreast + 4)]
        await eventually(lambda: sum(task.done() for task in tasks) == 3)
        gate.touch()
        statuses = [(await task).status_code for task in tasks]
        assert statuses.count(503) == 3
        assert statuses.count(200) == threaded.abreast + 1


async def test_what_a_batch_changed_before_it_failed_is_as_it_was_asked(tmp_path: Path) -> None:
    made = make_artifact(tmp_path, {"model.py": CHANGES}, [example({"x": 1}, {"y": 2})])
    said = {"enabled": True, "maxBatchSize": 16, "maxQueueDelayMicroseconds": 100_000}
    spec = made.spec(CODE, endpoints=(ServedEndpoint(batching=said),))
    async with in_process(spec) as one:
        asked = [1, 2, 3, 666, 4, 5, 6, 7]
        tasks = [asyncio.create_task(one.client.post(PATH, json={"x": x})) for x in asked]
        for x, task in zip(asked, tasks, strict=True):
            answer = await task
            if x == 666:
                assert answer.status_code == 500
            else:
                assert answer.json() == {"y": 2 * x}


@pytest.mark.parametrize("batching", [{"enabled": False}, {"enabled": True, "maxBatchSize": 1}])
async def test_an_endpoint_with_a_long_queue_lets_the_other_of_its_model_have_its_turn(
    tmp_path: Path, batching: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fairlead.server.loading._runs_at_once", lambda _: 1)
    gate = tmp_path / "gate"
    code = WAITS + (
        "    def predict_batch(self, requests: list[dict]) -> list[dict]:\n"
        "        return [self.predict(one) for one in requests]\n"
    )
    made = make_artifact(tmp_path / "waits", {"model.py": code}, GOLDEN)
    endpoints = (
        ServedEndpoint(batching=batching),
        ServedEndpoint(name="other", paths=("/other",), batching=batching),
    )
    async with in_process(made.spec(CODE, endpoints=endpoints)) as one:
        busy = [post(one.client, n, gate) for n in range(1, 9)]
        first, second = one.plane.endpoints()
        await eventually(lambda: first.admission.taken == 8)
        other = post(one.client, 99, gate, "/other")
        await eventually(lambda: second.admission.taken == 1)
        gate.touch()
        order = (await other).json()["order"]
        assert order.index(99) <= order.index(1) + 2, "not behind all eight"
        await asyncio.gather(*busy)


def test_closed_threads_are_wanted_by_nobody() -> None:
    threads = Threads("t", 1)
    held, begun = threading.Event(), threading.Event()
    threads.submit(lambda: (begun.set(), held.wait(10)))
    assert begun.wait(10)
    assert not threads.wanted
    threads.submit(lambda: None)
    assert threads.wanted
    threads.close()
    assert not threads.wanted
    held.set()
