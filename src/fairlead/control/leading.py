"""Leading a rollout: step by step more traffic, each step judged, then all of it or none.

The leader writes down what it will do, does it, looks, and judges; whatever ends it early leaves a journal
that `--resume` and `--abort` go on from. It never overwrites a traffic that it did not set itself.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from fairlead.control.meter import Meter
from fairlead.control.releases import split_text
from fairlead.control.rollouts import Desk, Interfered, check_ours
from fairlead.domain.errors import FairleadError, StoreConflict
from fairlead.domain.ids import RevisionId
from fairlead.domain.judge import Decision, Verdict, Window, judge
from fairlead.domain.release import WHOLE
from fairlead.domain.rollout import Event, Exam, Outcome, Record, Rollout, Traffic, judged
from fairlead.domain.rollout_ports import Scene
from fairlead.domain.samples import Reading, Sample, without_deaths

_MOVE_SECONDS = 30.0  # for the gateway to route as the catalog says
_STARTS = 3  # a revision that failed to start so many times will not
_ASKS = 3  # golden examples that a busy worker did not answer at all


class _Undo(Exception):
    """The new revision has to go back, for these reasons."""

    def __init__(self, *reasons: str) -> None:
        super().__init__(*reasons)
        self.reasons = reasons


@dataclass(slots=True)
class Leader:
    """Leads one rollout to its end.

    `tell` gets lines that stay, `show` a line that the next one replaces. `stop` gives the reason once
    somebody wants it to end (Ctrl-C), else nothing.
    """

    desk: Desk
    scene: Scene
    record: Record
    tell: Callable[[str], None]
    show: Callable[[str], None]
    stop: Callable[[], str]
    _reading: Reading | None = None
    _deaths: dict[RevisionId, int] | None = None
    _stable: Sample | None = None
    _ours: set[Traffic] = field(default_factory=set)  # what we may find the line with

    def __post_init__(self) -> None:
        """What was left behind is ours, whichever of its last two moves it came to."""
        self._ours = self.record.traffics()
        self._stable = self.record.yardstick

    @property
    def _rollout(self) -> Rollout:
        return self.record.rollout

    def lead(self) -> Outcome:
        """Go on from where the record stands. Raises FairleadError if the rollout is left unfinished."""
        try:
            return self._lead()
        except StoreConflict:
            name = self._rollout.id
            message = (
                f"rollout {name} was taken over from elsewhere; see `fairlead why rollout {name}`"
            )
            raise Interfered(message) from None

    def undo(self, reason: str) -> Outcome:
        """Give the line the traffic it had, whatever the record says."""
        return self._roll_back((reason,))

    def _lead(self) -> Outcome:
        if self.record.decided is Decision.ROLL_BACK:
            return self._roll_back(self.record.reasons)
        try:
            self._start()
            for percent in self._steps():
                self._step(percent)
        except _Undo as undo:
            return self._roll_back(undo.reasons)
        except Interfered as error:
            self.record = self.desk.end(self.record, Outcome.STOPPED, (error.message,))
            return Outcome.STOPPED
        except StoreConflict:
            raise
        except (FairleadError, OSError) as error:
            return self._roll_back((f"the rollout could not go on: {error}",))
        return self._promote()

    def _steps(self) -> list[int]:
        """What is still to be done: a step that was moved to and not judged is done again."""
        steps, percent = self._rollout.policy.steps, self.record.percent
        done = self.record.decided is Decision.GO_ON
        return [step for step in steps if step > percent or (step == percent and not done)]

    # The way up.
    def _start(self) -> None:
        """Wait until the new revision is proved ready, and ask its golden examples."""
        name, policy = self._rollout.candidate.served_version, self._rollout.policy
        began, failures = self.desk.clock.monotonic(), set[str]()
        while not (standing := self.scene.standing(self._rollout.candidate)).ready:
            self._check()
            if standing.failed:
                failures.add(standing.reason)
            if len(failures) >= _STARTS:
                raise _Undo(f"{name} never started, {len(failures)} times: {standing.reason}")
            seconds = self.desk.clock.monotonic() - began
            if seconds > policy.start_seconds:
                raise _Undo(
                    f"{name} was not ready in {policy.start_seconds:g} s: {standing.reason}"
                )
            self.show(f"starting {name}: {standing.reason or 'not started'} ({seconds:.0f} s)")
            self.desk.clock.pause(self._pause)
        reading = self.scene.reading()
        if reading is not None:
            self._deaths = dict(reading.deaths)
        if not self.record.percent:
            exam = self._golden()
            verdict = Verdict(Decision.GO_ON, (_answered(exam),))
            self._judged(0, None, verdict)

    def _step(self, percent: int) -> None:
        """Give the new revision `percent` of the traffic and judge it; whatever comes of it is written down."""
        self.record = self.desk.write(self.record, Event.MOVED, {"percent": percent})
        window = None
        try:
            self._move(self._rollout.traffic_at(percent))
            self._golden()
            window, verdict = self._watch(percent)
            if verdict.decision is Decision.GO_ON:
                verdict = Verdict(verdict.decision, (*verdict.reasons, _answered(self._golden())))
        except _Undo as undo:
            verdict = Verdict(Decision.ROLL_BACK, undo.reasons)
        self._judged(percent, window, verdict)
        if verdict.decision is Decision.ROLL_BACK:
            raise _Undo(*verdict.reasons)
        if self._stable is None and window is not None:
            self._stable = without_deaths(window.stable)

    def _watch(self, percent: int) -> tuple[Window, Verdict]:
        """Look at one window until it is settled, or until the rollout may not go on."""
        clock, policy = self.desk.clock, self._rollout.policy
        began = clock.monotonic()
        candidate, stable = self._meters()
        while True:
            clock.pause(self._pause)
            reading = self._read()
            candidate.add(reading)
            stable.add(reading)
            self._deaths = {
                self._rollout.candidate: candidate.deaths_last,
                self._rollout.stable: stable.deaths_last,
            }
            yardstick = self._stable if percent == WHOLE else None
            window = Window(
                clock.monotonic() - began,
                candidate.sample,
                yardstick or stable.sample,
                earlier=yardstick is not None,
            )
            try:
                self._check()
            except _Undo as undo:
                return window, Verdict(Decision.ROLL_BACK, undo.reasons)
            verdict = judge(window, policy)
            if verdict.decision is not Decision.WAIT:
                return window, self._explained(window, verdict)
            self.show(
                f"{percent:>3} %: {window.candidate.requests} requests of the new revision, "
                f"{stable.sample.requests} of the stable one, {window.seconds:.0f} s: {verdict.reasons[0]}"
            )

    def _explained(self, window: Window, verdict: Verdict) -> Verdict:
        """A death's own words, if the node still has them."""
        standing = self.scene.standing(self._rollout.candidate)
        if not window.candidate.deaths or standing.ready or not standing.reason:
            return verdict
        return Verdict(verdict.decision, (*verdict.reasons, standing.reason))

    def _golden(self) -> Exam:
        """Ask the golden examples; a worker that is only busy is asked again."""
        name = self._rollout.candidate.served_version
        exam = Exam(missed="not asked")
        for _ in range(_ASKS):
            self._check()
            self.show(f"asking {name} its golden examples")
            exam = self.scene.golden(self._rollout.candidate, self.stop)
            self._check()
            if exam.wrong:
                raise _Undo(f"{name} fails its golden examples: {exam.wrong}")
            if not exam.missed:
                return exam
            self.desk.clock.pause(self._pause)
        died = self._died()
        raise _Undo(*died, f"{name} did not answer its golden examples: {exam.missed}")

    def _died(self) -> tuple[str, ...]:
        """Have workers of the new revision died since the last window?"""
        deaths = self._read().deaths.get(self._rollout.candidate, 0)
        known = (self._deaths or {}).get(self._rollout.candidate, 0)
        return (f"{deaths - known} worker(s) died",) if deaths > known else ()

    def _meters(self) -> tuple[Meter, Meter]:
        reading = self._read()
        if self._deaths is None:
            self._deaths = dict(reading.deaths)
        first, second = (
            Meter(one, reading, self._deaths.get(one, 0))
            for one in (self._rollout.candidate, self._rollout.stable)
        )
        return first, second

    def _read(self) -> Reading:
        """The newest figures; while nobody answers, the last ones."""
        self._reading = self.scene.reading() or self._reading or Reading()
        return self._reading

    def _check(self) -> None:
        """Raise unless the rollout may go on: nobody stopped it, moved its traffic or switched the service off."""
        reason = self.stop()
        if reason:
            raise _Undo(reason)
        catalog = self.desk.catalogs.read()
        check_ours(self._rollout, catalog, self._ours)
        if catalog.services[self._rollout.line.service].kill is not None:
            raise _Undo(f"{self._rollout.line.service} was switched off by hand")

    @property
    def _pause(self) -> float:
        return min(1.0, max(0.1, self._rollout.policy.step_seconds / 20))

    # The moves.
    def _move(self, traffic: Traffic) -> None:
        self._set(traffic)
        if not self._flows(traffic, self._check):
            standing = self.scene.standing(self._rollout.candidate)
            raise _Undo(
                *self._died(),
                f"the gateway did not route {split_text(traffic)} within {_MOVE_SECONDS:g} s",
                *([standing.reason] if standing.reason else []),
            )

    def _set(self, traffic: Traffic) -> None:
        self.desk.move(self._rollout, traffic, self._ours)
        self._ours = {traffic}

    def _flows(self, traffic: Traffic, check: Callable[[], None]) -> bool:
        """Wait until the gateway routes so; False if it does not in time."""
        clock = self.desk.clock
        began = clock.monotonic()
        while self.scene.flowing(self._rollout.line) != traffic:
            check()
            if clock.monotonic() - began > _MOVE_SECONDS:
                return False
            clock.pause(0.05)
        return True

    def _promote(self) -> Outcome:
        """All traffic is there and was judged good: now what the file says."""
        try:
            self._set(self._rollout.goal)
        except Interfered as error:
            self.record = self.desk.end(self.record, Outcome.STOPPED, (error.message,))
            return Outcome.STOPPED
        reason = f"{self._rollout.candidate} passed every step"
        self.record = self.desk.end(self.record, Outcome.PROMOTED, (reason,))
        self._settled(self._rollout.goal)
        return Outcome.PROMOTED

    def _roll_back(self, reasons: tuple[str, ...]) -> Outcome:
        """Give the line the traffic it had."""
        try:
            self._set(self._rollout.before)
        except Interfered as error:
            self.record = self.desk.end(self.record, Outcome.STOPPED, (error.message, *reasons))
            return Outcome.STOPPED
        self.record = self.desk.end(self.record, Outcome.ROLLED_BACK, reasons)
        self._settled(self._rollout.before)
        return Outcome.ROLLED_BACK

    def _settled(self, traffic: Traffic) -> None:
        silent = self.scene.flowing(self._rollout.line) is None
        if silent or not self._flows(traffic, lambda: None):
            self.tell(
                f"the catalog says {split_text(traffic)}, but the gateway does not route so yet; "
                "`fairlead status` says why"
            )

    def _judged(self, percent: int, window: Window | None, verdict: Verdict) -> None:
        self.record = self.desk.write(self.record, Event.JUDGED, judged(percent, window, verdict))
        self.tell(f"{percent:>3} %: {verdict.decision}: {'; '.join(verdict.reasons)}")


def _answered(exam: Exam) -> str:
    return f"golden examples right ({exam.asked} asked)"
