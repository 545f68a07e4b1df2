"""What a request costs when very many services are loaded, what they hold, and how fast one is released.

For each number of services one `fairlead up` and one `fairlead serve` run at the same time, idle but
for the one that is being loaded. The runs are interleaved, and every run is made of short loads that
take turns with those of the others: what the machine does meanwhile meets all of them alike.
"""

import subprocess
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter, sleep

import psutil

from bench import load, processes
from bench.figures import Absent, Fact, Results
from bench.services import Services
from bench.subject import Failed

_SIZES, _QUICK_SIZES = (1, 100, 1000), (1, 4, 12)
_ROUNDS, _QUICK_ROUNDS = 5, 2
_TURNS, _QUICK_TURNS = 4, 1  # of each in a round
_SECONDS = 1.0  # a turn
_CONNECTIONS = 8
_START_SECONDS = 60.0
_START_SECONDS_EACH = 0.3
_IDLE_SECONDS = 6.0
_RELEASES, _QUICK_RELEASES = 3, 1
_RELEASE_SECONDS = 60.0
_LEAST_FREE = 2 << 30  # bytes; a machine that swaps measures nothing, and may kill somebody else
_SUITE = "scale"
_CPU = "CPU per request"
_AGAINST_ONE = "CPU per request against 1 service"
_MICRO = 1e6
_BESIDE = ("up", "agent")

Tell = Callable[[str], None]


@dataclass
class Running:
    """One number of services, served."""

    way: str  # "gateway" or "worker"
    many: Services
    tree: processes.Tree
    port: int
    idle: dict[str, float] = field(default_factory=dict)  # cores by what a process is for

    @property
    def subject(self) -> str:
        return f"{self.way}, {self.many.count} services"

    def question(self, number: int, version: int = 1) -> load.Question:
        direct = self.way == "worker"
        return self.many.question(number, self.port, version=version, direct=direct)


@dataclass
class Spent:
    """What some loads of one cost, of all that work on a request, and of each kind of process."""

    idle: dict[str, float]  # cores
    used: dict[str, float] = field(default_factory=dict)  # seconds of CPU
    requests: int = 0
    seconds: float = 0.0

    def add(self, one: Running, question: load.Question) -> None:
        """Load it for a turn; raises Failed if an answer was no right one."""
        before, began = one.tree.cpu_by_role(), perf_counter()
        burst = question.load(_CONNECTIONS, _SECONDS)
        if burst.bad:
            raise Failed(f"{one.subject}: {burst.bad} answers were no right ones")
        for name, used in one.tree.cpu_by_role().items():
            self.used[name] = self.used.get(name, 0.0) + used - before.get(name, 0.0)
        self.seconds += perf_counter() - began
        self.requests += burst.requests

    def parts(self) -> dict[str, float]:
        """Microseconds a request, by what a process is for."""
        # What a process does by itself, be there many requests or few, is told as idle CPU.
        each = _MICRO / max(self.requests, 1)
        return {
            name: max(used - self.idle.get(name, 0.0) * self.seconds, 0.0) * each
            for name, used in self.used.items()
        }

    @property
    def a_request(self) -> float:
        """Microseconds."""
        # No request ever meets these.
        return sum(part for name, part in self.parts().items() if name not in _BESIDE)


def measure(folder: Path, results: Results, tell: Tell, *, quick: bool) -> None:
    """Every size that this machine can take; the others are absent, with the reason."""
    sizes = _QUICK_SIZES if quick else _SIZES
    with ExitStack() as stack:
        running: list[Running] = []
        for size in sizes:
            try:
                many = Services(folder / f"scale-{size}", size)
                many.publish(tell)
            except Failed as error:
                _absent(results, tell, size, ("gateway", "worker"), error)
                continue
            for way in ("gateway", "worker"):
                try:
                    running.append(_start(way, many, stack, results, tell))
                except Failed as error:
                    _absent(results, tell, size, (way,), error)
        _rest(running, results, tell)
        _rounds(running, results, tell, quick=quick)
        for one in running:
            if one.way == "gateway":
                _release(one, _QUICK_RELEASES if quick else _RELEASES, results, tell)


def _absent(results: Results, tell: Tell, size: int, ways: tuple[str, ...], error: Failed) -> None:
    tell(f"not measured: {size} services, {' and '.join(ways)}: {error}")
    subjects = [f"{way}, {size} services" for way in ways]
    if "gateway" in ways:
        subjects.append(f"{size} services")
    results.absents += [Absent(subject, "", "", str(error)) for subject in subjects]


def _start(way: str, many: Services, stack: ExitStack, results: Results, tell: Tell) -> Running:
    """Start it and wait for every service's right answer; raises Failed, and then nothing of it runs."""
    port = processes.free_ports()[0]
    command = many.up(port) if way == "gateway" else many.serve(port)
    if way == "gateway":
        many.question(1, port)  # makes the key, before anything runs
    began = perf_counter()
    with ExitStack() as attempt:
        tree = attempt.enter_context(processes.started(command, {}, many.folder / f"log-{way}"))
        one = Running(way, many, tree, port)
        until = began + _START_SECONDS + _START_SECONDS_EACH * many.count
        for number in range(many.count, 0, -1):
            _wait(one, number, until)
        stack.push(attempt.pop_all())
    spent = perf_counter() - began
    what = "first start, releases applied" if way == "gateway" else "start"
    results.facts.append(Fact(_SUITE, one.subject, what, spent, "s"))
    tell(f"{one.subject}: all answered after {spent:.1f} s")
    return one


def _wait(one: Running, number: int, until: float) -> None:
    question = one.question(number)
    while True:
        try:
            question.ask()
        except Failed as error:
            if one.tree.has_ended or perf_counter() > until:
                raise load.did_not_start(one.tree, error) from None
            free = psutil.virtual_memory().available
            if free < _LEAST_FREE:
                held = one.tree.usage()
                message = (
                    f"it took {held.pss_mib:,.0f} MiB in {held.processes} processes, which leaves "
                    f"{free >> 20:,} MiB of this machine"
                )
                raise Failed(message) from None
            sleep(0.1)
        else:
            return


def _rest(running: list[Running], results: Results, tell: Tell) -> None:
    """What each holds and uses while nobody asks."""
    before = [one.tree.cpu_by_role() for one in running]
    began = perf_counter()
    sleep(_IDLE_SECONDS)
    for one, held in zip(running, before, strict=True):
        seconds = perf_counter() - began
        one.idle = {
            name: (spent - held.get(name, 0.0)) / seconds
            for name, spent in one.tree.cpu_by_role().items()
        }
        now, idle = one.tree.usage(), sum(one.idle.values())
        gateway = one.way == "gateway"
        subject = f"{one.many.count} services" if gateway else one.subject
        results.facts += [
            Fact(_SUITE, subject, "memory", now.pss_mib, "MiB"),
            Fact(_SUITE, subject, "processes", now.processes),
            Fact(_SUITE, subject, "idle CPU", idle, "cores"),
        ]
        tell(
            f"{one.subject}: {now.pss_mib:,.0f} MiB in {now.processes} processes, {idle:.2f} cores idle"
        )


def _rounds(running: list[Running], results: Results, tell: Tell, *, quick: bool) -> None:
    questions = [one.question(one.many.count) for one in running]
    for question in questions:
        question.load(_CONNECTIONS, _SECONDS)  # warm
    for _ in range(_QUICK_ROUNDS if quick else _ROUNDS):
        spent = [Spent(one.idle) for one in running]
        for _ in range(_QUICK_TURNS if quick else _TURNS):
            for one, question, its in zip(running, questions, spent, strict=True):
                its.add(one, question)
        alone = {
            one.way: its.a_request
            for one, its in zip(running, spent, strict=True)
            if one.many.count == 1
        }
        for one, its in zip(running, spent, strict=True):
            cost = its.a_request
            _note(results, one, _CPU, cost)
            for name, part in its.parts().items():
                _note(results, one, f"{_CPU}, {name}", part)
            told = f"{one.subject}: {cost:.0f} µs a request"
            if one.many.count > 1 and alone.get(one.way):
                ratio = cost / alone[one.way]
                results.facts.append(Fact(_SUITE, one.subject, _AGAINST_ONE, ratio))
                told += f", {ratio:.2f} x one service"
            tell(told)


def _note(results: Results, one: Running, what: str, micro: float) -> None:
    results.facts.append(Fact(_SUITE, one.subject, what, micro, "µs"))


def _release(one: Running, times: int, results: Results, tell: Tell) -> None:
    """A new revision of some services, one after another: from the command to its first right answer."""
    many = one.many
    numbers = range(1, min(times, many.count) + 1)
    many.publish_folders([many.write_next(number) for number in numbers], tell)
    for number in numbers:
        command = many.release_next(number)
        question = one.question(number, version=2)
        began = perf_counter()
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, timeout=_RELEASE_SECONDS
        )
        if done.returncode:
            said = (done.stderr or done.stdout).strip()
            raise Failed(f"{' '.join(command[3:5])}: {said}")
        while True:
            try:
                question.ask()
                break
            except Failed:
                if perf_counter() - began > _RELEASE_SECONDS:
                    raise
                sleep(0.02)
        spent = perf_counter() - began
        subject = f"{many.count} services"
        results.facts.append(Fact(_SUITE, subject, "release of one ready", spent, "s"))
        tell(f"{subject}: a release of one ready after {spent:.2f} s")
