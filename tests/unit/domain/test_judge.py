"""Verdicts over windows: what is certain decides at once, what is not decides nothing."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, strategies as st

from fairlead.domain.errors import InvalidInput
from fairlead.domain.judge import Decision, Policy, Window, judge
from fairlead.domain.reading import Node
from fairlead.domain.samples import (
    Growth,
    Histogram,
    Sample,
    sample_from_json,
    sample_to_json,
    surely_more,
    wilson,
)
from support.effort import effort

BOUNDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 10.0)
POLICY = Policy(step_seconds=10, min_requests=100, timeout_seconds=60)
MIB = 1 << 20


def latencies(*times: float) -> dict[str, Any]:
    counts = [0] * (len(BOUNDS) + 1)
    for time in times:
        counts[sum(bound < time for bound in BOUNDS)] += 1
    return {
        "requests": len(times),
        "seconds": sum(times),
        "latency": Histogram(BOUNDS, tuple(counts)),
    }


def sample(requests: int = 1000, seconds: float = 0.002, **more: Any) -> Sample:
    """So many requests that took so long each."""
    counts = [0] * (len(BOUNDS) + 1)
    counts[sum(bound < seconds for bound in BOUNDS)] = requests
    latency = Histogram(BOUNDS, tuple(counts))
    return Sample(requests=requests, seconds=seconds * requests, latency=latency, **more)


def verdict(candidate: Sample, stable: Sample | None = None, seconds: float = 10.0) -> Any:
    return judge(Window(seconds, candidate, stable or sample()), POLICY)


GOOD = [
    sample(),
    sample(100),
    sample(failed=9),
    sample(seconds=0.001),
    sample(growth=Growth(200 * MIB, 0, 1000)),  # it grew at first, and stays
    sample(growth=Growth(60 * MIB, 40 * MIB, 1000)),
    sample(cancelled=900),  # whoever leaves is not a failure
    sample(refused=150),  # callers' own mistakes, within what is allowed
]
BAD = {
    "failed (20 of 100": sample(100, failed=20),
    "failed (60 of 1000": sample(failed=60),
    "refused (1000 of 1000": sample(refused=1000),
    "mean 20 ms (stable: 2 ms)": sample(seconds=0.02),
    "over 10 ms": Sample(**latencies(*[0.002] * 800, *[0.4] * 200)),
    "1 worker died (stable: 0)": sample(5, deaths=1),
    "memory grew by 100 MiB and goes on growing, 102 KiB a request": sample(
        growth=Growth(100 * MIB, 50 * MIB, 1000)
    ),
}


@pytest.mark.parametrize("candidate", GOOD)
def test_a_window_like_the_stable_one_goes_on(candidate: Sample) -> None:
    assert verdict(candidate).decision is Decision.GO_ON


@pytest.mark.parametrize("reason", BAD)
def test_what_is_certainly_worse_goes_back_before_the_window_is_over(reason: str) -> None:
    found = verdict(BAD[reason], seconds=1.0)
    assert found.decision is Decision.ROLL_BACK
    assert any(reason in text for text in found.reasons), found.reasons


WAITING = {
    "the window is not over": (sample(), sample(), 9.0, "1 s of the window are left"),
    "too few of the new one": (sample(99), sample(), 30.0, "had 99 of at least 100"),
    "too few of the stable one": (sample(), sample(20), 30.0, "the stable revision had 20"),
    "few failures": (sample(100, failed=9), sample(), 30.0, "9 % of requests failed"),
    "all of very few failed": (sample(3, failed=3), sample(), 5.0, "had 3 of at least 100"),
    "all of very few are slow": (sample(9, 0.02), sample(), 5.0, "requests over 10 ms"),
    "nothing to compare with": (sample(failed=1000), sample(0), 5.0, "had 0 of"),
    "one very slow request": (
        Sample(**latencies(*[0.002] * 99, 1.0)),
        sample(),
        30.0,
        "mean 12 ms",
    ),
}


@pytest.mark.parametrize("case", WAITING)
def test_what_is_not_certain_waits_and_says_for_what(case: str) -> None:
    candidate, stable, seconds, reason = WAITING[case]
    found = verdict(candidate, stable, seconds)
    assert found.decision is Decision.WAIT
    assert any(reason in text for text in found.reasons), found.reasons


@pytest.mark.parametrize("case", [one for one in WAITING if "window" not in one])
def test_what_never_gets_certain_goes_back_when_the_time_is_up(case: str) -> None:
    candidate, stable, _, reason = WAITING[case]
    found = verdict(candidate, stable, 60.0)
    assert found.decision is Decision.ROLL_BACK
    assert any(reason in text and "60 s" in text for text in found.reasons), found.reasons


def test_trouble_of_the_machine_that_takes_both_alike_is_not_held_against_the_new_one() -> None:
    trouble = {"failed": 300, "deaths": 1, "growth": Growth(100 * MIB, 50 * MIB, 1000)}
    assert verdict(sample(**trouble), sample(**trouble)).decision is Decision.GO_ON


def test_at_all_traffic_the_yardstick_needs_no_requests_of_its_own() -> None:
    window = Window(10, sample(), sample(20), earlier=True)
    assert judge(window, POLICY).decision is Decision.GO_ON
    assert judge(replace(window, earlier=False), POLICY).decision is Decision.WAIT


@pytest.mark.parametrize(
    ("wrong", "where"),
    [
        ({"steps": ()}, "steps"),
        ({"steps": (100,)}, "steps"),
        ({"steps": (1, 10)}, "steps"),
        ({"steps": (10, 1, 100)}, "steps"),
        ({"steps": (0, 100)}, "steps"),
        ({"steps": (50, 50, 100)}, "steps"),
        ({"step_seconds": 0.0}, "step-seconds"),
        ({"step_seconds": 700.0}, "step-seconds"),
        ({"min_requests": 0}, "min-requests"),
        ({"start_seconds": -1.0}, "start"),
    ],
)
def test_a_policy_that_cannot_be_carried_out_is_refused(wrong: dict[str, Any], where: str) -> None:
    with pytest.raises(InvalidInput, match=where):
        Policy(**wrong)


counts = st.integers(0, 2000)


@st.composite
def samples(draw: st.DrawFn) -> Sample:
    times = draw(st.lists(st.floats(0.0001, 20), max_size=60))
    repeated = times * draw(st.integers(1, 20))
    requests = len(repeated)
    share = st.integers(0, requests)
    return Sample(
        **latencies(*repeated),
        failed=draw(share),
        refused=draw(share),
        cancelled=draw(share),
        deaths=draw(st.integers(0, 2)),
        growth=Growth(
            draw(st.integers(-MIB, 500 * MIB)), draw(st.integers(-MIB, 500 * MIB)), requests
        ),
    )


@given(samples(), samples(), st.floats(0, 100))
@effort(150)
def test_any_window_has_a_verdict_with_a_reason(one: Sample, other: Sample, seconds: float) -> None:
    found = verdict(one, other, seconds)
    assert found.reasons
    if found.decision is Decision.GO_ON:
        assert seconds >= POLICY.step_seconds
        assert min(one.requests, other.requests) >= POLICY.min_requests
    if seconds >= POLICY.timeout_seconds:
        assert found.decision is not Decision.WAIT


@given(samples(), st.floats(0, 59))
@effort(100)
def test_a_revision_that_did_the_same_as_the_stable_one_never_goes_back(
    one: Sample, seconds: float
) -> None:
    assert verdict(one, one, seconds).decision is not Decision.ROLL_BACK


@given(samples(), samples())
@effort(100)
def test_more_failures_never_make_a_verdict_better(one: Sample, other: Sample) -> None:
    ranks = [Decision.GO_ON, Decision.WAIT, Decision.ROLL_BACK]
    worse = replace(one, failed=one.requests)
    assert ranks.index(verdict(worse, other).decision) >= ranks.index(verdict(one, other).decision)


def test_equal_revisions_are_hardly_ever_told_apart_by_chance() -> None:
    """Five hundred rollouts of a twin, 2 % of whose requests fail, each looked at twenty times."""
    chance = random.Random(7)
    rolled_back = 0
    for _ in range(500):
        new, old = [0, 0], [0, 0]
        for _ in range(20):
            for side, requests in ((new, 10), (old, 90)):
                side[0] += requests
                side[1] += sum(chance.random() < 0.02 for _ in range(requests))
            window = Window(1, sample(new[0], failed=new[1]), sample(old[0], failed=old[1]))
            if judge(window, POLICY).decision is Decision.ROLL_BACK:
                rolled_back += 1
                break
    assert rolled_back <= 1


@given(counts, counts)
def test_an_interval_holds_what_was_seen(one: int, other: int) -> None:
    count, total = min(one, other), max(one, other)
    low, high = wilson(count, total)
    assert 0 <= low <= high <= 1
    if total:
        assert low - 1e-12 <= count / total <= high + 1e-12


@given(counts, counts)
def test_nothing_is_surely_more_than_itself(one: int, other: int) -> None:
    count, total = min(one, other), max(one, other)
    assert surely_more(count, total, count, total) <= 0


@given(samples())
def test_a_sample_reads_back_from_its_record(one: Sample) -> None:
    node = Node(json.loads(json.dumps(sample_to_json(one))))
    assert sample_from_json(node) == one
    node.done("sample")


@given(st.lists(st.floats(0.0001, 9), min_size=1, max_size=50), st.floats(0.01, 1))
def test_a_quantile_lies_in_the_bucket_of_the_true_one(times: list[float], share: float) -> None:
    histogram = latencies(*times)["latency"]
    rank = max(1, -int(-share * len(times) // 1))
    true = sorted(times)[min(rank, len(times)) - 1]
    bucket = sum(bound < true for bound in BOUNDS)
    edges = (0.0, *BOUNDS)
    assert edges[bucket] - 1e-9 <= histogram.quantile(share) <= BOUNDS[bucket] + 1e-9


def test_histograms_add_up_and_only_like_ones() -> None:
    empty, one = Histogram(), Histogram((1.0, 2.0), (1, 2, 3))
    assert one.plus(empty) == one
    assert empty.plus(one) == one
    assert one.plus(one, -1).total == 0
    with pytest.raises(ValueError, match="histograms with bounds"):
        one.plus(Histogram((1.0,), (1, 2)))
