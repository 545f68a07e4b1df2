"""How many replicas: S0-38's numbers and S0-39's decision, told as what was in progress and what was wanted."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings, strategies as st

from fairlead.domain.release import EndpointSpec
from fairlead.domain.scaling import TICK_SECONDS, Bounds, Counted, Decision, Rules, Scaler

WINDOW = 60
SPEECH = Bounds(least=0, most=0, concurrency=1)


@dataclass
class World:
    """A unit whose replicas are asked every tick; what is decided is there at once, unless `slow`."""

    bounds: Bounds
    ready: int = 1
    slow: bool = False
    rules: Rules = field(default_factory=Rules)
    now: float = 1000.0
    counted: float = 0.0
    requests: int = 0
    scaler: Scaler = field(init=False)

    def __post_init__(self) -> None:
        self.scaler = Scaler(self.bounds, self.rules)
        self._look(0.0)

    def _look(self, waiting: float) -> Decision:
        self.scaler.observe(self.now, {"w": Counted(self.counted, self.requests)}, waiting)
        return self.scaler.decide(self.now, self.ready)

    def lasts(self, seconds: float, in_progress: float, waiting: float = 0.0) -> list[int]:
        """So many requests are in progress for so long: what was decided at each tick."""
        return [one.replicas for one in self.decisions(seconds, in_progress, waiting)]

    def decisions(self, seconds: float, busy: float, waiting: float = 0.0) -> list[Decision]:
        made = []
        for _ in range(round(seconds / TICK_SECONDS)):
            self.now += TICK_SECONDS
            self.counted += busy * TICK_SECONDS
            self.requests += math.ceil(busy)
            made.append(self._look(waiting))
            if not self.slow:
                self.ready = made[-1].replicas
        return made


@pytest.mark.parametrize(
    ("concurrency", "in_progress", "replicas"),
    [
        (1, 0.69, 1),  # the target is 70 % of the concurrency
        (1, 0.71, 2),
        (1, 1.4, 2),
        (1, 3.0, 5),
        (10, 7.0, 1),
        (10, 7.1, 2),
        (10, 70.0, 10),
        (0, 70.0, 1),  # no limit counts as 100
        (0, 71.0, 2),
    ],
)
def test_wanted_is_what_is_in_progress_by_the_target(
    concurrency: int, in_progress: float, replicas: int
) -> None:
    world = World(Bounds(least=1, concurrency=concurrency))
    assert world.lasts(2 * WINDOW + 20, in_progress)[-1] == replicas


def test_a_surge_counts_after_one_look_and_not_after_a_minute() -> None:
    world = World(SPEECH)
    calm = world.decisions(WINDOW, 0.5)
    assert not calm[-1].panicking
    first, second, third = world.decisions(6, 14.0)
    assert (first.replicas, second.replicas, third.replicas) == (8, 14, 20)  # of the last 6 s
    assert first.panicking
    assert first.stable < 1.0


def test_less_than_twice_what_is_ready_is_no_surge() -> None:
    world = World(SPEECH, ready=4, slow=True)
    world.decisions(2 * WINDOW, 2.7)  # it began as four, and keeps them for a window
    assert not any(one.panicking for one in world.decisions(WINDOW, 4.8))  # 7 by 4
    assert world.decisions(6, 5.5)[-1].panicking  # 8 by 4


def test_nothing_goes_while_it_panics_and_for_a_window_after_the_last_surge() -> None:
    world = World(SPEECH)
    world.lasts(WINDOW, 0.5)
    most = world.lasts(6, 14.0)[-1]
    calm = world.decisions(3 * WINDOW, 0.5)
    kept = [one for one in calm if one.replicas == most]
    assert len(kept) * TICK_SECONDS == pytest.approx(WINDOW - 4)  # the surge was 4 s ago
    assert not calm[len(kept)].panicking
    assert calm[len(kept)].replicas == most // 2


def test_what_is_too_much_goes_by_half_at_a_time() -> None:
    world = World(Bounds(least=0, concurrency=1), ready=16)
    counts = world.lasts(3 * WINDOW, 0.5)
    assert sorted(set(counts), reverse=True) == [16, 8, 4, 2, 1]


def test_no_more_than_the_up_rate_times_what_is_ready() -> None:
    world = World(SPEECH, rules=Rules(up_rate=1.1), slow=True)
    assert set(world.lasts(2 * WINDOW, 5.0)) == {2}  # at least one more


def test_bounds_hold_whatever_is_wanted() -> None:
    assert set(World(Bounds(2, 4, 1)).lasts(WINDOW, 100.0)) <= {2, 4}
    assert World(Bounds(2, 4, 1)).lasts(2 * WINDOW, 0.0)[-1] == 2
    assert World(Bounds(1, 0, 1)).lasts(2 * WINDOW, 700.0)[-1] == 1000


def test_the_last_one_goes_after_a_window_without_a_request() -> None:
    world = World(SPEECH)
    world.lasts(10, 0.5)
    quiet = world.lasts(2 * WINDOW, 0.0)
    assert quiet.index(0) * TICK_SECONDS == pytest.approx(WINDOW, abs=TICK_SECONDS)


def test_one_that_was_just_woken_stays_for_a_window() -> None:
    world = World(SPEECH, ready=0, slow=True)
    assert world.lasts(4, 0.0, waiting=1.0)[-1] >= 1
    world.slow, world.ready = False, 1
    assert 0 not in world.lasts(WINDOW - TICK_SECONDS, 0.0)
    assert 0 in world.lasts(2 * WINDOW, 0.0)


def test_a_cold_one_stays_cold_while_nobody_asks() -> None:
    assert set(World(SPEECH, ready=0).lasts(2 * WINDOW, 0.0)) == {0}


def test_a_request_too_quick_to_add_up_keeps_the_last_one() -> None:
    world = World(SPEECH)
    for _ in range(10):
        world.requests += 1
        assert 0 not in world.lasts(WINDOW / 2, 0.0)


def test_requests_that_wait_at_a_cold_unit_ask_for_as_many_as_they_need() -> None:
    world = World(Bounds(0, 4, 1), ready=0, slow=True)
    assert world.lasts(4, 0.0, waiting=100.0)[-1] == 4
    world = World(Bounds(0, 0, 10), ready=0, slow=True)
    assert world.lasts(4, 0.0, waiting=100.0)[-1] == 15


def test_a_short_calm_takes_nothing_away_if_there_is_a_delay() -> None:
    world = World(Bounds(0, 0, 1, down_delay_seconds=300))
    most = max(world.lasts(2 * WINDOW, 7.0))
    assert set(world.lasts(300, 0.5)) == {most}
    assert world.lasts(WINDOW, 0.5)[-1] == most // 2


def test_whoever_finds_several_keeps_them_for_a_window() -> None:
    """An agent that was started anew knows nothing of what was before."""
    world = World(SPEECH, ready=8)
    quiet = world.lasts(2 * WINDOW, 0.0)
    assert quiet[int(WINDOW / TICK_SECONDS) - 1] == 8
    assert quiet[-1] < 8


def test_what_a_replica_had_counted_before_it_was_first_seen_does_not_count() -> None:
    scaler = Scaler(SPEECH)
    scaler.observe(0.0, {"a": Counted(1e6, 1000)})
    scaler.observe(2.0, {"a": Counted(1e6 + 1.0, 1001), "b": Counted(5e6, 7)})
    assert scaler.decide(2.0, 2).stable == pytest.approx(0.5)


def test_a_replica_that_could_not_be_asked_brings_its_count_later() -> None:
    scaler = Scaler(SPEECH)
    scaler.observe(0.0, {"a": Counted(0.0, 0)})
    scaler.observe(2.0, {})
    scaler.observe(4.0, {"a": Counted(4.0, 4)})
    assert scaler.decide(4.0, 1).stable == pytest.approx(1.0)


def test_a_replica_that_is_forgotten_begins_anew() -> None:
    scaler = Scaler(SPEECH)
    scaler.observe(0.0, {"a": Counted(9.0, 9)})
    scaler.forget({"a"})
    scaler.observe(2.0, {"a": Counted(1.0, 1)})
    scaler.observe(4.0, {"a": Counted(2.0, 2)})
    assert scaler.decide(4.0, 1).stable == pytest.approx(0.25)


def test_without_a_look_everything_stays_as_it_is() -> None:
    assert Scaler(Bounds(1, 4, 1)).decide(0.0, 3).replicas == 3
    assert Scaler(Bounds(1, 4, 1)).decide(0.0, 0).replicas == 1


def test_bounds_are_what_the_release_says() -> None:
    spec = EndpointSpec("stream", 0, 4, 1, scale_down_delay_seconds=300)
    assert Bounds.of(spec) == Bounds(0, 4, 1, 300.0)


LOADS = st.lists(
    st.tuples(st.floats(0, 500), st.sampled_from([0.0, 0.0, 3.0, 200.0])), min_size=1, max_size=60
)
BOUNDS = st.builds(
    lambda least, more, concurrency, delay: Bounds(least, least + more, concurrency, delay),
    st.integers(0, 5),
    st.integers(0, 20),
    st.integers(0, 100),
    st.sampled_from([0.0, 10.0, 100.0]),
)


@given(BOUNDS, LOADS, st.integers(0, 5))
def test_it_is_always_within_bounds_and_never_falls_in_panic(
    bounds: Bounds, loads: list[tuple[float, float]], ready: int
) -> None:
    world = World(bounds, ready=ready)
    before = None
    for busy, waiting in loads:
        for one in world.decisions(TICK_SECONDS, busy, waiting):
            assert bounds.clamp(one.replicas) == one.replicas
            if before is not None and before.panicking and one.panicking:
                assert one.replicas >= before.replicas
            if waiting:
                assert one.replicas >= 1 or bounds.most == 0 == bounds.least
            before = one


@settings(max_examples=15)
@given(BOUNDS, st.floats(0.001, 500) | st.just(0.0), st.integers(0, 5))
def test_a_steady_load_comes_to_rest(bounds: Bounds, busy: float, ready: int) -> None:
    world = World(bounds, ready=ready)
    world.lasts(3 * WINDOW + 3 * bounds.down_delay_seconds, busy)
    rest = set(world.lasts(2 * TICK_SECONDS, busy))
    assert rest == {bounds.clamp(math.ceil(round(busy / bounds.target(Rules()), 6)))}


@given(LOADS)
def test_more_requests_never_want_fewer_replicas(loads: list[tuple[float, float]]) -> None:
    less, more = World(SPEECH, slow=True), World(SPEECH, slow=True)
    for busy, waiting in loads:
        few = less.lasts(TICK_SECONDS, busy, waiting)[-1]
        assert more.lasts(TICK_SECONDS, busy + 1.0, waiting)[-1] >= few
