"""How servers are asked, and what is taken for an answer."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from bench import dialects, load, processes, profiles
from bench.subject import Case, Failed

CASE = Case("digits", Path("/nowhere"), "pixels", "probabilities", [[0.5, 2.0]], [[1.0, 2.0, 3.0]])
H2LOAD = """
finished in 2.00s, 1000.00 req/s, 190.61KB/s
requests: 2032 total, 2032 started, 2000 done, {succeeded} succeeded, {failed} failed, 0 errored, 0 timeout
status codes: {good} 2xx, 0 3xx, 0 4xx, 0 5xx
traffic: 381.23KB (390380) total, 100B (100) headers (space savings 95.00%), 200KB ({data}) data
"""
LOG = [f"{number}\t200\t{number}" for number in range(1, 101)]


def answer(dialect: dialects.Dialect, row: list[float]) -> bytes:
    if dialect is dialects.OIP:
        return json.dumps({"outputs": [{"data": row}]}).encode()
    if dialect is dialects.LITSERVE:
        return json.dumps({"result": row}).encode()
    if dialect is dialects.BENTOML:
        return json.dumps([row]).encode()
    return json.dumps({"predictions": [row]}).encode()


JSON = [dialects.PROJECT, dialects.OIP, dialects.LITSERVE, dialects.BENTOML]


@pytest.mark.parametrize("dialect", JSON, ids=["project", "oip", "litserve", "bentoml"])
def test_each_json_dialect_carries_the_row_and_is_read_in_its_own_words(
    dialect: dialects.Dialect,
) -> None:
    assert b"[0.5, 2.0]" in dialect.body(CASE)
    found = dialect.numbers(CASE, {}, answer(dialect, [1.0, 2, 3]))
    load.check(CASE, found)
    with pytest.raises((ValueError, KeyError, IndexError, TypeError)):
        dialect.numbers(CASE, {}, b'{"error": "no"}')


def test_a_binary_tensor_comes_back_through_both_binary_dialects() -> None:
    case = Case("t", Path("/nowhere"), "x", "y", [[1.0, 2.0]], [[1.0, 2.0]])
    asked = dialects.OIP_BINARY.body(case)
    assert dialects.BARE.body(case) == asked
    assert dialects.BARE.numbers(case, {}, asked) == case.expected
    data = asked[-8:]
    head = json.dumps({"outputs": [{"parameters": {"binary_data_size": 8}}]}).encode()
    headers = {"inference-header-content-length": str(len(head))}
    assert dialects.OIP_BINARY.numbers(case, headers, head + data) == case.expected
    with pytest.raises(ValueError, match="7 bytes of 8"):
        dialects.OIP_BINARY.numbers(case, headers, head + data[1:])


@pytest.mark.parametrize("found", [[[1.0, 2.0, 3.1]], [[1.0, 2.0]], [], [[1.0, 2.0, 3.0]] * 2])
def test_an_answer_with_other_numbers_is_refused(found: list[list[float]]) -> None:
    with pytest.raises(Failed, match="wrong answer"):
        load.check(CASE, found)


def h2load(*, failed: int = 0, answered: int = 2000) -> load.Burst:
    text = H2LOAD.format(succeeded=2000 - failed, failed=failed, good=2000, data=answered * 105)
    return load.read_h2load(text, LOG, 100, 32, 0.5)


def test_the_figures_of_h2load_are_read() -> None:
    burst = h2load()
    assert (burst.requests, burst.seconds, burst.bad) == (2000, 2.0, 0)
    assert (burst.p50_ms, burst.p99_ms) == (0.05, 0.099)


def test_grpc_errors_that_h2load_takes_for_successes_are_seen_by_their_missing_bytes() -> None:
    assert h2load(answered=1990).bad == 0, "what was under way at the end may lack its data"
    broken = h2load(answered=1500)
    assert (broken.bad, broken.requests) == (500, 1500)


def test_failures_of_h2load_are_bad() -> None:
    assert h2load(failed=3).bad == 3


def test_h2load_that_says_nothing_has_failed() -> None:
    with pytest.raises(Failed, match="h2load gave no figures"):
        load.read_h2load("could not connect", [], 100, 32, 0.0)


@pytest.mark.parametrize(
    ("name", "command", "role"),
    [
        ("envoy", ["/x/envoy", "-c", "y"], "envoy"),
        ("python", ["python", "-m", "fairlead", "worker", "--spec", "x"], "worker"),
        ("python", ["python", "-m", "fairlead", "up", "a.json"], "up"),
        ("python", ["python", "-m", "fairlead.server.standalone"], "serve"),
        ("tritonserver", ["tritonserver"], "tritonserver"),
    ],
)
def test_processes_are_told_apart_by_what_they_are_for(
    name: str, command: list[str], role: str
) -> None:
    assert processes.role(name, command) == role


def test_samples_of_a_profiler_become_shares_of_functions() -> None:
    text = profiles.by_function(["process 1:x;run (a.py:1);read (b.py:2) 3", "run (a.py:1) 1", ""])
    alone, whole = text.split("with its calls:")
    assert "75.0%  read (b.py:2)" in alone
    assert "25.0%  run (a.py:1)" in alone
    assert "100.0%  run (a.py:1)" in whole
    assert profiles.by_function([]) == "py-spy saw nothing run"
