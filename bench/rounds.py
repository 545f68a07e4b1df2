"""Rounds of load: each starts every server in turn, checks it, loads it and ends it."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from subprocess import CalledProcessError, TimeoutExpired
from time import perf_counter, sleep

from bench import environment, load, processes
from bench.figures import BUSY_CORES, Absent, Floor, Measurement, Results, Start
from bench.subject import Case, Contender, Failed, Place, Plan
from bench.suites import Group, Suite

_REST_SECONDS = 0.3  # between a start or a load and the next load
_MIB = 1 << 20

Tell = Callable[[str], None]


@dataclass(frozen=True)
class Settings:
    """How long and how often."""

    seconds: float
    warm_seconds: float
    rounds: int | None = None  # None: as each group says


FULL = Settings(seconds=3.0, warm_seconds=1.0)
QUICK = Settings(seconds=1.0, warm_seconds=0.5, rounds=1)


def merged(suites: Sequence[Suite], only: Sequence[str] = ()) -> list[Group]:
    """The groups of these suites; servers that two suites load alike are measured once, in the same rounds."""
    found: dict[tuple[object, str], Group] = {}
    for suite in suites:
        for group in suite.groups:
            wanted = tuple(one for one in group.contenders if not only or one.short in only)
            key = (group.case, group.load)
            there = found.get(key)
            if there is not None:
                wanted = tuple(dict.fromkeys((*there.contenders, *wanted)))
            found[key] = replace(group, contenders=wanted)
    return [group for group in found.values() if group.contenders]


def measure(
    groups: Sequence[Group], settings: Settings, folder: Path, results: Results, tell: Tell
) -> None:
    """Fill the results, group after group. A server that fails is absent from then on; the others go on."""
    for group in groups:
        case = group.case()
        tell(f"\n{case.name} over {group.load}: {case.work}")
        _floors(group, case, settings, results, tell)
        given_up: set[str] = set()
        for number in range(1, (settings.rounds or group.rounds) + 1):
            for contender in group.contenders:
                if contender.short in given_up:
                    continue
                home = folder / f"{case.name}-{group.load}-{contender.short}"
                home.mkdir(exist_ok=True)
                place = Place(case, home, processes.free_ports())
                turn = Turn(group, contender, place, number, settings)
                try:
                    for one in turn.results():
                        _keep(one, results, tell)
                except Failed as error:
                    given_up.add(contender.short)
                    reason = str(error)
                    results.absents.append(Absent(contender.name, case.name, group.load, reason))
                    tell(f"not measured: {contender.name}: {reason}")


def _keep(one: Measurement | Start, results: Results, tell: Tell) -> None:
    if isinstance(one, Start):
        results.starts.append(one)
    else:
        results.measurements.append(one)
        tell(line(one))


@dataclass(frozen=True)
class Turn:
    """One contender in one round."""

    group: Group
    contender: Contender
    place: Place
    number: int
    settings: Settings

    def results(self) -> Iterator[Measurement | Start]:
        """Each load, then the start; raises Failed with the reason if the server does not do its part."""
        lacks = environment.lacks(self.contender.needs, self.group.load)
        if lacks:
            raise Failed(lacks)
        plan = self._plan()
        if self.number == 1 and self.contender.prepares:
            # What happens only once (publishing) is not part of a start.
            with self._started(plan) as tree:
                self._question(plan).first_answer(tree, perf_counter())
        since = perf_counter()
        with self._started(plan) as tree:
            question = self._question(plan)
            cold = question.first_answer(tree, since)
            question.load(max(self.group.connections), self.settings.warm_seconds)
            for connections in self.group.connections:
                sleep(_REST_SECONDS)
                yield self._loaded(tree, question, connections)
            question.ask()
            held = tree.usage()
        who = (self.place.case.name, self.group.load, self.contender.name, self.number)
        yield Start(*who, cold, held.pss_mib, held.rss_mib, held.processes)

    def _plan(self) -> Plan:
        try:
            return self.contender.plan(self.place)
        except (LookupError, OSError, CalledProcessError, TimeoutExpired) as error:
            raise Failed(f"{self.contender.name} could not be prepared: {error}") from None

    def _started(self, plan: Plan) -> processes.Running:
        return processes.started(plan.command, plan.environment, self.place.home / "log")

    def _question(self, plan: Plan) -> load.Question:
        return load.question(self.group.load, self.contender, self.place, plan)

    def _loaded(
        self, tree: processes.Tree, question: load.Question, connections: int
    ) -> Measurement:
        watches = self.group.watches_memory
        if watches:
            tree.forget_peaks()
        held = tree.usage()
        all_before, began = processes.busy_seconds(), perf_counter()
        burst = question.load(connections, self.settings.seconds)
        spent = tree.usage().cpu_seconds - held.cpu_seconds
        everybody = processes.busy_seconds() - all_before
        size = self.place.case.shape[0] * self.place.case.shape[1] * 4 / _MIB
        return Measurement(
            self.place.case.name,
            self.group.load,
            self.contender.name,
            self.number,
            connections,
            burst.requests / burst.seconds,
            burst.p50_ms,
            burst.p99_ms,
            spent / max(burst.requests, 1) * 1e6,
            burst.bad,
            max(everybody - spent, 0.0) / (perf_counter() - began),
            burst.load_cores,
            max(tree.peak_mib() - held.rss_mib, 0.0) if watches else 0.0,
            size,
        )


def _floors(group: Group, case: Case, settings: Settings, results: Results, tell: Tell) -> None:
    if any(one.case == case.name for one in results.floors):
        return
    for count, threads, rows in group.floors:
        speed = environment.floor(case.onnx, settings.seconds, count, threads, rows)
        results.floors.append(Floor(case.name, count, threads, rows, speed))
        tell(f"floor: {speed:,.0f} rows/s, {count} x {threads} threads, {rows} rows a run")


def line(one: Measurement) -> str:
    """A measurement as a line of progress."""
    wrong = f"  {one.bad} BAD" if one.bad else ""
    wrong += f"  others used {one.others:.1f} cores" if one.others > BUSY_CORES else ""
    peak = f"  +{one.peak_mib:,.0f} MiB" if one.peak_mib else ""
    return (
        f"round {one.round}  {one.contender:40} {one.connections:3} connections "
        f"{one.requests_per_second:9,.0f}/s  p50 {one.p50_ms:7.2f}  p99 {one.p99_ms:7.2f} ms  "
        f"{one.cpu_us:6.0f} µs{peak}{wrong}"
    )
