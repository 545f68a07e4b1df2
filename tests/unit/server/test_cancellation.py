"""Deadlines and clients that leave: what still waits goes at once, what runs is told, and wasted work is counted."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, strategies as st
from onnx import helper

from fairlead.api.cancellation import Cancellation, cancelled, current, running
from fairlead.api.deadlines import is_impatient, is_named, seconds_to_answer
from fairlead.api.inference import InferRequest
from fairlead.domain.errors import FairleadError, Kind, Refused
from fairlead.domain.ids import EndpointId, RevisionId
from fairlead.kits.clock import SystemClock
from fairlead.server.endpoint import Endpoint
from fairlead.server.loading import load_artifact
from support.models import FLOAT, example, make_artifact, onnx_bytes, scaled_artifact
from support.serving import InProcess, eventually, in_process

FREES_WITHIN = 0.1  # seconds: what a client that leaves may keep its slot

PATIENT = """
import asyncio
class Model:
    async def predict(self, request: float) -> str:
        await asyncio.sleep(request)
        return "done"
"""
POLITE = """
import threading
from fairlead.api.cancellation import cancelled
class Model:
    def predict(self, request: float) -> str:
        nobody = threading.Event()
        waited = 0.0
        while waited < request:
            if cancelled():
                raise RuntimeError("told to stop")
            nobody.wait(0.01)
            waited += 0.01
        return "done"
"""
STUBBORN = """
import threading
class Model:
    def predict(self, request: float) -> str:
        threading.Event().wait(request)
        return "done"
"""


def long_graph(width: int = 384, nodes: int = 400) -> bytes:
    """`x` [n, width] times the same matrix again and again: seconds of work in steps of milliseconds."""
    names = ["x", *(f"h{number}" for number in range(nodes - 1)), "y"]
    steps = [
        helper.make_node("MatMul", [names[number], "w"], [names[number + 1]])
        for number in range(nodes)
    ]
    port = ("x", FLOAT, ["n", width])
    return onnx_bytes([port], [("y", *port[1:])], steps, {"w": np.eye(width, dtype=np.float32)})


async def leave_during(one: Endpoint, request: InferRequest) -> float:
    """Start a run, leave; seconds until the slot is free. The best of three: a machine may be busy."""
    return min([await _leave(one, request) for _ in range(3)])


async def _leave(one: Endpoint, request: InferRequest) -> float:
    loop = asyncio.get_running_loop()
    async with asyncio.TaskGroup() as group:
        task = group.create_task(one.infer(request, 60))
        await eventually(lambda: one.admission.taken == 1 and not task.done())
        await asyncio.sleep(0.03)  # well inside the run
        start = loop.time()
        task.cancel()
        await eventually(lambda: one.admission.taken == 0)
        return loop.time() - start


async def test_an_onnx_run_ends_when_its_client_leaves(tmp_path: Path) -> None:
    row = np.zeros((1, 384), np.float32).tolist()
    made = make_artifact(tmp_path, {"model.onnx": long_graph()}, [example({"x": row}, {"y": row})])
    loaded = await load_artifact(made.directory, made.digest, 1, SystemClock())
    one = Endpoint(EndpointId("long", "v1", "1"), loaded, 1, 60, SystemClock())
    request = InferRequest({"x": np.ones((1024, 384), np.float32)})
    assert await leave_during(one, request) < FREES_WITHIN
    assert 0.03 < one.wasted_seconds < 10
    assert loaded.busy == 0
    small = InferRequest({"x": np.ones((1, 384), np.float32)})
    answer = await one.infer(small, 60)
    assert answer.tensors["y"].shape == (1, 384), "the next run is whole"
    loaded.close()


@pytest.mark.parametrize("code", [PATIENT, POLITE])
async def test_code_that_waits_or_asks_ends_when_its_client_leaves(
    tmp_path: Path, code: str, caplog: pytest.LogCaptureFixture
) -> None:
    made = make_artifact(tmp_path, {"model.py": code}, [example(0, "done")])
    loaded = await load_artifact(made.directory, made.digest, 1, SystemClock())
    one = Endpoint(EndpointId("code", "v1", "1"), loaded, 1, 60, SystemClock())
    assert await leave_during(one, InferRequest(document=30.0)) < FREES_WITHIN
    assert 0.03 < one.wasted_seconds < 10
    assert not caplog.records, "code that stops when it is told has not failed"
    loaded.close()


async def test_code_that_does_not_ask_keeps_its_slot_and_is_counted(tmp_path: Path) -> None:
    made = make_artifact(tmp_path, {"model.py": STUBBORN}, [example(0, "done")])
    async with in_process(made.spec(RevisionId("code", "v1", "1"))) as serving:
        late = await serving.client.post(
            "/v1/model/code/predict", content=b"0.3", headers={"X-Request-Timeout-Ms": "50"}
        )
        assert (late.status_code, late.json()) == (504, {"detail": "no answer within 0.05 s"})
        assert late.headers["x-fairlead-no-fault"] == "deadline"
        (endpoint,) = serving.plane.endpoints()
        await eventually(lambda: endpoint.admission.taken == 0)
        assert 0.29 < await wasted(serving) < 10


async def wasted(serving: InProcess) -> float:
    lines = (await serving.client.get("/metrics")).text.splitlines()
    prefix = "fairlead_wasted_compute_seconds_total{"
    return sum(float(line.split()[-1]) for line in lines if line.startswith(prefix))


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, 300),
        ({b"x-envoy-expected-rq-timeout-ms": b"30000"}, 30),
        ({b"x-envoy-expected-rq-timeout-ms": b"30000", b"x-request-timeout-ms": b"250"}, 0.25),
        ({b"x-envoy-expected-rq-timeout-ms": b"100", b"x-request-timeout-ms": b"250"}, 0.1),
        ({b"x-envoy-expected-rq-timeout-ms": b"0"}, 300),
        ({b"x-envoy-expected-rq-timeout-ms": b"soon"}, 300),
        ({b"grpc-timeout": b"2S"}, 2),
        ({b"grpc-timeout": b"100m", b"x-request-timeout-ms": b"50"}, 0.05),
        ({b"grpc-timeout": b"100m", b"x-request-timeout-ms": b"500"}, 0.1),
        ({b"grpc-timeout": b"99999999H"}, 300),
        ({b"grpc-timeout": b"5u"}, 5e-6),
        ({b"grpc-timeout": b"7n"}, 7e-9),
        ({b"grpc-timeout": b"3M"}, 180),
        ({b"grpc-timeout": b"0n"}, 0),
    ],
)
def test_the_shortest_time_counts(headers: dict[bytes, bytes], seconds: float) -> None:
    assert seconds_to_answer(headers, 300) == pytest.approx(seconds)


def test_only_a_shorter_time_than_the_others_give_is_impatient() -> None:
    gateways = {b"x-envoy-expected-rq-timeout-ms": b"1000"}
    assert is_impatient(gateways | {b"x-request-timeout-ms": b"999"}, 300)
    assert not is_impatient(gateways | {b"x-request-timeout-ms": b"1000"}, 300)
    assert not is_impatient(gateways, 300)
    assert not is_impatient({b"grpc-timeout": b"5S"}, 5)
    assert is_impatient({b"grpc-timeout": b"4S"}, 5)


@given(
    name=st.sampled_from([b"x-request-timeout-ms", b"grpc-timeout"]), value=st.binary(max_size=12)
)
def test_any_timeout_is_a_time_or_a_clear_error(name: bytes, value: bytes) -> None:
    assert is_named({name: value})
    try:
        seconds = seconds_to_answer({name: value}, 300)
        assert 0 < seconds <= 300 or (seconds == 0 and name == b"grpc-timeout")
    except Refused as error:
        assert error.kind is Kind.INVALID
        assert "is no time; write" in error.message


@pytest.mark.parametrize("value", ["0", "-5", "1.5", "soon", "1234567890", "1 "])
async def test_a_timeout_that_is_none_is_the_callers_mistake(tmp_path: Path, value: str) -> None:
    async with in_process(scaled_artifact(tmp_path).spec(RevisionId("s", "v1", "1"))) as serving:
        answer = await serving.client.post(
            "/v2/models/s/infer",
            json={"inputs": []},
            headers={"X-Request-Timeout-Ms": value},
        )
        assert answer.status_code == 400
        assert answer.json()["error"].startswith("X-Request-Timeout-Ms: ")


def test_who_asks_to_be_told_is_told_once_and_also_when_late() -> None:
    told: list[str] = []
    cancellation = Cancellation()
    assert current() is None
    assert not cancelled()
    with running(cancellation):
        assert current() is cancellation
        cancellation.on_cancel(lambda: told.append("in time"))
        cancellation.cancel()
        cancellation.cancel()
        assert cancelled()
        cancellation.on_cancel(lambda: told.append("late"))
    assert told == ["in time", "late"]
    assert not cancelled()


async def test_what_waits_for_a_slot_leaves_the_queue_at_its_deadline(tmp_path: Path) -> None:
    made = make_artifact(tmp_path, {"model.py": PATIENT}, [example(0, "done")])
    loaded = await load_artifact(made.directory, made.digest, 1, SystemClock())
    one = Endpoint(EndpointId("code", "v1", "1"), loaded, 1, 60, SystemClock())
    async with asyncio.TaskGroup() as group:
        first: asyncio.Task[Any] = group.create_task(one.infer(InferRequest(document=30.0), 60))
        await eventually(lambda: one.admission.taken == 1)
        with pytest.raises(FairleadError, match=r"no answer within 0\.05 s"):
            await one.infer(InferRequest(document=0.0), 0.05)
        assert (one.admission.taken, one.admission.waiting) == (1, 0)
        assert one.wasted_seconds == 0, "it never ran"
        first.cancel()
    loaded.close()
