"""A churn must be able to fail: whatever grows, sticks, lies or is left is a bar missed."""

from __future__ import annotations

import asyncio
import json
import random
from pathlib import Path

import pytest
from bench.subject import Case
from soak import churn, churn_results, report
from soak.churn_clients import Crowd, Model, is_right
from soak.churn_results import Rest, Results
from soak.wire import Answer

CASE = Case("m", Path("/nowhere"), "x", "y", [[1.0, 2.0]], [[0.25, 0.75]])
RIGHT = json.dumps({"outputs": [{"data": [0.25, 0.75, 0.25, 0.75]}]}).encode()
OTHER = json.dumps({"outputs": [{"data": [0.75, 0.25, 0.75, 0.25]}]}).encode()


def results(*, grows: float = 0.0, swings: float = 0.0, **changes: object) -> Results:
    found = Results({}, seed=1, minutes=30.0, exit_code=0, answers={"asked, 200": 1000})
    noise = random.Random(1)
    for number in range(1, 21):
        memory = 150 + grows * number + noise.uniform(-swings, swings)
        found.rests.append(Rest(number * 90.0, number * 100, memory, memory, 22, 30, 0.0))
    for name, value in changes.items():
        setattr(found, name, value)
    return found


def test_a_good_churn_reaches_every_bar() -> None:
    assert [one.reached for one in churn_results.verdicts(results(swings=0.3))] == [True] * 6
    assert churn_results.reached(results(swings=0.3))


def test_memory_that_an_allocator_keeps_or_gives_back_is_no_growth() -> None:
    assert churn_results.reached(results(swings=30.0))


@pytest.mark.parametrize("swings", [0.3, 30.0])
def test_memory_that_grows_with_every_load_is_missed(swings: float) -> None:
    assert not churn_results.reached(results(grows=25.0, swings=swings))


def test_growth_seen_too_seldom_is_told_and_not_judged() -> None:
    found = results(grows=25.0)
    found.rests = found.rests[:4]
    (memory,) = [one for one in churn_results.verdicts(found) if "memory" in one.text]
    assert memory.reached is None


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("failures", ["asked: m: wrong answer"]),
        ("answers", {}),
        ("problems", ["what is under way does not come to an end"]),
        ("exit_code", 1),
        ("left", ["process 12"]),
    ],
)
def test_each_fault_is_a_bar_missed_and_on_the_page(name: str, value: object) -> None:
    found = results(**{name: value})
    assert not churn_results.reached(found)
    assert "MISSED" in churn_results.page(found, report.MARKS)


@pytest.mark.parametrize(("name", "more"), [("in_progress", 1), ("handles", 9), ("threads", 9)])
def test_a_last_rest_that_holds_more_is_a_bar_missed(name: str, more: int) -> None:
    found = results()
    last = {**{key: getattr(found.rests[-1], key) for key in Rest.__slots__}}
    found.rests[-1] = Rest(**{**last, name: last[name] + more})
    assert not churn_results.reached(found)


def test_what_is_in_progress_is_added_up_and_no_counters_are_no_zero() -> None:
    text = (
        'fairlead_requests_in_progress{service="a"} 1.0\nfairlead_requests_in_progress{service="b"} 2.0\n'
        'fastapi_requests_in_progress{path="/metrics"} 1.0\n'
    )
    assert churn.in_progress(text) == 3.0
    assert churn.in_progress("") == -1.0


def test_an_answer_must_be_of_this_model_and_have_all_rows() -> None:
    assert is_right(CASE, 2, RIGHT)
    assert not is_right(CASE, 2, OTHER)
    assert not is_right(CASE, 1, RIGHT)
    assert not is_right(CASE, 2, b'{"error": "no"}')


@pytest.mark.parametrize(
    ("kind", "status", "body", "loaded", "changed", "fine"),
    [
        ("asked", 200, RIGHT, True, False, True),
        ("asked", 200, OTHER, True, False, False),
        ("asked", 200, OTHER, True, True, False),  # a model that goes may answer, never wrongly
        ("asked", 200, RIGHT, False, False, False),
        ("asked", 503, b"", False, False, True),
        ("asked", 503, b"", True, True, True),
        ("asked", 503, b"", True, False, False),
        ("asked", 504, b"", True, False, False),
        ("hurried", 504, b"", True, False, True),
        ("asked", 500, b"", True, True, False),
    ],
)
async def test_an_answer_is_judged_by_what_was_surely_loaded_then(
    kind: str, status: int, body: bytes, loaded: bool, changed: bool, fine: bool
) -> None:
    model = Model(CASE, loaded=loaded)
    crowd = Crowd(0, [model], results(), random.Random(1))
    before = model.known
    model.epoch += changed
    found = crowd.wrong(kind, Answer(status, {}, body), model, 2, before)
    assert (found == "") is fine


async def test_rest_begins_when_the_last_one_has_finished() -> None:
    crowd = Crowd(0, [Model(CASE)], results(), random.Random(1))
    crowd.going.set()
    async with asyncio.TaskGroup() as group:
        with crowd.working():
            resting = group.create_task(crowd.calm())
            await asyncio.sleep(0)
            assert not crowd.going.is_set()
            assert not resting.done()
    assert resting.done()
