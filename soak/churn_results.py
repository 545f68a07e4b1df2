"""What a churn found out, and the verdicts over it. Pure."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from soak.figures import Slope, slope
from soak.results import Verdict

# MiB of private memory per 100 times that a model was loaded. The models are 5 MiB in the mean: a server that keeps
# one in five hundred is seen, if it churns long enough.
GROWTH_MIB = 1.0
# An allocator gives the largest model's 65 MiB back or keeps them for the next one, as it happens: rests differ by that.
SWING_MIB = 80.0
FEWEST_RESTS = 6  # after the warm-up; with fewer a slope is told and not judged
FEWEST_LOADS = 100
WARM_UP_SHARE = 0.3  # of the rests: heaps and thread pools take a while to reach their size
# A connection or a thread of a pool that happens to be there while we look.
_SPARE_HANDLES, _SPARE_THREADS = 2, 4
_MOST_SHOWN = 20


@dataclass(frozen=True, slots=True)
class Rest:
    """One look at the server while everything is loaded and nobody asks."""

    at: float  # seconds since the begin
    loads: int  # until now
    private_mib: float
    resident_mib: float
    handles: int
    threads: int
    in_progress: float  # what its own counters say


@dataclass(slots=True)
class Results:
    """One churn, whole or until it was stopped."""

    machine: Mapping[str, Any]
    seed: int
    minutes: float
    seconds: float = 0.0
    answers: dict[str, int] = field(default_factory=dict)  # by kind of client and what came
    loads: int = 0
    unloads: int = 0
    slowest_load: float = 0.0
    failures: list[str] = field(default_factory=list)
    rests: list[Rest] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)  # what broke the churn itself off
    exit_code: int | None = None
    left: list[str] = field(default_factory=list)

    @property
    def asked(self) -> int:
        return sum(self.answers.values())

    def count(self, what: str) -> None:
        """One more of these."""
        self.answers[what] = self.answers.get(what, 0) + 1

    @property
    def judged(self) -> Sequence[Rest]:
        """The rests after the warm-up."""
        return self.rests[int(len(self.rests) * WARM_UP_SHARE) :]

    @property
    def growth(self) -> Slope | None:
        """Private memory per 100 loads."""
        rests = self.judged
        return slope([one.loads for one in rests], [one.private_mib for one in rests])


def verdicts(results: Results) -> Iterator[Verdict]:
    """Every bar, with its figures."""
    yield from (Verdict(reached=False, text=one) for one in results.problems)
    asked = results.asked
    failures = len(results.failures)
    yield Verdict(
        asked > 0 and not failures,
        f"{failures} of {asked:,} requests failed, were wrong or stuck; {results.loads:,} loads and "
        f"{results.unloads:,} unloads, the slowest {results.slowest_load:.1f} s",
    )
    busy = [one for one in results.rests if one.in_progress]
    yield Verdict(
        bool(results.rests) and not busy,
        f"the counters of what is in progress were back at zero at {len(results.rests) - len(busy)} "
        f"of {len(results.rests)} rests",
    )
    yield _grows(results)
    yield from _holds(results)
    yield Verdict(
        results.exit_code == 0 and not results.left,
        f"stopped with exit code {results.exit_code}; left behind: {', '.join(results.left) or 'nothing'}",
    )


def _grows(results: Results) -> Verdict:
    growth, rests = results.growth, results.judged
    if growth is None:
        return Verdict(None, f"memory: {len(rests)} rests are too few to say anything")
    loads = rests[-1].loads - rests[0].loads
    text = (
        f"private memory {rests[0].private_mib:.1f} MiB, at the end {rests[-1].private_mib:.1f}: "
        f"{growth} MiB per 100 loads over {loads:,} loads (bar: {GROWTH_MIB:g})"
    )
    if len(rests) < FEWEST_RESTS or loads < FEWEST_LOADS:
        return Verdict(None, f"{text}; too few to be judged")
    half = len(rests) // 2
    before, after = (max(one.private_mib for one in part) for part in (rests[:half], rests[half:]))
    level = after <= before + SWING_MIB
    text += f"; the most of a rest {before:.1f} MiB in the first half, {after:.1f} in the second"
    return Verdict(growth.highest <= GROWTH_MIB or (growth.lowest <= GROWTH_MIB and level), text)


def _holds(results: Results) -> Iterator[Verdict]:
    rests = results.judged
    half = len(rests) // 2
    if not half:
        return
    for name, spare in (("handles", _SPARE_HANDLES), ("threads", _SPARE_THREADS)):
        before, after = (
            max(getattr(one, name) for one in part) for part in (rests[:half], rests[half:])
        )
        text = f"{name}: at most {before} in the first half, {after} in the second (spare: {spare})"
        judged = len(rests) >= FEWEST_RESTS  # thread pools are still growing before
        yield Verdict(after <= before + spare if judged else None, text)


def reached(results: Results) -> bool:
    """Is every bar that could be judged reached?"""
    return all(one.reached is not False for one in verdicts(results))


def page(results: Results, marks: Mapping[bool | None, str]) -> str:
    """The report."""
    lines = [
        f"# Churn: {results.seconds / 60:.1f} of {results.minutes:g} minutes, seed {results.seed}",
        "",
        *(f"- {name}: {value}" for name, value in results.machine.items()),
        "",
        "## Verdicts",
        "",
        *(f"- {marks[one.reached]}: {one.text}" for one in verdicts(results)),
        "",
        "## Answers",
        "",
        *(f"- {what}: {count:,}" for what, count in sorted(results.answers.items())),
        "",
        "## Rests",
        "",
        "| s | loads | private MiB | resident MiB | handles | threads | in progress |",
        "| --: | --: | --: | --: | --: | --: | --: |",
        *(
            f"| {one.at:.0f} | {one.loads} | {one.private_mib:.1f} | {one.resident_mib:.1f} "
            f"| {one.handles} | {one.threads} | {one.in_progress:g} |"
            for one in results.rests
        ),
    ]
    if results.failures:
        lines += ["", "## Failures", "", *(f"- {one}" for one in results.failures[:_MOST_SHOWN])]
    return "\n".join(lines) + "\n"
