"""Statistics: what is counted, by both lanes and of several servers together."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio
from hypothesis import given, strategies as st

from fairlead.api.worker import PROVED_PATH
from fairlead.dialects.oip_model import merged, model_statistics
from fairlead.domain.ids import RevisionId
from fairlead.server.executions import Executions, statistics, total
from support.models import echo_artifact, scaled_artifact
from support.plain import NO_TLS
from support.serving import InProcess, in_process, listening

SCALED = RevisionId("scaled", "v1", "1")
INFER = "/v2/models/scaled/infer"
ROW = {"name": "x", "shape": [1, 3], "datatype": "FP32", "data": [1, 2, 3]}
ROWS = {**ROW, "shape": [2, 3], "data": [1, 2, 3, 4, 5, 6]}


@pytest_asyncio.fixture
async def scaled(tmp_path: Path) -> AsyncIterator[InProcess]:
    async with in_process(scaled_artifact(tmp_path, version=5).spec(SCALED)) as running:
        yield running


async def stats(client: httpx.AsyncClient, path: str = "/v2/models/scaled/stats") -> Any:
    (found,) = (await client.get(path)).json()["model_stats"]
    return found


def counts(found: Any) -> dict[str, int]:
    return {name: part["count"] for name, part in found["inference_stats"].items()}


def test_what_is_forgotten_was_never_counted() -> None:
    executions = Executions()
    executions.ran(8, 0.5, 3)
    executions.answered(10.0, (2.0,), 0.5, 0.125, 0.25)
    executions.failed(1.0)
    executions.forget()
    assert statistics(executions, 3.0, 1000.0) == statistics(Executions(), 3.0, 1000.0)
    executions.ran(1, 0.5)
    assert statistics(executions, 3.0, 1000.0)["inference_count"] == 1


async def test_nobody_can_have_a_server_forget_but_an_agent(scaled: InProcess) -> None:
    assert (await scaled.client.post(PROVED_PATH)).status_code == 404


def test_a_run_that_requests_shared_is_one_execution_of_its_batch() -> None:
    executions = Executions()
    executions.ran(8, 0.5, 3)
    executions.ran(1, 0.25)
    for _ in range(4):
        executions.answered(10.0, (2.0,), 0.5, 0.125, 0.25)
    executions.failed(1.0)
    found = statistics(executions, 3.0, 1000.0)
    assert found["inference_count"] == 9
    assert found["execution_count"] == 2
    assert found["last_inference"] == 997_000
    assert found["inference_stats"] == {
        "success": {"count": 4, "ns": 8_000_000_000},
        "fail": {"count": 1, "ns": 1_000_000_000},
        "queue": {"count": 4, "ns": 2_000_000_000},
        "compute_input": {"count": 4, "ns": 500_000_000},
        "compute_infer": {"count": 4, "ns": 1_750_000_000},
        "compute_output": {"count": 4, "ns": 1_000_000_000},
        "cache_hit": {"count": 0, "ns": 0},
        "cache_miss": {"count": 0, "ns": 0},
    }
    sizes = {one["batch_size"]: one["compute_infer"] for one in found["batch_stats"]}
    assert sizes == {
        1: {"count": 1, "ns": 250_000_000},
        8: {"count": 1, "ns": 500_000_000},
    }


RUNS = st.lists(st.tuples(st.integers(1, 9), st.integers(0, 99), st.integers(1, 5)), max_size=9)


@given(st.lists(RUNS, min_size=1, max_size=4))
def test_several_servers_together_count_what_each_has(servers: list[Any]) -> None:
    parts = []
    for runs in servers:
        parts.append(Executions())
        for size, seconds, requests in runs:
            parts[-1].ran(size, float(seconds), requests)
            parts[-1].answered(5.0, (float(seconds),), 0.0, 0.0, 0.0)
    told = [model_statistics("m", 1, statistics(one, 0.0, 100.0)) for one in parts]
    (whole,) = merged(told)
    assert whole == {"name": "m", "version": "1", **statistics(total(parts), 0.0, 100.0)}
    assert told == [model_statistics("m", 1, statistics(one, 0.0, 100.0)) for one in parts]


def test_models_and_versions_stay_apart_and_in_order() -> None:
    none = statistics(Executions(), 0.0, 1.0)
    told = [
        model_statistics(name, version, none)
        for name, version in (("b", 1), ("a", 10), ("a", 9), ("a", 10))
    ]
    assert [(one["name"], one["version"]) for one in merged(told)] == [
        ("a", "9"),
        ("a", "10"),
        ("b", "1"),
    ]


@pytest.mark.parametrize("lane", ["ASGI", "the fast one"])
async def test_both_lanes_count_alike(scaled: InProcess, tmp_path: Path, lane: str) -> None:
    async def ask(client: httpx.AsyncClient) -> None:
        assert (await stats(client))["last_inference"] == 0
        for inputs in (ROW, ROW, ROWS):
            assert (await client.post(INFER, json={"inputs": [inputs]})).status_code == 200
        answer = await client.post("/v1/model/scaled/predict", json={"instances": [[1, 2, 3]]})
        assert answer.status_code == 200
        wrong = await client.post(INFER, json={"inputs": []})
        assert wrong.status_code == 400

    if lane == "ASGI":
        await ask(scaled.client)
        found = await stats(scaled.client)
    else:
        async with listening(scaled.app, tmp_path / "s") as path:
            transport = httpx.AsyncHTTPTransport(uds=str(path), verify=NO_TLS)
            async with httpx.AsyncClient(transport=transport, base_url="http://s") as client:
                await ask(client)
                found = await stats(client, "/v2/models/scaled/versions/5/stats")
    assert (found["name"], found["version"]) == ("scaled", "5")
    assert found["inference_count"] == 5
    assert found["execution_count"] == 4
    assert counts(found) == {
        **dict.fromkeys(("success", "queue"), 4),
        **dict.fromkeys(("compute_input", "compute_infer", "compute_output"), 4),
        **dict.fromkeys(("cache_hit", "cache_miss"), 0),
        "fail": 1,
    }
    times = {name: part["ns"] for name, part in found["inference_stats"].items()}
    parts = times["queue"] + times["compute_input"] + times["compute_output"]
    assert 0 < parts + times["compute_infer"] <= times["success"]
    assert {one["batch_size"]: one["compute_infer"]["count"] for one in found["batch_stats"]} == {
        1: 3,
        2: 1,
    }


async def test_each_document_of_a_request_is_an_execution_of_its_own(tmp_path: Path) -> None:
    async with in_process(echo_artifact(tmp_path).spec()) as running:
        texts = [json.dumps({"text": text}) for text in ("a", "b")]
        inputs = [{"name": "request", "shape": [2], "datatype": "BYTES", "data": texts}]
        await running.client.post("/v2/models/echo/infer", json={"inputs": inputs})
        found = await stats(running.client, "/v2/models/stats")
        assert (found["execution_count"], counts(found)["success"]) == (2, 1)
        boom = {"name": "request", "shape": [1], "datatype": "BYTES", "data": ['{"text":"boom"}']}
        await running.client.post("/v2/models/echo/infer", json={"inputs": [boom]})
        found = await stats(running.client, "/v2/models/stats")
        assert (found["execution_count"], counts(found)["fail"]) == (2, 1)
