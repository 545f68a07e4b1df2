"""Looks one right after the other while something happens, and never for most of a core."""

from __future__ import annotations

from hypothesis import given, strategies as st

from fairlead.agent.pace import Pace
from fairlead.kits.clock import FakeClock


def looks(pace: Pace, clock: FakeClock, took: float, number: int) -> list[float]:
    """The rests after so many looks, when nobody waits for more than them."""
    rests = []
    for _ in range(number):
        clock.advance(took)
        rests.append(pace.rest(took))
        clock.advance(rests[-1])
    return rests


def test_after_a_quiet_time_a_release_is_not_kept_waiting() -> None:
    clock = FakeClock()
    pace = Pace(clock)
    assert looks(pace, clock, 0.04, 12) == [0.0] * 12
    assert looks(pace, clock, 0.04, 40)[-1] > 0.07
    clock.advance(2.0)
    assert looks(pace, clock, 0.04, 12) == [0.0] * 12


def test_what_goes_on_and_on_takes_a_third_of_a_core() -> None:
    clock = FakeClock()
    pace = Pace(clock)
    looks(pace, clock, 0.1, 20)
    began = clock.monotonic()
    looks(pace, clock, 0.1, 100)
    assert 0.30 < 100 * 0.1 / (clock.monotonic() - began) < 0.36


@given(st.lists(st.tuples(st.floats(0, 5), st.floats(0, 5)), max_size=20))
def test_no_rest_is_longer_than_half_a_second_nor_below_nothing(
    turns: list[tuple[float, float]],
) -> None:
    clock = FakeClock()
    pace = Pace(clock)
    for took, pause in turns:
        clock.advance(took)
        assert 0.0 <= pace.rest(took) <= 0.5
        assert 0.1 <= pace.idle(took, 0.1) <= 0.5
        clock.advance(pause)
