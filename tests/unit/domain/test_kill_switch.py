"""When a worker is switched off by its failures: the decision alone, with the time told."""

from __future__ import annotations

import pytest
from hypothesis import given, strategies as st

from fairlead.domain.kill_switch import KillSwitch, Tally

SWITCH = KillSwitch(percent=25, requests=20, seconds=60.0, look_seconds=1.0)


def answers(tally: Tally, now: float, good: int, bad: int) -> None:
    """Spread evenly, so that never many fail in a row."""
    for number in range(good + bad):
        failed = number * bad // (good + bad) != (number + 1) * bad // (good + bad)
        tally.count(now, failed=failed)


@pytest.mark.parametrize(
    ("good", "bad", "off"),
    [(15, 5, True), (16, 5, False), (75, 25, True), (76, 25, False), (14, 5, False), (0, 19, False)],
)  # fmt: skip
def test_it_opens_at_the_share_of_enough_answers(*, good: int, bad: int, off: bool) -> None:
    tally = Tally(SWITCH)
    answers(tally, 0.0, good, bad)
    assert not tally.off(0.9), "nobody has looked yet"
    assert tally.off(1.0) is off


def test_it_opens_at_once_when_so_many_fail_in_a_row() -> None:
    tally = Tally(SWITCH)
    for number in range(19):
        tally.count(10.0 * number, failed=True)
    tally.count(200.0, failed=False)
    for number in range(20):
        assert not tally.off(210.0 + 10 * number)
        tally.count(210.0 + 10 * number, failed=True)
    assert tally.off(400.0)


def test_it_stays_open_for_its_time_and_opens_again_on_relapse() -> None:
    tally = Tally(SWITCH)
    answers(tally, 0.5, 0, 20)
    assert tally.off(60.4)
    assert not tally.off(60.5)
    answers(tally, 61.0, 10, 10)
    assert tally.off(62.0)
    assert tally.off(121.0)
    assert not tally.off(122.0), "as long as the first time"


def test_answers_to_what_was_asked_before_change_nothing() -> None:
    tally = Tally(SWITCH)
    answers(tally, 0.0, 0, 20)
    answers(tally, 59.9, 0, 19)
    assert not tally.off(60.0)
    assert not tally.off(61.0)


def test_who_looks_late_hears_what_a_look_in_time_would_have_found() -> None:
    tally = Tally(SWITCH)
    answers(tally, 0.0, 10, 10)
    assert tally.off(30.0)
    assert not tally.off(61.0), "it was off from the first second on"


@given(st.lists(st.tuples(st.floats(0, 3), st.booleans()), max_size=200))
def test_who_never_fails_in_a_quarter_of_a_look_is_never_off(
    asked: list[tuple[float, bool]],
) -> None:
    """Against the rule itself, written down plainly: without enough failures it never opens."""
    tally, now, bad = Tally(SWITCH), 0.0, 0
    for pause, failed in asked:
        now += pause
        tally.count(now, failed=failed)
        bad += failed
        if tally.off(now):
            assert bad * 100 >= SWITCH.percent * SWITCH.requests
            return
    if bad < SWITCH.requests * SWITCH.percent / 100:
        assert not tally.off(now + 1)
