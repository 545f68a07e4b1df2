"""The soak itself: step after step of the plan, each checked, with looks at the tree in between."""

import json
import os
import signal
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path

from soak import models, plan
from soak.load import Load
from soak.results import Holdings, Results, holdings
from soak.sampling import Sampler
from soak.subject import NEIGHBOUR, SERVICE, Broken, Subject, until
from soak.timeline import Window

_REST_EVERY = 4  # revisions
_LOOK_SECONDS = 1.0
_QUIET_LOOKS = 6
_QUIET_LOOK_SECONDS = 0.5
_BACK_SECONDS = 30.0  # until a killed worker's successor serves
_CLIENT = "turner"  # whose key gets a new secret now and then
_SORRY = "closed for a moment"
_OK, _UNAVAILABLE = 200, 503
_TELL_EVERY = 10  # revisions, where nobody watches a terminal
# Python's and Envoy's heaps, thread pools and caches take a while to reach their size.
_WARM_UP = 60
_WARM_UP_SHARE = 0.3


@dataclass(frozen=True, slots=True)
class Options:
    """What is asked of one soak."""

    revisions: int
    seed: int = 1
    pace: float = 1.0
    kills: bool = True
    quiet: bool = False  # no progress lines

    @property
    def warm_up(self) -> int:
        return min(_WARM_UP, int(self.revisions * _WARM_UP_SHARE))


class Soak:
    """One soak of a running subject."""

    def __init__(self, subject: Subject, load: Load, options: Options, results: Results) -> None:
        self._subject = subject
        self._load = load
        self._options = options
        self._results = results
        self._began = time.monotonic()
        self._sampler = Sampler(subject, self._began)
        self._live = dict.fromkeys(plan.LINES, 1)  # each line's revision
        self._artifact = {line: number for number, line in enumerate(plan.LINES, 1)}
        self._files: dict[str, Path] = {}
        self._pin = plan.LINES[0]
        self._secret = ""

    def run(self) -> None:
        """All steps. Raises Broken if Fairlead does not do what it is told."""
        self._results.warm_up = self._options.warm_up
        over = threading.Event()
        watching = threading.Thread(target=self._watch, args=(over,), daemon=True)
        try:
            self._prepare()
            watching.start()
            self._steps()
            self._results.after = self._quiet_look()
        finally:
            over.set()
            if watching.is_alive():
                watching.join()
            self._load.end()
            self._note()
            if not self._options.quiet:
                print(file=sys.stderr)

    def _prepare(self) -> None:
        subject, timeline, now = self._subject, self._results.timeline, time.monotonic()
        for line, artifact in self._artifact.items():
            timeline.comes(f"{line}.1", artifact, now)
        timeline.pinned(self._pin, now)
        subject.command("publish", *map(str, sorted((subject.models / models.NAME).iterdir())))
        self._secret = subject.command("keys", "create", _CLIENT)
        self._load.begin()

    def _steps(self) -> None:
        steps = plan.steps(self._options.revisions, self._options.seed, kills=self._options.kills)
        for step in steps:
            self._step(step)
            for side in step.sides:
                self._side(side, step)
            self._results.done += 1
            if self._results.done % _REST_EVERY == 0:
                self._rest()
            if self._results.done == self._options.warm_up:
                self._results.before = self._quiet_look()
                self._load.resume()
            self._note()
            self._tell()

    def _step(self, step: plan.Step) -> None:
        """One revision comes, and in the end exactly one of its line serves."""
        subject, timeline = self._subject, self._results.timeline
        line, number, before = step.line, step.number, self._live[step.line]
        if step.publishes:
            subject.command("publish", str(subject.write_model(step.artifact)))
        percent = step.canary_percent
        split = None if step.way == "at once" else {before: 100 - percent, number: percent}
        file = subject.release(SERVICE, line, number, step.artifact, split)
        timeline.comes(f"{line}.{number}", step.artifact, time.monotonic())
        subject.command("apply", str(file))
        self._check(f"{line}.{number}", step.artifact)
        stays, goes = (before, number) if step.way == "taken back" else (number, before)
        if split is not None:
            subject.command("traffic", SERVICE, line, f"{stays}=100")
        timeline.has_gone(f"{line}.{goes}", time.monotonic())
        self._live[line] = stays
        if stays == number:
            self._artifact[line] = step.artifact
            self._files[line] = file

    def _check(self, version: str, artifact: int, key: str = "") -> None:
        """What the change command calls live must be live for the next request."""
        status, headers, body = self._subject.ask(key or self._subject.key, version)
        if status != _OK or headers.get("x-served-version") != version:
            served = headers.get("x-served-version")
            raise Broken(f"asked for {version} after it was live: {status}, served by {served}")
        answer = json.loads(body)
        right = int(answer["model_version"]) == artifact and models.is_right(
            self._options.seed, artifact, range(1), answer["outputs"][0]["data"]
        )
        if not right:
            raise Broken(
                f"{version} answered as artifact {answer['model_version']}: {body[:200]!r}"
            )

    def _side(self, side: plan.Side, step: plan.Step) -> None:
        match side:
            case "pin":
                self._move_pin()
            case "rotate":
                self._secret = self._subject.command("keys", "rotate", _CLIENT)
                live = f"{step.line}.{self._live[step.line]}"
                self._check(live, self._artifact[step.line], self._secret)
            case "switch":
                self._switch()
            case "again":
                self._again(step)
            case "kill":
                self._kill(step.line)

    def _move_pin(self) -> None:
        old, new = self._pin, next(line for line in plan.LINES if line != self._pin)
        self._results.timeline.pinned(new, time.monotonic())
        self._subject.command("pin", SERVICE, new)
        self._results.timeline.unpinned(old, time.monotonic())
        self._pin = new

    def _switch(self) -> None:
        subject = self._subject
        subject.command("kill", NEIGHBOUR, "--message", _SORRY)
        status, _, body = subject.ask(subject.key, service=NEIGHBOUR)
        if status != _UNAVAILABLE or _SORRY.encode() not in body:
            raise Broken(f"a service that is switched off answered {status} {body[:200]!r}")
        subject.command("revive", NEIGHBOUR)
        status, _, body = subject.ask(subject.key, service=NEIGHBOUR)
        if status != _OK:
            raise Broken(f"a service that is on again answered {status} {body[:200]!r}")

    def _again(self, step: plan.Step) -> None:
        """What is there already, published and applied once more, changes nothing."""
        folder = self._subject.write_model(self._artifact[step.line])
        told = self._subject.command("publish", str(folder))
        if "unchanged" not in told:
            raise Broken(f"published again, the same artifact changed something: {told}")
        file = self._files.get(step.line)
        told = self._subject.command("apply", str(file)) if file else "nothing to change"
        if "nothing to change" not in told:
            raise Broken(f"applied again, the same file changed something: {told}")

    def _kill(self, line: str) -> None:
        """SIGKILL to a line's worker: its callers may get 503 until the next one is proved."""
        pid = self._worker_of(line)
        self._results.timeline.kills.append(window := Window(time.monotonic()))
        os.kill(pid, signal.SIGKILL)
        version = f"{line}.{self._live[line]}"

        def is_back() -> bool:
            if self._worker_of(line) in (0, pid):
                return False
            return self._subject.ask(self._subject.key, version)[0] == _OK

        until(is_back, _BACK_SECONDS, f"another worker of {version} after its last one was killed")
        window.end = time.monotonic()

    def _worker_of(self, line: str) -> int:
        """The process of the ready worker of the line's live revision; 0 if there is none."""
        pids = [
            one["pid"]
            for one in self._subject.replicas()
            if one["revision"]["service"] == SERVICE
            and one["revision"]["line"] == line
            and one["revision"]["revision"] == str(self._live[line])
            and one["state"] == "ready"
        ]
        return int(pids[0]) if pids else 0

    def _rest(self) -> None:
        self._subject.rest(self._results.workers)
        self._look(rest=True)

    def _quiet_look(self) -> Holdings:
        """What the tree holds while nobody asks it anything."""
        self._subject.rest(self._results.workers)
        self._load.pause()
        looks = []
        for _ in range(_QUIET_LOOKS):
            time.sleep(_QUIET_LOOK_SECONDS)
            looks.append(self._sampler.take(time.monotonic(), self._results.done, disk=True))
        return holdings(looks)

    def _look(self, *, rest: bool = False) -> None:
        sample = self._sampler.take(time.monotonic(), self._results.done, rest=rest)
        self._results.samples.append(sample)

    def _watch(self, over: threading.Event) -> None:
        """A look every second, whatever the steps are at."""
        while not over.wait(_LOOK_SECONDS):
            self._look()

    def _note(self) -> None:
        results = self._results
        results.book = self._load.collect()
        results.seconds = time.monotonic() - self._began
        results.commands = [(one.command, one.seconds) for one in self._subject.changes]

    def _tell(self) -> None:
        results, done = self._results, self._results.done
        terminal = sys.stderr.isatty()
        if self._options.quiet or not (terminal or done % _TELL_EVERY == 0):
            return
        each = results.seconds / done
        left = each * (results.wanted - done)
        tree = results.samples[-1].total_mib if results.samples else 0.0
        line = (
            f"{done}/{results.wanted} revisions  {each:.1f} s each  {left / 60:.0f} min left  "
            f"{results.book.answers.total():,} answers  {len(results.failures)} failed  {tree:.0f} MiB"
        )
        print(f"\r{line:<110}" if terminal else line, end="" if terminal else "\n", file=sys.stderr)
        sys.stderr.flush()
