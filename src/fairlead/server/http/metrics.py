"""Metrics as OpenMetrics text: our own families by endpoint, and the families of S3-7 by route.

Computed from the counts when somebody scrapes, in a thread: a pool's text takes longer than its requests may
wait. So counts may move while they are read; what may grow is copied first.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TypeVar

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.openmetrics.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.registry import Collector, CollectorRegistry

from fairlead.api.speech import speaks
from fairlead.api.streaming import streams
from fairlead.domain.errors import Kind
from fairlead.domain.ids import EndpointId
from fairlead.server.dataplane import Counted
from fairlead.server.endpoint import Endpoint
from fairlead.server.stats import BATCH_BUCKETS, BUCKETS, RouteStats, Totals

K = TypeVar("K")
CONTENT_TYPE = CONTENT_TYPE_LATEST.encode()
_ENDPOINT = ["service", "line", "revision", "endpoint"]
_ROUTE = ["method", "path", "app_name", "pod_name"]


def exposition(found: Counted, app_name: str, pod_name: str) -> bytes:
    """The text; may be called in a thread."""
    registry = CollectorRegistry()
    registry.register(_Families(found.routes, found.wasted, app_name, pod_name))
    registry.register(_Batches(found.endpoints))
    registry.register(_Streams(found.endpoints))
    text: bytes = generate_latest(registry)  # type: ignore[no-untyped-call] # it ships no types for this one
    return text


class _Families(Collector):
    def __init__(
        self,
        routes: list[RouteStats],
        wasted: Mapping[EndpointId, float],
        app_name: str,
        pod_name: str,
    ) -> None:
        self._routes = routes
        self._wasted = wasted
        self._app = [app_name, pod_name]

    def collect(self) -> Iterator[Metric]:
        yield from self._by_endpoint()
        yield from self._by_route()

    def _by_endpoint(self) -> Iterator[Metric]:
        requests = CounterMetricFamily("fairlead_requests", "Requests answered", labels=_ENDPOINT)
        seconds = HistogramMetricFamily(
            "fairlead_request_duration_seconds", "Time from request to answer", labels=_ENDPOINT
        )
        progress = GaugeMetricFamily(
            "fairlead_requests_in_progress", "Requests being answered", labels=_ENDPOINT
        )
        errors = CounterMetricFamily(
            "fairlead_errors", "Requests answered with an error", labels=[*_ENDPOINT, "kind"]
        )
        totals: dict[EndpointId, Totals] = {}
        kinds: dict[tuple[EndpointId, Kind], int] = {}
        for route in self._routes:
            if route.endpoint is None:
                continue
            totals.setdefault(route.endpoint, Totals()).add(route)
            for kind, count in route.errors.copy().items():
                key = (route.endpoint, kind)
                kinds[key] = kinds.get(key, 0) + count
        for endpoint, total in totals.items():
            labels = _labels(endpoint)
            requests.add_metric(labels, total.requests)
            seconds.add_metric(labels, _buckets(total.buckets), total.seconds)
            progress.add_metric(labels, total.in_progress)
        for (endpoint, kind), count in kinds.items():
            errors.add_metric([*_labels(endpoint), str(kind)], count)
        wasted = CounterMetricFamily(
            "fairlead_wasted_compute_seconds",
            "Time of runs whose answer nobody took: the client left, or its deadline was over",
            labels=_ENDPOINT,
        )
        for endpoint, lost in self._wasted.items():
            wasted.add_metric(_labels(endpoint), lost)
        yield from (requests, seconds, progress, errors, wasted)

    def _by_route(self) -> Iterator[Metric]:
        info = GaugeMetricFamily(
            "fastapi_app_info", "The application", labels=["app_name", "pod_name"]
        )
        info.add_metric(self._app, 1)
        requests = CounterMetricFamily("fastapi_requests", "Requests", labels=_ROUTE)
        responses = CounterMetricFamily(
            "fastapi_responses",
            "Responses by status",
            labels=["method", "path", "status_code", *_ROUTE[2:]],
        )
        seconds = HistogramMetricFamily(
            "fastapi_requests_duration_seconds", "Time from request to answer", labels=_ROUTE
        )
        exceptions = CounterMetricFamily(
            "fastapi_exceptions",
            "Exceptions",
            labels=["method", "path", "exception_type", *_ROUTE[2:]],
        )
        progress = GaugeMetricFamily(
            "fastapi_requests_in_progress", "Requests being answered", labels=_ROUTE
        )
        for (method, path), routes in _grouped(self._routes).items():
            labels = [method, path, *self._app]
            total = Totals()
            for route in routes:
                total.add(route)
            if not total.requests + total.in_progress:
                continue
            requests.add_metric(labels, total.requests)
            seconds.add_metric(labels, _buckets(total.buckets), total.seconds)
            progress.add_metric(labels, total.in_progress)
            for status, count in _summed(route.statuses.copy() for route in routes).items():
                responses.add_metric([method, path, str(status), *self._app], count)
            for name, count in _summed(route.exceptions.copy() for route in routes).items():
                exceptions.add_metric([method, path, name, *self._app], count)
        yield from (info, requests, responses, seconds, exceptions, progress)


class _Batches(Collector):
    """How requests shared runs, of the endpoints that batch."""

    def __init__(self, endpoints: Iterable[Endpoint]) -> None:
        self._batched = [(one.id, one.batcher) for one in endpoints if one.batcher is not None]

    def collect(self) -> Iterator[Metric]:
        if not self._batched:
            return
        sizes = HistogramMetricFamily(
            "fairlead_batch_size", "Requests that shared a run", labels=_ENDPOINT
        )
        rows = CounterMetricFamily(
            "fairlead_batch_rows", "Rows of all runs, without padding", labels=_ENDPOINT
        )
        engine = CounterMetricFamily(
            "fairlead_batch_engine_seconds", "Time of all runs", labels=_ENDPOINT
        )
        waits = HistogramMetricFamily(
            "fairlead_batch_queue_seconds", "Time from admission to the run", labels=_ENDPOINT
        )
        waiting = GaugeMetricFamily(
            "fairlead_batch_queue_size", "Requests that wait for a run", labels=_ENDPOINT
        )
        for endpoint, batcher in self._batched:
            labels, counts = _labels(endpoint), batcher.counts
            sizes.add_metric(labels, _buckets(counts.buckets, BATCH_BUCKETS), counts.requests)
            rows.add_metric(labels, counts.rows)
            engine.add_metric(labels, counts.run_seconds)
            waits.add_metric(labels, _buckets(counts.wait_buckets), counts.wait_seconds)
            waiting.add_metric(labels, batcher.waiting)
        yield from (sizes, rows, engine, waits, waiting)


class _Streams(Collector):
    """What was streamed, of the endpoints that do."""

    def __init__(self, endpoints: Iterable[Endpoint]) -> None:
        self._streaming = [(one.id, one.streams) for one in endpoints if streams(one.model)]
        self._speaking = [(one.id, one.streams) for one in endpoints if speaks(one.model)]

    def collect(self) -> Iterator[Metric]:
        if self._streaming:
            yield from self._of_all()
        if self._speaking:
            yield from self._of_voices()

    def _of_all(self) -> Iterator[Metric]:
        first = HistogramMetricFamily(
            "fairlead_stream_first_byte_seconds",
            "Time from request to the first byte of its answer",
            labels=_ENDPOINT,
        )
        broken = CounterMetricFamily(
            "fairlead_streams_broken",
            "Answers that were begun and not ended",
            labels=[*_ENDPOINT, "kind"],
        )
        for endpoint, counts in self._streaming:
            first.add_metric(
                _labels(endpoint), _buckets(counts.first_buckets), counts.first_seconds
            )
            for kind, count in counts.broken.items():
                broken.add_metric([*_labels(endpoint), str(kind)], count)
        yield from (first, broken)

    def _of_voices(self) -> Iterator[Metric]:
        sound = CounterMetricFamily(
            "fairlead_speech_sound_seconds", "Seconds of sound that were made", labels=_ENDPOINT
        )
        characters = CounterMetricFamily(
            "fairlead_speech_characters", "Characters that were said", labels=_ENDPOINT
        )
        for endpoint, counts in self._speaking:
            sound.add_metric(_labels(endpoint), counts.sound_seconds)
            characters.add_metric(_labels(endpoint), counts.characters)
        yield from (sound, characters)


def _labels(endpoint: EndpointId) -> list[str]:
    return [endpoint.service, endpoint.line, endpoint.revision, endpoint.endpoint]


def _grouped(routes: Iterable[RouteStats]) -> dict[tuple[str, str], list[RouteStats]]:
    groups: dict[tuple[str, str], list[RouteStats]] = {}
    for route in routes:
        groups.setdefault((route.method, route.template), []).append(route)
    return groups


def _summed(counts: Iterable[dict[K, int]]) -> dict[K, int]:
    total: dict[K, int] = {}
    for each in counts:
        for key, count in each.items():
            total[key] = total.get(key, 0) + count
    return total


def _buckets(counts: list[int], bounds: Sequence[float] = BUCKETS) -> list[tuple[str, float]]:
    """Counts per bucket as the cumulative counts of the exposition."""
    found: list[tuple[str, float]] = []
    total = 0
    for bound, count in zip((*map(str, bounds), "+Inf"), counts, strict=True):
        total += count
        found.append((bound, total))
    return found
