"""Everything one soak found out, and the verdicts over it. Pure."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from soak.book import Book, Failure
from soak.figures import Slope, slope
from soak.sampling import ROLES, Sample
from soak.timeline import Timeline

# MiB of own memory per 100 revisions that the upper end of the 95 % interval may not exceed. A team that releases
# twenty revisions a day, every day, then sees the tree grow by less than 18 MiB a month.
BARS: Mapping[str, float] = {
    "up": 1.0,
    "agent": 1.0,
    "gateway": 1.0,
    "envoy": 1.0,
    "worker": 0.5,
    "whole tree": 3.0,
}
FEWEST_REVISIONS = 100  # after the warm-up; with fewer a slope is told and not judged
# What Python's thread pools may still add to their processes after the warm-up.
_SPARE_THREADS = 6
_SPARE_HANDLES = 2  # a connection or a file that happens to be open while we look
_SINGLE = ("up", "agent", "gateway", "envoy")
_EMPTY_AREAS = ("node/workers", "node/downloads", "temporary files and sockets", "gateway")


@dataclass(frozen=True, slots=True)
class Verdict:
    """One bar: reached, missed, or (None) not judged."""

    reached: bool | None
    text: str


@dataclass(frozen=True, slots=True)
class Holdings:
    """What the tree holds while nobody asks: the least of several looks, without open connections to Envoy."""

    processes: Mapping[str, int]
    threads: Mapping[str, int]
    handles: Mapping[tuple[str, str], int]
    zombies: int
    sample: Sample


@dataclass(slots=True)
class Results:
    """One soak, whole or until it was stopped."""

    machine: Mapping[str, Any]
    seed: int
    wanted: int
    workers: int  # that run while at rest
    done: int = 0
    seconds: float = 0.0
    warm_up: int = 0  # revisions before the first holdings
    book: Book = field(default_factory=lambda: Book(0))
    timeline: Timeline = field(default_factory=Timeline)
    samples: list[Sample] = field(default_factory=list)
    before: Holdings | None = None
    after: Holdings | None = None
    commands: list[tuple[str, float]] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)  # what broke the soak itself off
    exit_code: int | None = None
    left: list[str] = field(default_factory=list)

    @property
    def failures(self) -> list[Failure]:
        """Every failed request that nothing excuses."""
        return [one for one in self.book.failures if not self.timeline.excused(one)]

    @property
    def excused(self) -> list[Failure]:
        return [one for one in self.book.failures if self.timeline.excused(one)]

    @property
    def rests(self) -> list[Sample]:
        """The samples at rest after the warm-up."""
        return [one for one in self.samples if one.rest and one.revision > self.warm_up]

    def slopes(self) -> dict[str, Slope | None]:
        """Own (anonymous) memory by role, MiB per 100 revisions; a worker's is the mean of all.

        Own, because what else of a process counts as private or shared changes with whoever else runs here.
        """
        revisions = [one.revision for one in self.rests]
        found = {
            role: slope(revisions, [one.own_mib(role) for one in self.rests])
            for role in BARS
            if role in ROLES
        }
        found["whole tree"] = slope(revisions, [one.own_total_mib for one in self.rests])
        return found


def holdings(samples: Sequence[Sample]) -> Holdings:
    """The least of several looks at a tree that nobody asks anything."""
    handles: dict[tuple[str, str], int] = {}
    for sample in samples:
        for key, count in _handles(sample).items():
            handles[key] = min(count, handles.get(key, count))
    last = samples[-1]
    return Holdings(
        processes={role: len(last.of(role)) for role in ROLES},
        threads={
            role: min(sum(one.threads for one in sample.of(role)) for sample in samples)
            for role in ROLES
        },
        handles=handles,
        zombies=min(sample.zombies for sample in samples),
        sample=last,
    )


def _handles(sample: Sample) -> dict[tuple[str, str], int]:
    """Open file descriptors by role and kind. Envoy keeps connections to those behind it: both ends go off."""
    found: dict[tuple[str, str], int] = {}
    for role in ROLES:
        for one in sample.of(role):
            for kind, count in one.handles.items():
                found[role, kind] = found.get((role, kind), 0) + count
    front = sample.envoy.get("front_connections", 0)
    behind = sample.envoy.get("worker_connections", 0)
    clients = sample.envoy.get("http.ingress.downstream_cx_active", 0)
    kept = {"envoy": front + behind + clients, "gateway": front, "worker": behind}
    for role, count in kept.items():
        if (role, "socket") in found:
            found[role, "socket"] -= count
    return found


def verdicts(results: Results) -> list[Verdict]:
    """Every bar, the hardest first."""
    return [
        _all_done(results),
        _no_failure(results),
        _no_lie(results),
        _no_restart(results),
        *_no_leak(results),
        *_flat(results),
        _clean_end(results),
    ]


def reached(results: Results) -> bool:
    return all(one.reached is not False for one in verdicts(results))


def _all_done(results: Results) -> Verdict:
    text = f"{results.done} of {results.wanted} revisions served one after another"
    if results.problems:
        text += ": " + "; ".join(results.problems)
    return Verdict(results.done == results.wanted and not results.problems, text)


def _no_failure(results: Results) -> Verdict:
    failed = len(results.failures) + results.book.more_failures
    answers = results.book.answers.total()
    return Verdict(answers > 0 and failed == 0, f"{failed} failed requests of {answers + failed:,}")


def _no_lie(results: Results) -> Verdict:
    lies = list(results.timeline.lies(results.book))
    text = "every answer was right and came from a revision that had traffic when it was asked for"
    if lies:
        text = f"{len(lies)} kinds of answers came from the wrong revision: " + "; ".join(lies[:5])
    return Verdict(results.book.answers.total() > 0 and not lies, text)


def _no_restart(results: Results) -> Verdict:
    """Whoever ends and is started again hides what it leaked, and whatever made it end."""
    lives = {
        role: {one.pid for sample in results.samples for one in sample.of(role)} for role in _SINGLE
    }
    again = [f"{role} {len(pids)} times" for role, pids in lives.items() if len(pids) > 1]
    text = "agent, gateway and Envoy were started once and never again"
    if again:
        text = "started more than once: " + ", ".join(again)
    return Verdict(not again if results.samples else None, text)


def _no_leak(results: Results) -> Iterator[Verdict]:
    wrong = sorted(
        {
            f"revision {one.revision}: {len(one.of('worker'))} workers, {one.zombies} zombies"
            for one in results.samples
            if one.rest and (len(one.of("worker")) != results.workers or one.zombies)
        }
    )
    rests = sum(1 for one in results.samples if one.rest)
    text = (
        f"at rest only the {results.workers} live revisions' workers ran, no zombie ({rests} looks)"
    )
    yield Verdict(not wrong if rests else None, "; ".join(wrong[:5]) or text)
    before, after = results.before, results.after
    if before is None or after is None:
        yield Verdict(None, "leaks were not judged: the soak ended before its second quiet look")
        return
    more = list(_more(before, after))
    span = f"between revision {before.sample.revision} and {after.sample.revision}"
    same = f"no more processes, threads, sockets, files or directories than before, {span}"
    yield Verdict(not more, "; ".join(more) or same)


def _more(before: Holdings, after: Holdings) -> Iterator[str]:
    for role in ROLES:
        if after.processes[role] != before.processes[role]:
            yield f"{role}: {before.processes[role]} → {after.processes[role]} processes"
        if after.threads[role] > before.threads[role] + _SPARE_THREADS:
            yield f"{role}: {before.threads[role]} → {after.threads[role]} threads"
    for key in sorted(after.handles):
        was = before.handles.get(key, 0)
        if after.handles[key] > was + _SPARE_HANDLES:
            yield f"{key[0]}: {was} → {after.handles[key]} descriptors of kind {key[1]}"
    if after.zombies:
        yield f"{after.zombies} zombies"
    for name in _EMPTY_AREAS:
        old, new = before.sample.areas[name], after.sample.areas[name]
        if (new.files, new.directories) != (old.files, old.directories):
            yield (
                f"{name}: {old.files} → {new.files} files, "
                f"{old.directories} → {new.directories} directories"
            )


def _flat(results: Results) -> Iterator[Verdict]:
    judged = results.done - results.warm_up >= FEWEST_REVISIONS
    for role, found in results.slopes().items():
        bar = BARS[role]
        if found is None:
            yield Verdict(None, f"memory of {role}: too few looks for a slope")
            continue
        text = f"memory of {role}: {found} MiB per 100 revisions (bar: {bar:g})"
        yield Verdict(found.highest <= bar if judged else None, text)


def _clean_end(results: Results) -> Verdict:
    if results.exit_code is None:
        return Verdict(None, "the end was not judged: the soak was broken off")
    text = f"stopped as by Ctrl-C: exit code {results.exit_code}, "
    text += "; ".join(results.left[:5]) or "nothing left running or lying about"
    return Verdict(results.exit_code == 0 and not results.left, text)


def growth(results: Results) -> Iterator[tuple[str, float, float, float]]:
    """For each area of the disk: files per 100 revisions, KiB per 100 revisions, KiB at the end."""
    rests = results.rests
    if len(rests) < 2:  # noqa: PLR2004 - growth needs two looks
        return
    first, last = rests[0], rests[-1]
    hundreds = (last.revision - first.revision) / 100 or 1.0
    for name, area in last.areas.items():
        old = first.areas[name]
        yield (
            name,
            (area.files - old.files) / hundreds,
            (area.bytes - old.bytes) / 1024 / hundreds,
            area.bytes / 1024,
        )


def pauses(results: Results) -> list[float]:
    """Seconds of each stretch in which a killed worker's callers got no answer."""
    return [
        max(one.done for one in hit) - min(one.sent for one in hit)
        for kill in results.timeline.kills
        if (hit := [one for one in results.excused if kill.begin - 1 <= one.sent <= kill.end + 1])
    ]
