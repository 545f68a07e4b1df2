"""Batching as a caller sees it: own answers, how many shared the run, and what is refused."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from fairlead.api.worker import ServedEndpoint
from support.models import FLOAT, HEAVY_WIDTH, example, heavy_artifact, identity, make_artifact
from support.serving import InProcess, in_process

pytestmark = pytest.mark.timeout(60)  # real models are measured first
PATH = "/v1/model/echo/predict"
ROW = [0.5] * HEAVY_WIDTH


async def ask(one: InProcess, row: Any = ROW, **headers: str) -> httpx.Response:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return await one.client.post(PATH, json={"instances": [row]}, headers=named)


def batch_of(answer: httpx.Response) -> int:
    found = re.search(r"batch;desc=(\d+)", answer.headers["server-timing"])
    assert found is not None
    return int(found[1])


async def test_requests_that_come_together_share_runs_and_are_told_so(tmp_path: Path) -> None:
    said = {"enabled": True, "maxBatchSize": 4}
    made = heavy_artifact(tmp_path / "a")
    async with in_process(made.spec(endpoints=(ServedEndpoint(batching=said),))) as one:
        answers = await asyncio.gather(*(ask(one) for _ in range(24)))
        assert {answer.status_code for answer in answers} == {200}
        assert all(answer.json() == {"predictions": [[0.0] * HEAVY_WIDTH]} for answer in answers)
        sizes = [batch_of(answer) for answer in answers]
        assert max(sizes) == 4
        metrics = (await one.client.get("/metrics")).text
        assert "fairlead_batch_rows_total{" in metrics
        assert re.search(r"^fairlead_batch_size_sum\{.*\} 24\.0$", metrics, re.MULTILINE)
        assert re.search(r"^fairlead_batch_queue_size\{.*\} 0\.0$", metrics, re.MULTILINE)
        identity = (await one.client.get("/internal/identity")).json()
        assert identity["batching"]["predict"].startswith("batches of up to 4 rows, as it was said")


async def test_a_priority_that_is_no_number_or_no_level_is_refused(tmp_path: Path) -> None:
    said = {"enabled": True, "priorityLevels": 2}
    made = heavy_artifact(tmp_path / "a")
    async with in_process(made.spec(endpoints=(ServedEndpoint(batching=said),))) as one:
        assert (await ask(one, x_request_priority="2")).status_code == 200
        wrong = await ask(one, x_request_priority="high")
        assert wrong.status_code == 400
        assert "X-Request-Priority: 'high' is no level" in wrong.text
        beyond = await ask(one, x_request_priority="3")
        assert beyond.status_code == 400
        assert "write 1, the first, to 2" in beyond.text
        inputs = [{"name": "x", "datatype": "FP32", "shape": [1, HEAVY_WIDTH], "data": ROW}]
        for level, status in ((2, 200), (3, 400), (-1, 400)):
            asked = {"inputs": inputs, "parameters": {"priority": level}}
            answer = await one.client.post("/v2/models/echo/infer", json=asked)
            assert (level, answer.status_code) == (level, status)


async def test_the_parameter_timeout_is_how_long_a_request_waits_for_its_run(
    tmp_path: Path,
) -> None:
    said = {"enabled": True, "maxBatchSize": 1}
    made = heavy_artifact(tmp_path / "a")
    inputs = [{"name": "x", "datatype": "FP32", "shape": [1, HEAVY_WIDTH], "data": ROW}]
    async with in_process(made.spec(endpoints=(ServedEndpoint(batching=said),))) as one:

        async def patient(microseconds: Any) -> httpx.Response:
            asked = {"inputs": inputs, "parameters": {"timeout": microseconds}}
            return await one.client.post("/v2/models/echo/infer", json=asked)

        # In turn, so that some of those who do not wait come while another runs, however slow we are.
        answers = await asyncio.gather(
            *(each for _ in range(16) for each in (ask(one), patient(1)))
        )
        assert {answer.status_code for answer in answers[::2]} == {200}
        late = [answer for answer in answers[1::2] if answer.status_code != 200]
        assert late
        assert {answer.status_code for answer in late} == {504}
        assert "as long as this request may wait for it" in late[0].json()["error"]
        assert (await patient(30_000_000)).status_code == 200
        assert (await patient(1 << 62)).status_code == 200
        for wrong in (-1, 0.5, "1000", True):
            refused = await patient(wrong)
            assert (wrong, refused.status_code) == (wrong, 400)
            assert "parameters.timeout" in refused.text


async def test_a_full_queue_answers_503_with_its_limit(tmp_path: Path) -> None:
    said = {"enabled": True, "maxBatchSize": 1, "maxQueueSize": 1}
    made = heavy_artifact(tmp_path / "a")
    async with in_process(made.spec(endpoints=(ServedEndpoint(batching=said),))) as one:
        answers = await asyncio.gather(*(ask(one) for _ in range(12)))
        statuses = {answer.status_code for answer in answers}
        assert statuses == {200, 503}
        full = next(answer for answer in answers if answer.status_code == 503)
        assert "1 requests wait for this model already" in full.text
        assert full.headers["x-error-code"] == "overloaded"
        assert (await ask(one)).status_code == 200


@pytest.mark.parametrize("side", [4, 300])
async def test_large_bodies_and_answers_are_the_same_as_small_ones(
    tmp_path: Path, side: int
) -> None:
    made = make_artifact(
        tmp_path / "a",
        {"model.onnx": identity(FLOAT, ["n", "h", 100])},
        [example({"x": [[[0.5] * 100]]}, {"y": [[[0.5] * 100]]})],
    )
    picture: Any = np.linspace(0, 1, side * 100, dtype=np.float32).reshape(side, 100)
    async with in_process(made.spec()) as one:
        answer = await ask(one, picture.tolist())
        assert answer.status_code == 200
        assert answer.json() == {"predictions": [picture.tolist()]}
        broken = picture.tolist()
        broken[side - 1][99] = "half"
        wrong = await ask(one, broken)
        assert wrong.status_code == 422
        assert wrong.json()["detail"][0]["loc"] == ["body", "instances", 0, side - 1, 99]
        inputs = [
            {
                "name": "x",
                "datatype": "FP32",
                "shape": [1, side, 100],
                "data": picture.ravel().tolist(),
            }
        ]
        oip = await one.client.post("/v2/models/echo/infer", json={"inputs": inputs})
        assert oip.json()["outputs"][0]["data"] == picture.ravel().tolist()
        late = await ask(one, picture.tolist(), x_request_timeout_ms="1")
        assert late.status_code in (200, 504)
