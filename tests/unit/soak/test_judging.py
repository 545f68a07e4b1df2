"""A soak must be able to fail: whatever leaks, lies, fails or grows is a bar missed."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from soak import models, plan, report
from soak.book import Asked, Book, Failure
from soak.figures import slope
from soak.results import BARS, Results, holdings, reached, verdicts
from soak.sampling import MIB, Area, Process, Sample
from soak.timeline import Timeline, Window

SEED = 1
ROLES = {"up": 1, "agent": 1, "gateway": 1, "envoy": 1, "worker": 3}
AREAS = ("node/workers", "node/downloads", "temporary files and sockets", "gateway", "logs")


def sample(
    revision: int, *, grows: float = 0.0, handles: int = 5, workers: int = 3, pid: int = 1
) -> Sample:
    noise = random.Random(revision).uniform(-0.3, 0.3)
    there = [(role, workers if role == "worker" else count) for role, count in ROLES.items()]
    processes = tuple(
        Process(
            role, pid, 90 * MIB, (40 + noise + grows * revision) * MIB, 0, 3, {"socket": handles}
        )
        for role, count in there
        for _ in range(count)
    )
    areas = dict.fromkeys(AREAS, Area(3, 1, 1000))
    return Sample(float(revision), revision, processes, 0, {}, areas, rest=True)


def answered(version: str = "v1.2", artifact: int = 2, sent: float = 10.0, line: str = "") -> Book:
    book = Book(SEED)
    asked = Asked("kept", "one", line, range(3, 4), sent)
    data = [float(one) for one in models.answers(SEED, artifact)[3]]
    body = json.dumps({"model_version": str(artifact), "outputs": [{"data": data}]}).encode()
    headers = {"x-request-id": "one", "x-served-version": version}
    book.answered(asked, (200, headers, body), sent + 0.1)
    return book


def soaked(**changes: Any) -> Results:
    timeline = Timeline()
    timeline.comes("v1.2", 2, 5.0)
    timeline.pinned("v1", 0.0)
    results = Results({}, SEED, 400, 3, done=400, warm_up=60, exit_code=0)
    results.book = answered()
    results.timeline = timeline
    results.samples = [sample(number) for number in range(4, 401, 4)]
    results.before = holdings([sample(60)])
    results.after = holdings([sample(400)])
    return replace(results, **changes)


def missed(results: Results) -> str:
    return " | ".join(one.text for one in verdicts(results) if one.reached is False)


def test_a_soak_without_fault_reaches_every_bar() -> None:
    assert missed(soaked()) == ""
    assert reached(soaked())


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"done": 399}, "399 of 400 revisions"),
        ({"problems": ["the agent is gone"]}, "the agent is gone"),
        ({"exit_code": 1}, "exit code 1"),
        ({"left": ["process 7"]}, "process 7"),
        ({"book": Book(SEED)}, "0 failed requests of 0"),
        ({"after": holdings([sample(400, handles=9)])}, "envoy: 5 → 9 descriptors of kind socket"),
        ({"after": holdings([sample(400, workers=4)])}, "worker: 3 → 4 processes"),
        ({"samples": [sample(8, workers=4)]}, "revision 8: 4 workers"),
        ({"samples": [sample(8), sample(12, pid=2)]}, "more than once: up 2 times, agent 2 times"),
        (
            {"samples": [sample(number, grows=0.02) for number in range(4, 401, 4)]},
            "memory of envoy",
        ),
    ],
)
def test_whatever_is_wrong_is_a_bar_missed(changes: dict[str, Any], told: str) -> None:
    assert told in missed(soaked(**changes))


def test_a_file_left_in_a_directory_that_empties_itself_is_a_leak() -> None:
    after = sample(400)
    after = replace(after, areas={**after.areas, "node/downloads": Area(4, 1, 1000)})
    assert "node/downloads: 3 → 4 files" in missed(soaked(after=holdings([after])))


def test_few_revisions_are_told_and_not_judged() -> None:
    few = soaked(
        wanted=30, done=30, warm_up=9, samples=[sample(one, grows=1.0) for one in range(2, 31, 2)]
    )
    assert missed(few) == ""
    assert sum(one.reached is None for one in verdicts(few)) == len(BARS)


@pytest.mark.parametrize(
    "lie",
    [
        lambda: answered(artifact=3),
        lambda: answered(sent=4.0),
        lambda: answered(line="v2"),
        lambda: answered("v1.3"),
    ],
)
def test_an_answer_of_the_wrong_revision_is_a_lie(lie: Callable[[], Book]) -> None:
    assert "1 answers of v1" in missed(soaked(book=lie()))


def test_an_answer_after_its_revision_has_gone_is_a_lie() -> None:
    results = soaked(book=answered(sent=21.0))
    assert missed(results) == ""
    results.timeline.has_gone("v1.2", 20.0)
    assert "when it took no traffic" in missed(results)


def test_an_answer_of_a_line_that_is_not_pinned_is_a_lie_to_who_named_no_version() -> None:
    results = soaked(book=answered(sent=21.0))
    results.timeline.unpinned("v1", 20.0)
    assert "v1 was not pinned" in missed(results)


@pytest.mark.parametrize(
    ("headers", "body"),
    [
        ({"x-request-id": "two"}, None),
        ({"x-served-version": ""}, None),
        ({}, b"not json"),
        ({}, json.dumps({"model_version": "2", "outputs": [{"data": [0.1] * 10}]}).encode()),
    ],
)
def test_an_answer_that_is_not_the_questions_is_wrong(
    headers: dict[str, str], body: bytes | None
) -> None:
    book, asked = Book(SEED), Asked("kept", "one", "", range(3, 4), 10.0)
    data = [float(one) for one in models.answers(SEED, 2)[3]]
    right = json.dumps({"model_version": "2", "outputs": [{"data": data}]}).encode()
    whole = {"x-request-id": "one", "x-served-version": "v1.2", **headers}
    assert not book.answered(asked, (200, whole, body or right), 10.1)
    assert book.failures[0].fault == "wrong"


def test_a_killed_workers_callers_may_fail_and_nobody_may_lie() -> None:
    timeline = Timeline(kills=[Window(10.0, 11.0)])
    failure = Failure("kept", "status", 10.2, 10.3, "503")
    assert timeline.excused(failure)
    assert not timeline.excused(replace(failure, fault="wrong"))
    assert not timeline.excused(replace(failure, sent=9.0, done=9.9))
    assert not timeline.excused(replace(failure, sent=12.0, done=12.1))


def test_a_slope_is_found_within_its_margin_and_correlated_looks_widen_it() -> None:
    noise = random.Random(3)
    revisions = [float(number) for number in range(0, 400, 4)]
    alone = [100 + 0.02 * one + noise.gauss(0, 0.5) for one in revisions]
    found = slope(revisions, alone)
    assert found is not None
    assert found.lowest <= 2.0 <= found.highest
    walk, walked = 0.0, []
    for one in revisions:
        walk = 0.9 * walk + noise.gauss(0, 0.5)
        walked.append(100 + 0.02 * one + walk)
    wide = slope(revisions, walked)
    assert wide is not None
    assert wide.margin > 2 * found.margin
    assert slope([1.0, 2.0], [1.0, 2.0]) is None


def test_the_plan_is_the_same_for_the_same_seed_and_does_everything() -> None:
    steps = plan.steps(100, SEED)
    assert steps == plan.steps(100, SEED)
    assert steps != plan.steps(100, SEED + 1)
    assert {step.line for step in steps} == set(plan.LINES)
    assert {step.way for step in steps} == {"at once", "split", "taken back"}
    assert {side for step in steps for side in step.sides} == {
        "pin",
        "rotate",
        "switch",
        "again",
        "kill",
    }
    published = plan.FIRST_ARTIFACTS
    for step in steps:
        published += step.publishes
        assert step.artifact <= published


def test_page_and_plot_are_made_of_a_whole_soak_and_of_one_broken_off() -> None:
    whole = report.page(soaked(), "soak.svg")
    assert "- reached: 0 failed requests of 1" in whole
    assert "| envoy: descriptors, socket | 5 | 5 |" in whole
    assert report.drawing(soaked()).count("<polyline") == 10
    early = Results({}, SEED, 500, 3, problems=["stopped after 0 revisions"])
    assert "MISSED: 0 of 500" in report.page(early, "soak.svg")
    assert report.drawing(early).startswith("<svg")
    json.dumps(report.raw(soaked()))
