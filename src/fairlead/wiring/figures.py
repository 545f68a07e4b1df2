"""The workers' counters, by revision and worker, from the exposition of the node's agent."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import httpx

from fairlead.api.agent import WAKE_PATH, Wake, wakes_to_json
from fairlead.domain.errors import Kind
from fairlead.domain.ids import EndpointId, RevisionId
from fairlead.domain.samples import FAILURES, Histogram, Reading, WorkerFigures
from fairlead.kits.timeouts import timeout
from fairlead.kits.unixhttp import unix_client

if TYPE_CHECKING:
    from prometheus_client.core import Metric
    from prometheus_client.samples import Sample as MetricSample

_SECONDS = 5.0  # the agent itself gives a worker 2 s
_ENDED = "ended"  # the agent's sum over workers that are gone; nobody's own figures
_TYPE = "application/openmetrics-text"

Workers = dict[RevisionId, dict[str, WorkerFigures]]


def read_figures(socket: Path) -> Reading | None:
    """Ask the agent, which asks every worker; None if it does not answer."""
    try:
        return reading_from(asyncio.run(_ask(socket)))
    except (httpx.HTTPError, OSError, TimeoutError, ValueError):
        return None


def wake(socket: Path, cold: Iterable[EndpointId]) -> None:
    """Let these come up, as somebody is about to ask them; an agent that does not answer changes nothing."""
    body = wakes_to_json(Wake(endpoint, 1) for endpoint in cold)

    async def ask() -> None:
        async with unix_client(socket, _SECONDS) as client:
            await client.post(WAKE_PATH, content=body)

    with contextlib.suppress(httpx.HTTPError, OSError):
        asyncio.run(ask())


def reading_from(text: str) -> Reading:
    """The figures of an OpenMetrics exposition; raises ValueError if it is none."""
    # `fairlead status` names open rollouts, and reads no figures.
    from prometheus_client.openmetrics.parser import text_string_to_metric_families

    workers: Workers = {}
    deaths: dict[RevisionId, int] = {}
    buckets: dict[tuple[RevisionId, str], dict[str, dict[float, int]]] = {}
    for sample in _samples(text_string_to_metric_families(text)):  # type: ignore[no-untyped-call]
        revision = _revision(sample)
        if sample.name == "fairlead_agent_revision_deaths_total":
            deaths[revision] = int(sample.value)
            continue
        worker = sample.labels["worker"]
        if worker == _ENDED:
            continue
        known = workers.setdefault(revision, {})
        figures = known.get(worker, WorkerFigures())
        if sample.name.endswith("_bucket"):
            endpoints = buckets.setdefault((revision, worker), {})
            bounds = endpoints.setdefault(sample.labels["endpoint"], {})
            bounds[float(sample.labels["le"])] = int(sample.value)
        known[worker] = _with(figures, sample)
    for (revision, worker), endpoints in buckets.items():
        latency = Histogram()
        for bounds in endpoints.values():
            latency = latency.plus(_histogram(bounds))
        workers[revision][worker] = replace(workers[revision][worker], latency=latency)
    return Reading(workers, deaths)


async def _ask(socket: Path) -> str:
    async with timeout(_SECONDS), unix_client(socket, _SECONDS) as client:
        answer = await client.get("/metrics", headers={"accept": _TYPE})
        answer.raise_for_status()
        return answer.text


def _samples(families: Iterable[Metric]) -> Iterator[MetricSample]:
    wanted = (
        "fairlead_requests",
        "fairlead_errors",
        "fairlead_request_duration_seconds",
        "fairlead_agent_revision_deaths",
        "fairlead_agent_worker_resident_bytes",
    )
    for family in families:
        if family.name in wanted:
            yield from family.samples


def _revision(sample: MetricSample) -> RevisionId:
    return RevisionId(*(sample.labels[key] for key in ("service", "line", "revision")))


def _with(figures: WorkerFigures, sample: MetricSample) -> WorkerFigures:
    """The figures with one series more; a revision's endpoints are summed up."""
    match sample.name:
        case "fairlead_requests_total":
            return replace(figures, requests=figures.requests + int(sample.value))
        case "fairlead_request_duration_seconds_sum":
            return replace(figures, seconds=figures.seconds + sample.value)
        case "fairlead_agent_worker_resident_bytes":
            return replace(figures, resident=int(sample.value))
        case "fairlead_errors_total":
            return _with_errors(figures, Kind(sample.labels["kind"]), int(sample.value))
        case _:
            return figures


def _with_errors(figures: WorkerFigures, kind: Kind, count: int) -> WorkerFigures:
    if kind in FAILURES:
        return replace(figures, failed=figures.failed + count)
    if kind is Kind.CANCELLED:
        return replace(figures, cancelled=figures.cancelled + count)
    return replace(figures, refused=figures.refused + count)


def _histogram(cumulative: dict[float, int]) -> Histogram:
    bounds = sorted(cumulative)
    totals = [cumulative[bound] for bound in bounds]
    counts = tuple(one - before for one, before in zip(totals, [0, *totals[:-1]], strict=True))
    return Histogram(tuple(bounds[:-1]), counts)
