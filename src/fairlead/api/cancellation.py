"""Whether anybody still waits for a run's answer.

A run in a thread cannot be stopped from outside. An engine that can stop by itself asks to be told
(`current().on_cancel(…)`), and a model's own code may ask now and then:

    from fairlead.api.cancellation import cancelled

    for step in steps:
        if cancelled():
            return None  # nobody will read it

Code that neither ends nor asks keeps its thread. `under_way` tells which threads are in a run, and since when.
"""

from __future__ import annotations

import contextlib
import contextvars
import threading
from collections.abc import Callable, Generator
from dataclasses import dataclass

from fairlead.kits.clock import SystemClock

_now = SystemClock.monotonic


class Cancellation:
    """Belongs to one run; safe to use from any thread.

    `began` is when the run did, `left_at` when the last one left who waited for it; 0 before that.
    """

    __slots__ = ("_callback", "_cancelled", "_lock", "began", "left_at")

    def __init__(self) -> None:
        self.began = 0.0
        self.left_at = 0.0
        self._lock = threading.Lock()
        self._cancelled = False
        self._callback: Callable[[], None] | None = None

    @property
    def cancelled(self) -> bool:
        return self._cancelled

    def cancel(self) -> None:
        """Nobody waits any more. Calls what `on_cancel` was given, in this thread."""
        with self._lock:
            self.left_at = self.left_at or _now()
            self._cancelled = True
            callback, self._callback = self._callback, None
        if callback is not None:
            callback()

    def on_cancel(self, callback: Callable[[], None]) -> None:
        """Call `callback` once when the run is cancelled; at once if it is already. It must be quick."""
        with self._lock:
            if not self._cancelled:
                self._callback = callback
                return
        callback()


_current: contextvars.ContextVar[Cancellation | None] = contextvars.ContextVar(
    "fairlead_cancellation", default=None
)


@dataclass(frozen=True, slots=True)
class UnderWay:
    """A run that goes on now: in which thread, for how long, and for how long without anybody who waits for it.

    The latter is 0 while somebody does.
    """

    thread: str
    seconds: float
    left_seconds: float


_runs: dict[int, Cancellation] = {}  # those that go on, by the identity of their thread


def under_way() -> list[UnderWay]:
    """Every run of this process that goes on now. Runs only write down that they begin: whoever asks does the work."""
    now = _now()
    there = {one.ident: one.name for one in threading.enumerate()}
    return [
        UnderWay(there[thread], now - run.began, now - run.left_at if run.left_at else 0.0)
        for thread, run in list(_runs.items())
        if thread in there
    ]


def current() -> Cancellation | None:
    """The cancellation of the run this thread is in; None if it cannot be cancelled."""
    return _current.get()


def cancelled() -> bool:
    """Has everybody left who waited for the answer of the run this is called from?"""
    cancellation = _current.get()
    return cancellation is not None and cancellation.cancelled


@contextlib.contextmanager
def running(cancellation: Cancellation) -> Generator[None, None, None]:
    """Inside, `cancellation` is the current one of this thread, and its run is under way."""
    token = _current.set(cancellation)
    cancellation.began = _now()
    thread = threading.get_ident()
    _runs[thread] = cancellation
    try:
        yield
    finally:
        _runs.pop(thread, None)
        _current.reset(token)
