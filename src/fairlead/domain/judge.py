"""Judging a new revision by one window of traffic: wait, go on, or roll back, with the reasons.

Pure: a window and a policy give a verdict. Three rules keep it honest. Nothing is decided by a handful of
requests; the new revision is compared with the stable one *in the same window*, so that a slow network or
odd callers count for neither; and it is rolled back early only for a difference that is certain. A
difference that is seen but not certain is neither proof nor innocence: the window goes on until it is
settled, and a window that never settles ends in a rollback.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum

from fairlead.domain.errors import InvalidInput, Problem
from fairlead.domain.release import WHOLE
from fairlead.domain.samples import SURE, Sample, surely_more

# Fewer bad requests than this decide nothing, however sure the arithmetic is.
_DECIDING = 10
_TAIL = 0.95
_MIB = 1 << 20


class Decision(StrEnum):
    """What to do now."""

    WAIT = "wait"
    GO_ON = "go on"
    ROLL_BACK = "roll back"


@dataclass(frozen=True, slots=True)
class Policy:
    """How a rollout is led and judged; times in seconds, shares from 0 to 1."""

    steps: tuple[int, ...] = (1, 10, 50, 100)  # percent of the line's traffic
    step_seconds: float = 60.0  # a window lasts at least this long
    min_requests: int = 100  # of the new revision and of the stable one, in each window
    timeout_seconds: float = 600.0  # a window that has settled nothing by then ends in a rollback
    start_seconds: float = 120.0  # for the new revision to be proved ready
    max_more_failed: float = 0.01  # above the stable revision's share of failed requests
    max_more_refused: float = 0.2  # likewise, of requests refused as the caller's mistake
    max_slower: float = 0.5  # above the stable revision's latency
    slack_seconds: float = 0.002  # a difference in latency that nobody minds
    max_growth_bytes: int = 64 * _MIB  # of one worker's memory in one window, if it goes on

    def __post_init__(self) -> None:
        """Refuse what could not be carried out; raises InvalidInput."""
        problems = []
        rising = all(
            one < more for one, more in zip((0, *self.steps), (*self.steps, WHOLE + 1), strict=True)
        )
        if not rising or len(self.steps) < 2 or self.steps[-1] != WHOLE:  # noqa: PLR2004 - one to compare in, and all
            shown = ",".join(map(str, self.steps)) or "nothing"
            right = "write two or more rising percents that end in 100: 1,10,100"
            problems.append(Problem("steps", f"are {shown}", right))
        if not 0 < self.step_seconds <= self.timeout_seconds:
            wrong = f"is {self.step_seconds:g}, the timeout {self.timeout_seconds:g}"
            right = "write seconds above 0, and a timeout that is not less"
            problems.append(Problem("step-seconds", wrong, right))
        for name, value in (("min-requests", self.min_requests), ("start", self.start_seconds)):
            if value <= 0:
                problems.append(Problem(name, f"is {value:g}", "write a number above 0"))
        if problems:
            raise InvalidInput("rollout", problems)


@dataclass(frozen=True, slots=True)
class Window:
    """What both revisions did between two moments.

    `earlier`: the stable revision has no share any more, and its sample is that of the first window.
    """

    seconds: float
    candidate: Sample
    stable: Sample
    earlier: bool = False


@dataclass(frozen=True, slots=True)
class Verdict:
    """What to do, and why: each reason a clause with its figures."""

    decision: Decision
    reasons: tuple[str, ...]


class _Standing(StrEnum):
    GOOD = "good"
    DOUBT = "doubt"  # worse than allowed, but not surely
    BAD = "bad"


@dataclass(frozen=True, slots=True)
class _Finding:
    standing: _Standing
    text: str


def judge(window: Window, policy: Policy) -> Verdict:
    """What this window says of the new revision."""
    findings = (
        _deaths(window),
        _share("failed", window, policy.max_more_failed),
        _share("refused", window, policy.max_more_refused),
        _tail(window, policy),
        _mean(window, policy),
        _memory(window, policy),
    )
    bad = _texts(findings, _Standing.BAD)
    if bad:
        return Verdict(Decision.ROLL_BACK, bad)
    missing, doubts = _missing(window, policy), _texts(findings, _Standing.DOUBT)
    if window.seconds >= policy.timeout_seconds and (missing or doubts):
        late = f"not settled within {policy.timeout_seconds:g} s"
        return Verdict(Decision.ROLL_BACK, tuple(f"{text}: {late}" for text in (*missing, *doubts)))
    left = policy.step_seconds - window.seconds
    if left > 0 or missing or doubts:
        waiting = (f"{left:.0f} s of the window are left",) if left > 0 else ()
        return Verdict(Decision.WAIT, (*missing, *doubts, *waiting))
    return Verdict(Decision.GO_ON, _texts(findings, _Standing.GOOD))


def _texts(findings: tuple[_Finding, ...], standing: _Standing) -> tuple[str, ...]:
    return tuple(one.text for one in findings if one.standing is standing)


def _missing(window: Window, policy: Policy) -> tuple[str, ...]:
    sides = [("the new revision", window.candidate)]
    if not window.earlier:
        sides.append(("the stable revision", window.stable))
    return tuple(
        f"{who} had {sample.requests} of at least {policy.min_requests} requests"
        for who, sample in sides
        if sample.requests < policy.min_requests
    )


def _deaths(window: Window) -> _Finding:
    new, old = window.candidate.deaths, window.stable.deaths
    text = f"{new} {'worker' if new == 1 else 'workers'} died (stable: {old})"
    # The machine's own trouble, such as too little memory, takes both.
    return _Finding(_Standing.BAD if new > old else _Standing.GOOD, text)


def _share(what: str, window: Window, allowed: float) -> _Finding:
    """Failed or refused requests, as a share compared with the stable revision's."""
    new, old = window.candidate, window.stable
    count, other = (new.failed, old.failed) if what == "failed" else (new.refused, old.refused)
    text = (
        f"{_percent(count, new.requests)} of requests {what} ({count} of {new.requests}; "
        f"stable: {_percent(other, old.requests)}, {other} of {old.requests})"
    )
    if count >= _DECIDING and surely_more(count, new.requests, other, old.requests) > allowed:
        return _Finding(_Standing.BAD, text)
    more = _of(count, new.requests) - _of(other, old.requests)
    return _Finding(_Standing.DOUBT if more > allowed else _Standing.GOOD, text)


def _tail(window: Window, policy: Policy) -> _Finding:
    """Is more of the new revision beyond a limit that 95 % of the stable one stay well under?"""
    new, old = window.candidate, window.stable
    stable = old.latency.quantile(_TAIL)
    limit = new.latency.bound_from(stable * (1 + policy.max_slower) + policy.slack_seconds)
    slow = new.latency.above(limit)
    text = f"p95 {_time(new.latency.quantile(_TAIL))} (stable: {_time(stable)})"
    if not old.requests or slow <= (1 - _TAIL) * new.requests:
        return _Finding(_Standing.GOOD, text)
    text += f", {_percent(slow, new.requests)} of requests over {_time(limit)}"
    others = old.latency.above(limit)
    sure = surely_more(slow, new.requests, others, old.requests) > 1 - _TAIL
    return _Finding(_Standing.BAD if sure and slow >= _DECIDING else _Standing.DOUBT, text)


def _mean(window: Window, policy: Policy) -> _Finding:
    new, old = window.candidate, window.stable
    text = f"mean {_time(new.mean)} (stable: {_time(old.mean)})"
    over = new.mean - (old.mean * (1 + policy.max_slower) + policy.slack_seconds)
    if not (old.requests and new.requests) or over <= 0:
        return _Finding(_Standing.GOOD, text)
    error = math.sqrt(
        new.latency.variance(new.mean) / new.requests
        + (1 + policy.max_slower) ** 2 * old.latency.variance(old.mean) / old.requests
    )
    sure = over > SURE * error and new.requests >= 2 * _DECIDING and old.requests >= 2 * _DECIDING
    return _Finding(_Standing.BAD if sure else _Standing.DOUBT, text)


def _memory(window: Window, policy: Policy) -> _Finding:
    new, old = window.candidate.growth, window.stable.growth
    text = f"memory grew by {new.bytes / _MIB:.0f} MiB"
    enough = new.requests >= min(policy.min_requests, 5 * _DECIDING)
    leaks = new.bytes >= policy.max_growth_bytes and new.steady
    if enough and leaks and new.per_request > 2 * max(0.0, old.per_request):
        text += (
            f" and goes on growing, {_kib(new.per_request)} a request over {new.requests} requests "
            f"(stable: {_kib(old.per_request)})"
        )
        return _Finding(_Standing.BAD, text)
    return _Finding(_Standing.GOOD, text)


def _of(count: int, total: int) -> float:
    return count / total if total else 0.0


def _percent(count: int, total: int) -> str:
    return f"{100 * _of(count, total):.3g} %"


def _time(seconds: float) -> str:
    return f"{seconds:.3g} s" if seconds >= 1 else f"{1000 * seconds:.3g} ms"


def _kib(amount: float) -> str:
    return f"{amount / 1024:.0f} KiB"
