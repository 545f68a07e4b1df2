"""One exposition for the node: the agent's own metrics and those of all its workers.

Each worker's series get the label `worker`. What a worker that has ended had counted stays, added up under
`worker="ended"`, so that no total ever goes back while the agent lives. Revisions come and go without end, and
series must not: only the latest revisions that ended keep series of their own, older ones are added up under
`revision="ended"`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import httpx
from prometheus_client import parser
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.openmetrics import parser as openmetrics_parser

from fairlead.agent.asking import WorkerClient, socket_of
from fairlead.agent.table import Table
from fairlead.domain.ids import RevisionId
from fairlead.domain.status import State
from fairlead.kits import processes

ENDED = "ended"
KEPT_REVISIONS = 20  # that have ended and still have series of their own
_LABEL = "worker"
_REVISION = ("service", "line", "revision")
_SCRAPE_SECONDS = 2.0  # a worker that takes longer is left out this time
_OPENMETRICS = "application/openmetrics-text"
_CUMULATIVE = ("counter", "histogram", "summary")

_log = logging.getLogger(__name__)

# A sample by its name and labels, in the order they came in.
_Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]


@dataclass(slots=True)
class _Family:
    """What all workers say under one name."""

    documentation: str
    type: str
    unit: str
    samples: _Samples = field(default_factory=dict)


class Ended:
    """What workers that have ended had counted, in a bounded number of series."""

    def __init__(self) -> None:
        self.families: dict[str, _Family] = {}
        self._revisions: dict[RevisionId, None] = {}  # with series of their own, the latest last

    def add(
        self,
        said: Iterable[Metric],
        revision: RevisionId | None,
        running: Collection[RevisionId],
    ) -> None:
        """A worker of this revision has ended; `running` are those that others still serve."""
        for metric in said:
            if metric.type not in _CUMULATIVE:
                continue
            sums = _family(self.families, metric)
            for key, value in _samples(metric, ENDED):
                sums.samples[key] = sums.samples.get(key, 0.0) + value
        if revision is not None:
            self._revisions.pop(revision, None)
            self._revisions[revision] = None
            self._fold(running)

    def _fold(self, running: Collection[RevisionId]) -> None:
        """Those that ended longest ago give up series of their own."""
        over = [one for one in self._revisions if one not in running]
        for old in over[: max(0, len(self._revisions) - KEPT_REVISIONS)]:
            del self._revisions[old]
            for family in self.families.values():
                _fold(family.samples, old)


class Metrics:
    """Scrapes the workers of a table, remembers what they said last, and puts it all together."""

    def __init__(self, table: Table) -> None:
        self._table = table
        self._last: dict[str, tuple[str, str]] = {}  # each worker's last exposition, and its type
        self._ended = Ended()

    async def scrape(self) -> None:
        """Ask every ready worker for its metrics now."""
        async with asyncio.TaskGroup() as group:
            for worker in list(self._table.workers.values()):
                served = worker.replica.state in (State.READY, State.DRAINING)
                if served and worker.exit is None:
                    group.create_task(
                        self._scrape(worker.replica.worker, socket_of(worker.record.spec))
                    )

    def keep_totals_of(self, worker: str) -> None:
        """A worker has ended: what it had counted goes on counting."""
        there = self._table.workers
        ended = there.get(worker)
        running = {one.replica.revision for name, one in there.items() if name != worker}
        said = _families(*self._last.pop(worker, ("", "")))
        self._ended.add(said, ended.replica.revision if ended else None, running)

    def collect(self) -> Iterator[Metric]:
        """Everything, as a registry's collector gives it."""
        yield from self._own()
        merged: dict[str, _Family] = {}
        for worker, (text, content_type) in self._last.items():
            for said in _families(text, content_type):
                _family(merged, said).samples.update(_samples(said, worker))
        for name, ended in self._ended.families.items():
            into = merged.setdefault(name, _Family(ended.documentation, ended.type, ended.unit))
            into.samples.update(ended.samples)
        for name, family in merged.items():
            metric = Metric(name, family.documentation, family.type, family.unit)
            for (sample, labels), value in family.samples.items():
                metric.add_sample(sample, dict(labels), value)
            yield metric

    async def _scrape(self, worker: str, socket: Path) -> None:
        try:
            async with (
                asyncio.timeout(_SCRAPE_SECONDS),
                WorkerClient(socket, _SCRAPE_SECONDS) as client,
            ):
                text, content_type = await client.metrics()
                list(_families(text, content_type))
        except (httpx.HTTPError, TimeoutError):
            return  # it is busy or has just ended: what it said last still holds
        except ValueError as error:
            _log.warning("worker %s: its metrics cannot be read: %s", worker, error)
            return
        if worker in self._table.workers:
            self._last[worker] = (text, content_type)

    def _own(self) -> Iterator[Metric]:
        counts = self._table.counts
        replicas = GaugeMetricFamily(
            "fairlead_agent_replicas", "Workers on this node by state.", labels=["state"]
        )
        for state, number in self._table.states().items():
            replicas.add_metric([str(state)], number)
        yield replicas
        pulls = CounterMetricFamily(
            "fairlead_agent_pulls", "Artifact downloads by result.", labels=["result"]
        )
        for result, number in counts.pulls.items():
            pulls.add_metric([result], number)
        yield pulls
        for name, text, value in (
            ("worker_starts", "Workers started.", counts.starts),
            ("worker_adoptions", "Workers taken over from an earlier agent.", counts.adoptions),
            ("worker_deaths", "Ready workers that ended without being asked.", counts.deaths),
            ("worker_failures", "Workers that never got ready.", counts.failures),
        ):
            yield CounterMetricFamily(f"fairlead_agent_{name}", text, value=value)
        yield from self._by_revision()
        catalog = self._table.catalog
        yield GaugeMetricFamily(
            "fairlead_agent_catalog_generation",
            "Generation of the catalog the agent follows.",
            value=catalog.generation if catalog else 0,
        )

    def _by_revision(self) -> Iterator[Metric]:
        deaths = CounterMetricFamily(
            "fairlead_agent_revision_deaths",
            "Ready workers that ended without being asked, by revision.",
            labels=_REVISION,
        )
        for revision, number in self._table.counts.deaths_of.items():
            deaths.add_metric([revision.service, revision.line, revision.revision], number)
        yield deaths
        resident = GaugeMetricFamily(
            "fairlead_agent_worker_resident_bytes",
            "Memory of each worker's process.",
            labels=[*_REVISION, _LABEL],
        )
        for worker in self._table.workers.values():
            process, of = worker.record.process, worker.replica.revision
            size = processes.resident_bytes(process) if process else None
            if size is not None:
                labels = [of.service, of.line, of.revision, worker.replica.worker]
                resident.add_metric(labels, size)
        yield resident


def _family(families: dict[str, _Family], metric: Metric) -> _Family:
    return families.setdefault(metric.name, _Family(metric.documentation, metric.type, metric.unit))


def _families(text: str, content_type: str) -> Iterator[Metric]:
    """The metric families of an exposition; raises ValueError if it is none."""
    if content_type.startswith(_OPENMETRICS):
        parsed = openmetrics_parser.text_string_to_metric_families(text)  # type: ignore[no-untyped-call]
    else:
        parsed = parser.text_string_to_metric_families(text)
    cumulative = set()
    for metric in parsed:
        if metric.type in _CUMULATIVE:
            cumulative.add(metric.name)
        # When a series began means nothing once several are added up.
        elif metric.name.removesuffix("_created") in cumulative:
            continue
        yield metric


def _fold(samples: _Samples, revision: RevisionId) -> None:
    """Add a revision's samples to those of all that ended before it."""
    whose = {"service": revision.service, "line": revision.line, "revision": revision.revision}
    for key in [one for one in samples if whose.items() <= dict(one[1]).items()]:
        labels = {**dict(key[1]), "revision": ENDED}
        into = key[0], tuple(labels.items())
        samples[into] = samples.get(into, 0.0) + samples.pop(key)


def _samples(
    metric: Metric, worker: str
) -> Iterator[tuple[tuple[str, tuple[tuple[str, str], ...]], float]]:
    for sample in metric.samples:
        if sample.name.endswith("_created") and metric.type in _CUMULATIVE:
            continue
        labels = {**sample.labels, _LABEL: worker}
        yield (sample.name, tuple(labels.items())), sample.value
