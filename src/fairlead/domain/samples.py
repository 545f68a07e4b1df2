"""What one revision did in one window, and the little statistics that comparing two of them needs.

Figures are counts and a latency histogram: what workers count anyway. Nothing here keeps single requests.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from fairlead.domain.errors import Kind
from fairlead.domain.ids import RevisionId
from fairlead.domain.reading import Node

# What went wrong on our side or the model's. Everything else that is answered with an error is the
# caller's own mistake, or (CANCELLED) a caller that left.
FAILURES = frozenset({Kind.MODEL, Kind.INTERNAL, Kind.DEADLINE, Kind.OVERLOADED, Kind.UNAVAILABLE})
# How sure a comparison must be: three standard errors, 99.9 % on one side, because a window is looked at
# many times and each look is a chance to be wrong.
SURE = 3.0


@dataclass(frozen=True, slots=True)
class Histogram:
    """Counts by upper bound in seconds; `counts` has one element more, for what is above the last bound."""

    bounds: tuple[float, ...] = ()
    counts: tuple[int, ...] = ()

    @property
    def total(self) -> int:
        return sum(self.counts)

    def plus(self, other: Histogram, sign: int = 1) -> Histogram:
        """Both together, or with `sign` -1 what came since `other`. An empty one fits every other."""
        if not other.bounds:
            return self
        if not self.bounds:
            return Histogram(other.bounds, tuple(sign * count for count in other.counts))
        if self.bounds != other.bounds:
            raise ValueError(f"histograms with bounds {self.bounds} and {other.bounds}")
        pairs = zip(self.counts, other.counts, strict=True)
        return Histogram(self.bounds, tuple(one + sign * more for one, more in pairs))

    def quantile(self, share: float) -> float:
        """The latency that this share of requests stays under, interpolated inside its bucket; 0 if empty."""
        wanted, before, low = share * self.total, 0, 0.0
        for bound, count in zip((*self.bounds, math.inf), self.counts, strict=True):
            if count and before + count >= wanted:
                high = low if math.isinf(bound) else bound
                return low + (high - low) * (wanted - before) / count
            before += count
            low = low if math.isinf(bound) else bound
        return 0.0

    def bound_from(self, seconds: float) -> float:
        """The first bound that is not less; infinity if there is none."""
        return next((bound for bound in self.bounds if bound >= seconds), math.inf)

    def above(self, bound: float) -> int:
        """How many took longer than one of the bounds."""
        pairs = zip((*self.bounds, math.inf), self.counts, strict=True)
        return sum(count for upper, count in pairs if upper > bound)

    def variance(self, mean: float) -> float:
        """At most this variance around `mean`, taking each bucket's far end; beyond the last bound, twice it."""
        spread, low = 0.0, 0.0
        last = 2 * self.bounds[-1] if self.bounds else 0.0
        for bound, count in zip((*self.bounds, last), self.counts, strict=True):
            spread += count * max(abs(low - mean), abs(bound - mean)) ** 2
            low = bound
        return spread / max(1, self.total - 1)


@dataclass(frozen=True, slots=True)
class Growth:
    """How the memory of the worker that grew most has moved: over the window, and over its later requests."""

    bytes: int = 0
    late_bytes: int = 0  # since half of the window's requests
    requests: int = 0  # that this worker answered meanwhile

    @property
    def steady(self) -> bool:
        """Does it go on? A cache or a first use grows early and then stays."""
        return self.late_bytes >= self.bytes / 4

    @property
    def per_request(self) -> float:
        return self.bytes / self.requests if self.requests else 0.0


@dataclass(frozen=True, slots=True)
class Counts:
    """How requests ended and how long they took, in seconds."""

    requests: int = 0
    failed: int = 0
    refused: int = 0
    cancelled: int = 0
    seconds: float = 0.0
    latency: Histogram = field(default_factory=Histogram)


@dataclass(frozen=True, slots=True)
class Sample(Counts):
    """What one revision did in one window."""

    deaths: int = 0
    growth: Growth = field(default_factory=Growth)

    @property
    def mean(self) -> float:
        return self.seconds / self.requests if self.requests else 0.0


@dataclass(frozen=True, slots=True)
class WorkerFigures(Counts):
    """What one worker has counted since it started. `resident` is its memory in bytes, if known."""

    resident: int | None = None


@dataclass(frozen=True, slots=True)
class Reading:
    """What all workers of a node have counted, by revision and worker, and how many of each have died."""

    workers: Mapping[RevisionId, Mapping[str, WorkerFigures]] = field(default_factory=dict)
    deaths: Mapping[RevisionId, int] = field(default_factory=dict)


def wilson(count: int, total: int) -> tuple[float, float]:
    """Between which shares the true one lies, given `count` of `total`; (0, 1) if nothing is known.

    Wilson's score interval at SURE: right for small counts and for shares near 0, where the usual one is not.
    """
    if total <= 0:
        return 0.0, 1.0
    share, square = count / total, SURE * SURE
    centre = share + square / (2 * total)
    half = SURE * math.sqrt(share * (1 - share) / total + square / (4 * total * total))
    scale = 1 + square / total
    return max(0.0, (centre - half) / scale), min(1.0, (centre + half) / scale)


def surely_more(count: int, total: int, other_count: int, other_total: int) -> float:
    """By how much one share is surely above the other; negative while that is not sure.

    The lower end of Newcombe's interval for a difference of two shares, from Wilson's of each.
    """
    share = count / total if total else 0.0
    other = other_count / other_total if other_total else 0.0
    low, _ = wilson(count, total)
    _, high = wilson(other_count, other_total)
    return (share - other) - math.hypot(share - low, high - other)


def sample_to_json(sample: Sample) -> dict[str, Any]:
    """A sample as a record holds it, with the percentiles that people ask for."""
    document = asdict(sample)
    quantiles = {
        name: round(sample.latency.quantile(share), 6)
        for name, share in (("p50", 0.5), ("p95", 0.95), ("p99", 0.99))
    }
    return document | {"mean": round(sample.mean, 6), **quantiles}


def sample_from_json(node: Node) -> Sample:
    """Read what `sample_to_json` wrote; problems are noted on the node."""
    latency, growth = node.child("latency"), node.child("growth")
    return Sample(
        **{
            name: node.child(name).integer(0)
            for name in ("requests", "failed", "refused", "cancelled", "deaths")
        },
        seconds=node.child("seconds").number(),
        latency=Histogram(
            tuple(bound.number() for bound in latency.child("bounds").elements()),
            tuple(count.integer(0) for count in latency.child("counts").elements()),
        ),
        growth=Growth(
            growth.child("bytes").integer(-(1 << 62)),
            growth.child("late_bytes").integer(-(1 << 62)),
            growth.child("requests").integer(0),
        ),
    )


def without_deaths(sample: Sample) -> Sample:
    """The same sample as a yardstick for a later window."""
    return replace(sample, deaths=0)
