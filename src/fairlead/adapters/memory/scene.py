"""A machine that serves, for rollouts that need none: its callers come evenly and its revisions behave as told."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

from fairlead.domain.ids import LineId, RevisionId
from fairlead.domain.ports import Catalogs
from fairlead.domain.rollout import Exam, Standing, Traffic
from fairlead.domain.samples import Histogram, Reading, WorkerFigures
from fairlead.kits.clock import Clock

BOUNDS = (0.001, 0.01, 0.1, 1.0)


@dataclass(slots=True)
class Manner:
    """How a revision behaves once it has `requests` behind it; everything is fine as it stands here."""

    requests: int = 0
    starts: bool = True
    hangs: bool = False  # it neither gets ready nor fails
    mute: bool = False  # it does not answer its golden examples
    seconds: float = 0.0005
    failing: float = 0.0  # share of requests
    wrong: bool = False
    deaths: int = 0
    grows_bytes: int = 0  # with every request


@dataclass(slots=True)
class MemoryScene:
    """`rate` requests a second on every line, split as the catalog says; `silent` shows nothing."""

    catalogs: Catalogs
    clock: Clock
    rate: float = 1000.0
    silent: bool = False
    manners: dict[str, Manner] = field(default_factory=dict)  # by the revision's tag
    _looked: float | None = None
    _figures: dict[RevisionId, WorkerFigures] = field(default_factory=dict)
    _starts: int = 0

    def standing(self, revision: RevisionId) -> Standing:
        manner = self.manners.get(revision.revision, Manner())
        if manner.hangs:
            return Standing(ready=False, reason="starting")
        if manner.starts:
            return Standing(ready=True)
        self._starts += 1
        reason = f"failed: worker {self._starts}: exit code 1"
        return Standing(ready=False, failed=True, reason=reason)

    def flowing(self, line: LineId) -> Traffic | None:
        return None if self.silent else self.catalogs.read().line(line).traffic

    def reading(self) -> Reading | None:
        if self.silent:
            return None
        now = self.clock.monotonic()
        passed = 0.0 if self._looked is None else now - self._looked
        self._looked = now
        for service in self.catalogs.read().services.values():
            for line in service.lines.values():
                for share in line.traffic:
                    came = round(passed * self.rate * share.percent / 100)
                    revision = RevisionId(service.name, line.id.line, share.tag)
                    self._serve(revision, came)
        workers = {revision: {"w": figures} for revision, figures in self._figures.items()}
        deaths = {one: self._late(one).deaths for one in self._figures if self._late(one).deaths}
        return Reading(workers, deaths)

    def golden(self, revision: RevisionId, stop: Callable[[], str]) -> Exam:
        del stop
        if self._late(revision).mute:
            return Exam(missed="the worker does not answer")
        wrong = "example 1 of 1: label: 1 expected, 2 answered"
        return Exam(wrong=wrong) if self._late(revision).wrong else Exam(1)

    def _late(self, revision: RevisionId) -> Manner:
        """Its manner, as far as it shows it yet."""
        manner = self.manners.get(revision.revision, Manner())
        served = self._figures.get(revision, WorkerFigures()).requests
        return manner if served >= manner.requests else Manner()

    def _serve(self, revision: RevisionId, came: int) -> None:
        before = self._figures.get(revision, WorkerFigures(resident=1 << 26))
        manner = self._late(revision)
        counts = [0] * (len(BOUNDS) + 1)
        counts[sum(bound < manner.seconds for bound in BOUNDS)] = came
        self._figures[revision] = replace(
            before,
            requests=before.requests + came,
            failed=before.failed + round(came * manner.failing),
            seconds=before.seconds + came * manner.seconds,
            latency=before.latency.plus(Histogram(BOUNDS, tuple(counts))),
            resident=(before.resident or 0) + came * manner.grows_bytes,
        )
