"""A batch that was taken, run: each request's outcome, in the model's thread.

A run that fails is tried again in halves, so that only the request whose fault it is gets the error.
"""

from __future__ import annotations

from collections.abc import Sequence

from fairlead.api.cancellation import running
from fairlead.api.inference import InferResponse, Model
from fairlead.domain.errors import FairleadError, Kind, Refused
from fairlead.engines.sharing import Sharing, once_more
from fairlead.kits.clock import Clock
from fairlead.server.batch_members import Member, Outcome, Run


class BatchRuns:
    """Runs the batches of one model."""

    def __init__(self, model: Model, sharing: Sharing, clock: Clock) -> None:
        self._model = model
        self._sharing = sharing
        self._now = clock.monotonic

    def answers(self, run: Run, members: Sequence[Member]) -> list[Outcome]:
        """What became of each of them, run together; if that fails, each half by itself, down to the one at fault."""
        now = self._now()
        live: list[Member] = []
        outcomes: list[Outcome] = []
        for one in members:
            if one.left or one.until <= now:
                outcomes.append((one, too_late()))
            else:
                one.began = one.began or now
                live.append(one)
        if not live:
            return outcomes
        answers, error = self._once(run, live, now)
        if error is None:
            return [*outcomes, *zip(live, answers, strict=True)]
        if len(live) == 1:
            return [*outcomes, (live[0], error)]
        return outcomes + self._apart(run, live)

    def _apart(self, run: Run, live: Sequence[Member]) -> list[Outcome]:
        """What becomes of them in two halves, now that their run has failed."""
        outcomes: list[Outcome] = []
        readable = []
        for one in live:
            try:
                one.request = once_more(self._model, one.request)
            except Exception as wrong:  # noqa: BLE001 - a user's validator may raise anything, the second time too
                outcomes.append((one, _bare(wrong)))
            else:
                readable.append(one)
        half = (len(readable) + 1) // 2
        for part in (readable[:half], readable[half:]):
            if part:
                outcomes += self.answers(run, part)
        return outcomes

    def _once(
        self, run: Run, live: Sequence[Member], now: float
    ) -> tuple[Sequence[InferResponse], BaseException | None]:
        """Their answers, or what went wrong."""
        for one in live:
            one.size = len(live)
        try:
            with running(run.cancellation):
                answers = self._sharing.run(self._model, [one.request for one in live])
        except BaseException as error:  # noqa: BLE001 - it belongs to whoever awaits the answer
            _ran(run, live, self._now() - now, well=False)
            return (), _bare(error)
        _ran(run, live, self._now() - now, well=True)
        return answers, None


def _bare(error: BaseException) -> BaseException:
    """The error as an answer: what leads to where it was raised holds requests and models until Python collects garbage.

    What nobody has foreseen keeps it, for the log.
    """
    if isinstance(error, FairleadError):
        error.__traceback__ = error.__context__ = None
    return error


def _ran(run: Run, live: Sequence[Member], seconds: float, *, well: bool) -> None:
    rows = sum(one.rows for one in live)
    for one in live:
        one.seconds += seconds
        one.share += seconds * one.rows / rows
    run.ran.append((len(live), rows, seconds, well))


def too_late() -> Refused:
    """What a request gets whose caller's time was over before its run."""
    return Refused(Kind.DEADLINE, "its time was over before its run")
