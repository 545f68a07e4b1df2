"""Counting, in plain integers: cheap enough for every request, read only when somebody asks.

One `RouteStats` per endpoint and route; what a metric family needs is summed when it is scraped.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from fairlead.domain.errors import Kind
from fairlead.domain.ids import EndpointId

# Seconds; a run may take 30 µs or minutes.
BUCKETS = (
    0.0005,
    0.001,
    0.0025,
    0.005,
    0.01,
    0.025,
    0.05,
    0.1,
    0.25,
    0.5,
    1.0,
    2.5,
    5.0,
    10.0,
    60.0,
)


class RouteStats:
    """The counts of one route of one endpoint (None for routes that belong to no endpoint)."""

    __slots__ = (
        "buckets",
        "endpoint",
        "errors",
        "exceptions",
        "in_progress",
        "method",
        "seconds",
        "statuses",
        "template",
    )

    def __init__(self, template: str, method: str, endpoint: EndpointId | None = None) -> None:
        self.template = template
        self.method = method
        self.endpoint = endpoint
        self.in_progress = 0
        self.seconds = 0.0
        self.buckets = [0] * (len(BUCKETS) + 1)
        self.statuses: dict[int, int] = {200: 0}
        self.errors: dict[Kind, int] = {}
        self.exceptions: dict[str, int] = {}

    def count(self, status: int, seconds: float) -> None:
        self.count_all(status, (seconds,))

    def count_all(self, status: int, each: Sequence[float]) -> None:
        """Several of one status, `each` in so many seconds."""
        self.statuses[status] = self.statuses.get(status, 0) + len(each)
        self.seconds += sum(each)
        buckets = self.buckets
        for seconds in each:
            buckets[bisect_left(BUCKETS, seconds)] += 1

    def error(self, kind: Kind) -> None:
        self.errors[kind] = self.errors.get(kind, 0) + 1

    def exception(self, name: str) -> None:
        self.exceptions[name] = self.exceptions.get(name, 0) + 1

    @property
    def requests(self) -> int:
        return sum(self.buckets)


# Requests of one run, powers of two as the sizes that are measured.
BATCH_BUCKETS = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0)


class BatchCounts:
    """The runs of one batched endpoint: by their size, and how long requests waited for them."""

    __slots__ = ("buckets", "requests", "rows", "run_seconds", "wait_buckets", "wait_seconds")

    def __init__(self) -> None:
        self.buckets = [0] * (len(BATCH_BUCKETS) + 1)
        self.requests = 0  # of all runs: one that is run again counts again
        self.rows = 0
        self.run_seconds = 0.0
        self.wait_buckets = [0] * (len(BUCKETS) + 1)
        self.wait_seconds = 0.0

    def ran(self, requests: int, rows: int, seconds: float) -> None:
        self.buckets[bisect_left(BATCH_BUCKETS, requests)] += 1
        self.requests += requests
        self.rows += rows
        self.run_seconds += seconds

    def waited(self, seconds: float) -> None:
        self.wait_seconds += seconds
        self.wait_buckets[bisect_left(BUCKETS, seconds)] += 1

    @property
    def runs(self) -> int:
        return sum(self.buckets)


@dataclass(slots=True)
class Totals:
    """Several routes' counts in one: what one label set of a metric family says."""

    requests: int = 0
    in_progress: int = 0
    seconds: float = 0.0
    buckets: list[int] = field(default_factory=lambda: [0] * (len(BUCKETS) + 1))

    def add(self, route: RouteStats) -> None:
        self.requests += route.requests
        self.in_progress += route.in_progress
        self.seconds += route.seconds
        self.buckets = [one + more for one, more in zip(self.buckets, route.buckets, strict=True)]


class Stats:
    """Everything one process counts."""

    def __init__(self) -> None:
        self._routes: dict[tuple[str, str, EndpointId | None], RouteStats] = {}

    def route(self, template: str, method: str, endpoint: EndpointId | None = None) -> RouteStats:
        """The counts of this route, made when first asked for."""
        key = (template, method, endpoint)
        if key not in self._routes:
            self._routes[key] = RouteStats(template, method, endpoint)
        return self._routes[key]

    @property
    def counted(self) -> int:
        """Moves with every request to a model that begins or ends: while it stands still, nobody need look at the rest."""
        routes = (one for one in self._routes.values() if one.endpoint is not None)
        return sum(2 * one.requests + one.in_progress for one in routes)

    def __iter__(self) -> Iterator[RouteStats]:
        return iter(list(self._routes.values()))
