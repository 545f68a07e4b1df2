"""BF16 as bits: what it means, and how numbers are rounded to it."""

from __future__ import annotations

import math

import numpy as np
from hypothesis import given, strategies as st

from fairlead.api.bf16 import from_floats, to_floats


def bits(*values: float) -> list[int]:
    return [int(one) for one in from_floats(np.array(values, np.float64))]


def test_numbers_that_fit_are_kept_exactly() -> None:
    assert bits(0.0, 1.0, -2.5, math.inf, -math.inf) == [0, 0x3F80, 0xC020, 0x7F80, 0xFF80]
    assert np.isnan(to_floats(from_floats(np.array([math.nan])))).all()


def test_others_go_to_the_nearest_and_halves_to_the_even_one() -> None:
    step = 2.0**-7  # between two BF16 from 1 on
    assert bits(1 + step / 2, 1 + 3 * step / 2, 1 + 0.6 * step) == [0x3F80, 0x3F82, 0x3F81]
    assert bits(3.3895313892515355e38, 3.396e38, 3.4e38) == [0x7F7F, 0x7F7F, 0x7F80]


def test_a_double_that_is_hardly_more_or_less_than_a_half_is_none() -> None:
    half, hair = 1 + 2.0**-8, 2.0**-40
    assert bits(half, half + hair, half - hair, -half - hair) == [0x3F80, 0x3F81, 0x3F80, 0xBF81]
    most = math.nextafter(2.0**128 * (1 - 2.0**-9), 0)
    assert bits(1 + 3 * 2.0**-8 - hair, most, 1e-46) == [0x3F81, 0x7F7F, 0]


@given(st.integers(0, 0xFFFF))
def test_every_pattern_of_bits_survives(pattern: int) -> None:
    given_bits = np.array([pattern], np.uint16)
    number = to_floats(given_bits)
    back = from_floats(number)
    assert np.isnan(number).all() if np.isnan(to_floats(back)).all() else back[0] == pattern


@given(st.floats(min_value=-(2.0**127), max_value=2.0**127))
def test_nothing_is_nearer_than_what_is_chosen(value: float) -> None:
    chosen = int(from_floats(np.array([value]))[0])
    away = abs(float(to_floats(np.array([chosen], np.uint16))[0]) - value)
    for other in (chosen - 1, chosen + 1):
        if 0 <= other <= 0xFFFF and other & 0x7FFF < 0x7F80:
            found = float(to_floats(np.array([other], np.uint16))[0])
            assert away <= abs(found - value)
