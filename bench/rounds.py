"""Rounds of load: each starts every server alone, then all of them together and asks them in turn."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from subprocess import CalledProcessError, TimeoutExpired
from time import perf_counter, sleep

from bench import environment, load, processes
from bench.figures import BUSY_CORES, Absent, Floor, Measurement, Results, Start
from bench.subject import Case, Contender, Failed, Place
from bench.suites import Group, Suite

_REST_SECONDS = 0.3  # between a start or a load and the next load
_MIB = 1 << 20

Tell = Callable[[str], None]


@dataclass(frozen=True)
class Settings:
    """How long and how often."""

    seconds: float  # a turn
    turns: int  # of each server in a round, at a number of connections that a bar is about
    other_turns: int  # at another number
    warm_seconds: float
    rounds: int = 3

    def __str__(self) -> str:
        turns = f"{self.turns} turns of {self.seconds:g} s at what bars are about"
        return f"{self.rounds} rounds, {turns}, {self.other_turns} elsewhere"


FULL = Settings(seconds=1.0, turns=6, other_turns=2, warm_seconds=1.0)
QUICK = Settings(seconds=1.0, turns=1, other_turns=1, warm_seconds=0.5, rounds=1)


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
        rounds = Rounds(group, case, settings, folder, results, tell)
        for number in range(1, settings.rounds + 1):
            rounds.alone(number)
            rounds.together(number)


@dataclass(frozen=True)
class Running:
    """A server that runs, and what it is asked."""

    contender: Contender
    tree: processes.Tree
    question: load.Question
    cold_seconds: float
    rss_mib: float  # when it had just answered for the first time


@dataclass(frozen=True)
class Rounds:
    """The rounds of one group."""

    group: Group
    case: Case
    settings: Settings
    folder: Path
    results: Results
    tell: Tell
    given_up: set[Contender] = field(default_factory=set)

    def alone(self, number: int) -> None:
        """Start each with nothing beside it: how long it takes, and what it holds after a load."""
        for contender in self._left():
            with self._absent_if_it_fails(contender):
                if number == 1 and contender.prepares:
                    # What happens only once (publishing) is not part of a start.
                    with self._started(contender):
                        pass
                with self._started(contender) as one:
                    self._warm(one)
                    one.question.ask()
                    held = one.tree.usage()
                who = (self.case.name, self.group.load, contender.name, number)
                holds = (held.pss_mib, held.rss_mib, held.processes)
                self.results.starts.append(Start(*who, one.cold_seconds, *holds))
                self.tell(
                    f"round {number}  {contender.name:40} alone: {one.cold_seconds:.2f} s to the first "
                    f"answer, {held.pss_mib:,.0f} MiB"
                )

    def together(self, number: int) -> None:
        """Start all and ask them in turn, so that a change of the machine meets every one alike."""
        running: list[Running] = []
        with ExitStack() as stack:
            for contender in self._left():
                with self._absent_if_it_fails(contender):
                    one = stack.enter_context(self._started(contender))
                    running.append(one)
            for one in running:
                with self._absent_if_it_fails(one.contender, one.tree):
                    self._warm(one)
            for connections in self.group.connections:
                barred = connections in self.group.barred
                turns = self.settings.turns if barred else self.settings.other_turns
                for turn in range(1, turns + 1):
                    self._turn(running, (number, turn), connections)
            for one in self._of_those_left(running):
                with self._absent_if_it_fails(one.contender):
                    one.question.ask()
            for one in running:
                one.tree.ask_to_end()  # all at once, and then wait

    def _turn(self, running: Sequence[Running], when: tuple[int, int], connections: int) -> None:
        """Each once, every other time from the last to the first: none always follows the same one."""
        order = self._of_those_left(running)
        for one in order if when[1] % 2 else reversed(order):
            sleep(_REST_SECONDS)
            with self._absent_if_it_fails(one.contender, one.tree):
                beside = [other.tree for other in running if other is not one]
                found = self._loaded(one, beside, when, connections)
                self.results.measurements.append(found)
                self.tell(line(found))

    def _loaded(
        self,
        one: Running,
        beside: Sequence[processes.Tree],
        when: tuple[int, int],
        connections: int,
    ) -> Measurement:
        watches = self.group.watches_memory
        if watches:
            one.tree.forget_peaks()
        trees = [one.tree, *beside]
        before, all_before = processes.cpu_seconds(trees), processes.busy_seconds()
        began = perf_counter()
        burst = one.question.load(connections, self.settings.seconds)
        seconds, everybody = perf_counter() - began, processes.busy_seconds() - all_before
        after = processes.cpu_seconds(trees)
        spent, *waiting = (late - early for early, late in zip(before, after, strict=True))
        return Measurement(
            self.case.name,
            self.group.load,
            one.contender.name,
            when[0],
            connections,
            burst.requests / burst.seconds,
            burst.p50_ms,
            burst.p99_ms,
            spent / max(burst.requests, 1) * 1e6,
            burst.bad,
            max(everybody - spent - sum(waiting), 0.0) / seconds,
            burst.load_cores,
            max(one.tree.peak_mib() - one.rss_mib, 0.0) if watches else 0.0,
            self.case.shape[0] * self.case.shape[1] * 4 / _MIB,
            when[1],
            sum(waiting) / seconds,
        )

    def _warm(self, one: Running) -> None:
        one.question.load(max(self.group.connections), self.settings.warm_seconds)

    def _left(self) -> list[Contender]:
        return [one for one in self.group.contenders if one not in self.given_up]

    def _of_those_left(self, running: Sequence[Running]) -> list[Running]:
        return [one for one in running if one.contender not in self.given_up]

    @contextmanager
    def _absent_if_it_fails(
        self, contender: Contender, tree: processes.Tree | None = None
    ) -> Iterator[None]:
        try:
            yield
        except Failed as error:
            if tree:
                tree.end()  # it would only be in the way of the others
            self.given_up.add(contender)
            reason = str(error)
            self.results.absents.append(
                Absent(contender.name, self.case.name, self.group.load, reason)
            )
            self.tell(f"not measured: {contender.name}: {reason}")

    @contextmanager
    def _started(self, contender: Contender) -> Iterator[Running]:
        """It runs and has answered right; raises Failed with the reason if it does not do its part."""
        lacks = environment.lacks(contender.needs, self.group.load)
        if lacks:
            raise Failed(lacks)
        home = self.folder / f"{self.case.name}-{self.group.load}-{contender.short}"
        home.mkdir(exist_ok=True)
        place = Place(self.case, home, processes.free_ports())
        try:
            plan = contender.plan(place)
        except (LookupError, OSError, CalledProcessError, TimeoutExpired) as error:
            raise Failed(f"{contender.name} could not be prepared: {error}") from None
        since = perf_counter()
        with processes.started(plan.command, plan.environment, home / "log") as tree:
            question = load.question(self.group.load, contender, place, plan)
            cold = question.first_answer(tree, since)
            yield Running(contender, tree, question, cold, tree.usage().rss_mib)


def _floors(group: Group, case: Case, settings: Settings, results: Results, tell: Tell) -> None:
    if any(one.case == case.name for one in results.floors):
        return
    for count, threads, rows in group.floors:
        seconds = settings.seconds * settings.turns
        speed = environment.floor(case.onnx, seconds, count, threads, rows)
        results.floors.append(Floor(case.name, count, threads, rows, speed))
        tell(f"floor: {speed:,.0f} rows/s, {count} x {threads} threads, {rows} rows a run")


def line(one: Measurement) -> str:
    """A measurement as a line of progress."""
    wrong = f"  {one.bad} BAD" if one.bad else ""
    wrong += f"  others used {one.others:.1f} cores" if one.others > BUSY_CORES else ""
    wrong += f"  waiting ones used {one.waiting:.1f} cores" if one.waiting > BUSY_CORES else ""
    peak = f"  +{one.peak_mib:,.0f} MiB" if one.peak_mib else ""
    return (
        f"round {one.round}.{one.turn}  {one.contender:40} {one.connections:3} connections "
        f"{one.requests_per_second:9,.0f}/s  p50 {one.p50_ms:7.2f}  p99 {one.p99_ms:7.2f} ms  "
        f"{one.cpu_us:6.0f} µs{peak}{wrong}"
    )
