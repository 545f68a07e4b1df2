"""One exposition for the node: the agent's own metrics and those of all its workers.

Each worker's series get the label `worker`: the name of the replica whose revision they are about, else that
of the process. What a worker that has ended had counted stays, added up under
`worker="ended"`, so that no total ever goes back while the agent lives. Revisions come and go without end, and
series must not: only the latest revisions that ended keep series of their own, older ones are added up under
`revision="ended"`.
"""

from __future__ import annotations

import asyncio
import functools
import logging
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import httpx
from prometheus_client import parser
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.openmetrics import parser as openmetrics_parser

from fairlead.agent.asking import OPENMETRICS, WorkerClient, socket_of
from fairlead.agent.entries import Process
from fairlead.agent.table import Table
from fairlead.domain.ids import RevisionId
from fairlead.kits import processes
from fairlead.kits.timeouts import timeout

ENDED = "ended"
KEPT_REVISIONS = 20  # that have ended and still have series of their own
_LABEL = "worker"
_REVISION = ("service", "line", "revision")
_SCRAPE_SECONDS = 2.0  # a worker that takes longer is left out this time
_CUMULATIVE = ("counter", "histogram", "summary")

_log = logging.getLogger(__name__)

# A sample by its name and labels, in the order they came in.
_Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]


@dataclass(frozen=True, slots=True)
class _Said:
    """A worker's exposition and its content type; `counted` tells whether there can be a newer one."""

    text: str
    content_type: str
    counted: int

    def families(self, worker: str) -> list[Metric]:
        """What it says; nothing if it cannot be read."""
        try:
            return list(_families(self.text, self.content_type))
        except ValueError as error:
            _log.warning("worker %s: its metrics cannot be read: %s", worker, error)
            return []


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
        revisions: Collection[RevisionId],
        running: Collection[RevisionId],
    ) -> None:
        """A worker of these revisions has ended; `running` are those that others still serve."""
        for metric in said:
            if metric.type not in _CUMULATIVE:
                continue
            sums = _family(self.families, metric)
            for key, value in _samples(metric, _nobody):
                sums.samples[key] = sums.samples.get(key, 0.0) + value
        for revision in revisions:
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
        self._last: dict[str, _Said] = {}  # by process
        self._ended = Ended()

    async def scrape(self) -> None:
        """Ask every worker that serves for its metrics now, and nobody twice for the same."""
        async with asyncio.TaskGroup() as group:
            for process in list(self._table.processes.values()):
                at = next(iter(process.answering()), None)
                if at is not None:
                    group.create_task(self._scrape(process, socket_of(at.spec)))

    def keep_totals_of(self, process: Process) -> None:
        """A worker has ended: what it had counted goes on counting."""
        running = {
            one.replica.revision
            for one in self._table.workers.values()
            if one.process is not process
        }
        said = self._last.pop(process.name, _Said("", "", -1))
        self._ended.add(said.families(process.name), process.names, running)

    def collect(self) -> Iterator[Metric]:
        """Everything, as a registry's collector gives it."""
        yield from self._own()
        merged: dict[str, _Family] = {}
        for name, last in self._last.items():
            process = self._table.processes.get(name)
            named = functools.partial(name_of, process.names if process else {}, name)
            for said in last.families(name):
                _family(merged, said).samples.update(_samples(said, named))
        for name, ended in self._ended.families.items():
            into = merged.setdefault(name, _Family(ended.documentation, ended.type, ended.unit))
            into.samples.update(ended.samples)
        for name, family in merged.items():
            metric = Metric(name, family.documentation, family.type, family.unit)
            for (sample, labels), value in family.samples.items():
                metric.add_sample(sample, dict(labels), value)
            yield metric

    async def _scrape(self, process: Process, socket: Path) -> None:
        name, last = process.name, self._last.get(process.name)
        try:
            async with (
                timeout(_SCRAPE_SECONDS),
                WorkerClient(socket, _SCRAPE_SECONDS) as client,
            ):
                company = await client.company()
                counted = company.counted if company is not None else -1
                if last is not None and last.counted == counted >= 0:
                    return
                text, content_type = await client.metrics()
        except (httpx.HTTPError, TimeoutError):
            return  # it is busy or has just ended: what it said last still holds
        if name in self._table.processes:
            self._last[name] = _Said(text, content_type, counted)

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
            ("wakes", "Cold endpoints that came up because somebody asked.", counts.wakes),
        ):
            yield CounterMetricFamily(f"fairlead_agent_{name}", text, value=value)
        yield from self._by_revision()
        yield from self._scaled()
        catalog = self._table.catalog
        yield GaugeMetricFamily(
            "fairlead_agent_catalog_generation",
            "Generation of the catalog the agent follows.",
            value=catalog.generation if catalog else 0,
        )

    def _scaled(self) -> Iterator[Metric]:
        """What is cold, and the memory there is; the budget only where there is one."""
        table = self._table
        yield GaugeMetricFamily(
            "fairlead_agent_cold_endpoints",
            "Scale units without a replica on purpose: they come up when somebody asks.",
            value=table.demands.cold(),
        )
        yield GaugeMetricFamily(
            "fairlead_agent_memory_bytes",
            "Memory that all workers have to themselves.",
            value=sum(table.weights.processes.values()),
        )
        if table.memory_budget_bytes:
            yield GaugeMetricFamily(
                "fairlead_agent_memory_budget_bytes",
                "What they may take before the least recently used go cold.",
                value=table.memory_budget_bytes,
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
        pools = GaugeMetricFamily(
            "fairlead_agent_pool_resident_bytes",
            "Memory of each process that several revisions share.",
            labels=[_LABEL],
        )
        shared = GaugeMetricFamily(
            "fairlead_agent_pool_replicas",
            "Revisions in each process that several share.",
            labels=[_LABEL],
        )
        for process in self._table.processes.values():
            identity = process.record.process
            size = processes.resident_bytes(identity) if identity else None
            living = process.living()
            if process.shared:
                shared.add_metric([process.name], len(living))
                if size is not None:
                    pools.add_metric([process.name], size)
            elif size is not None and living:
                of = living[0].replica.revision
                resident.add_metric([of.service, of.line, of.revision, process.name], size)
        yield pools
        yield shared
        yield resident


def _family(families: dict[str, _Family], metric: Metric) -> _Family:
    return families.setdefault(metric.name, _Family(metric.documentation, metric.type, metric.unit))


def _families(text: str, content_type: str) -> Iterator[Metric]:
    """The metric families of an exposition; raises ValueError if it is none."""
    if content_type.startswith(OPENMETRICS):
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


def name_of(names: Mapping[RevisionId, str], process: str, labels: Mapping[str, str]) -> str:
    """Whose a sample of a process is: its revision's replica's, else the process's own."""
    if "revision" not in labels:
        return process
    revision = RevisionId(*(labels.get(key, "") for key in _REVISION))
    return names.get(revision, process)


def _nobody(labels: Mapping[str, str]) -> str:
    del labels
    return ENDED


def _samples(
    metric: Metric, worker_of: Callable[[Mapping[str, str]], str]
) -> Iterator[tuple[tuple[str, tuple[tuple[str, str], ...]], float]]:
    for sample in metric.samples:
        if sample.name.endswith("_created") and metric.type in _CUMULATIVE:
            continue
        labels = {**sample.labels, _LABEL: worker_of(sample.labels)}
        yield (sample.name, tuple(labels.items())), sample.value
