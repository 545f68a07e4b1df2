"""Whether anybody still waits for a run's answer.

A run in a thread cannot be stopped from outside. An engine that can stop by itself asks to be told
(`current().on_cancel(…)`), and a model's own code may ask now and then:

    from fairlead.api.cancellation import cancelled

    for step in steps:
        if cancelled():
            return None  # nobody will read it
"""

from __future__ import annotations

import contextlib
import contextvars
import threading
from collections.abc import Callable, Generator


class Cancellation:
    """Belongs to one run; safe to use from any thread."""

    __slots__ = ("_callback", "_cancelled", "_lock")

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._cancelled = False
        self._callback: Callable[[], None] | None = None

    @property
    def cancelled(self) -> bool:
        return self._cancelled

    def cancel(self) -> None:
        """Nobody waits any more. Calls what `on_cancel` was given, in this thread."""
        with self._lock:
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


def current() -> Cancellation | None:
    """The cancellation of the run this thread is in; None if it cannot be cancelled."""
    return _current.get()


def cancelled() -> bool:
    """Has everybody left who waited for the answer of the run this is called from?"""
    cancellation = _current.get()
    return cancellation is not None and cancellation.cancelled


@contextlib.contextmanager
def running(cancellation: Cancellation) -> Generator[None, None, None]:
    """Inside, `cancellation` is the current one of this thread."""
    token = _current.set(cancellation)
    try:
        yield
    finally:
        _current.reset(token)
