"""A window's figures are what came since it began, whatever workers came and went meanwhile."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given, strategies as st

from fairlead.control.meter import Meter
from fairlead.domain.ids import RevisionId
from fairlead.domain.samples import Growth, Histogram, Reading, WorkerFigures

NEW = RevisionId("speech", "v9", "2")
OLD = RevisionId("speech", "v9", "1")


def figures(requests: int, failed: int = 0, resident: int | None = None) -> WorkerFigures:
    latency = Histogram((0.01,), (requests, 0))
    return WorkerFigures(
        requests, failed, seconds=requests / 100, latency=latency, resident=resident
    )


def reading(deaths: int = 0, **workers: WorkerFigures) -> Reading:
    return Reading({NEW: workers, OLD: {"other": figures(999)}}, {NEW: deaths, OLD: 7})


def test_what_was_counted_before_the_window_is_not_in_it() -> None:
    meter = Meter(NEW, reading(a=figures(50, 5)), 0)
    meter.add(reading(a=figures(80, 6)))
    found = meter.sample
    assert (found.requests, found.failed) == (30, 1)
    assert found.latency == Histogram((0.01,), (30, 0))
    assert round(found.seconds, 9) == 0.3


def test_a_worker_that_ended_keeps_its_part_and_the_next_ones_proof_is_no_traffic() -> None:
    meter = Meter(NEW, reading(deaths=2, a=figures(50)), 2)
    meter.add(reading(deaths=2, a=figures(60)))
    meter.add(reading(deaths=3, b=figures(20)))  # its golden examples
    meter.add(reading(deaths=3, b=figures(25)))
    assert meter.sample.requests == 15
    assert meter.sample.deaths == 1
    assert meter.deaths_last == 3


def test_an_agent_that_was_started_again_counts_deaths_from_nothing() -> None:
    meter = Meter(NEW, reading(deaths=5, a=figures(1)), 5)
    meter.add(reading(deaths=0, a=figures(1)))
    meter.add(reading(deaths=1, a=figures(1)))
    assert meter.sample.deaths == 1


def test_memory_is_told_from_the_worker_that_grew_most_and_when_it_grew() -> None:
    meter = Meter(NEW, reading(a=figures(0, resident=100), b=figures(0, resident=100)), 0)
    for count, early, steady in ((10, 180, 110), (20, 180, 120), (30, 180, 130), (40, 180, 140)):
        meter.add(reading(a=figures(count, resident=early), b=figures(count // 2, resident=steady)))
    assert meter.sample.growth == Growth(80, 0, 40)
    assert not meter.sample.growth.steady
    meter.add(reading(b=figures(100, resident=700)))
    assert meter.sample.growth == Growth(600, 0, 100)
    for count in range(101, 200):
        meter.add(reading(b=figures(count, resident=700 + 6 * (count - 100))))
    assert meter.sample.growth.steady


def test_a_worker_without_known_memory_is_counted_all_the_same() -> None:
    meter = Meter(NEW, reading(a=figures(0)), 0)
    meter.add(reading(a=figures(7)))
    assert meter.sample.requests == 7
    assert meter.sample.growth == Growth()


def test_a_long_window_keeps_few_points_and_both_ends() -> None:
    meter = Meter(NEW, reading(a=figures(0, resident=1000)), 0)
    for count in range(1, 5000):
        meter.add(reading(a=figures(count, resident=1000 + count)))
    growth = meter.sample.growth
    assert (growth.bytes, growth.requests) == (4999, 4999)
    assert growth.late_bytes > 2000
    assert max(map(len, meter._memory.values())) <= 512  # noqa: SLF001 - what it must bound


@given(st.lists(st.tuples(st.integers(0, 50), st.integers(0, 5)), max_size=30))
def test_a_window_is_the_sum_of_what_its_looks_saw(steps: list[tuple[int, int]]) -> None:
    worker = figures(3, 1)
    meter = Meter(NEW, reading(a=worker), 0)
    for requests, failed in steps:
        counts = (worker.latency.counts[0] + requests, 0)
        worker = replace(
            worker,
            requests=worker.requests + requests,
            failed=worker.failed + failed,
            latency=Histogram((0.01,), counts),
        )
        meter.add(reading(a=worker))
    assert meter.sample.requests == sum(requests for requests, _ in steps)
    assert meter.sample.failed == sum(failed for _, failed in steps)
    assert meter.sample.latency.total == meter.sample.requests
