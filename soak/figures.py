"""Slopes with their uncertainty. Pure."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

# Two-sided 95 % of Student's t, by degrees of freedom; between two the larger is taken.
_T95 = ((1, 12.71), (2, 4.30), (3, 3.18), (4, 2.78), (5, 2.57), (7, 2.36), (10, 2.23), (15, 2.13))
_T95_MORE = ((20, 2.09), (30, 2.04), (60, 2.00), (120, 1.98))
_FEWEST = 3


@dataclass(frozen=True, slots=True)
class Slope:
    """Growth per 100 revisions, by least squares, and half its 95 % confidence interval."""

    per_hundred: float
    margin: float
    points: int

    @property
    def highest(self) -> float:
        return self.per_hundred + self.margin

    @property
    def lowest(self) -> float:
        return self.per_hundred - self.margin

    def __str__(self) -> str:
        return f"{self.per_hundred:+.2f} ± {self.margin:.2f}"


def slope(revisions: Sequence[float], values: Sequence[float]) -> Slope | None:
    """None where there are too few points to say anything.

    Neighbouring samples of memory resemble each other, so they count for fewer than they are: the effective
    number follows from the residuals' correlation with the ones before them.
    """
    count = len(revisions)
    if count < _FEWEST or len(set(revisions)) < _FEWEST:
        return None
    middle_x, middle_y = math.fsum(revisions) / count, math.fsum(values) / count
    spread = math.fsum((x - middle_x) ** 2 for x in revisions)
    pairs = list(zip(revisions, values, strict=True))
    rise = math.fsum((x - middle_x) * (y - middle_y) for x, y in pairs) / spread
    residuals = [y - middle_y - rise * (x - middle_x) for x, y in pairs]
    squares = math.fsum(one**2 for one in residuals)
    effective = max(float(_FEWEST), count * _independence(residuals, squares))
    error = math.sqrt(squares / (effective - 2) / spread)
    return Slope(100 * rise, 100 * _t95(effective - 2) * error, count)


def _independence(residuals: Sequence[float], squares: float) -> float:
    if squares == 0:
        return 1.0
    following = pairwise(residuals)
    correlation = min(0.99, max(0.0, math.fsum(a * b for a, b in following) / squares))
    return (1 - correlation) / (1 + correlation)


def _t95(freedom: float) -> float:
    return next(
        (value for most, value in reversed((*_T95, *_T95_MORE)) if most <= freedom), _T95[0][1]
    )
