"""Threads for runs that would hold up the event loop.

A pool of our own because its threads must not outlive their use: a model that hangs in a call must not
keep the process from ending, so the threads are daemons; and none is started before it is needed.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

from fairlead.domain.errors import Kind, Refused

T = TypeVar("T")

_Job = tuple[Future[Any], Callable[[], Any]]


class Threads:
    """Up to `limit` threads that work through what is submitted, in order."""

    def __init__(self, name: str, limit: int) -> None:
        self._name = name
        self.limit = limit
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._started = 0
        self._ended = 0
        self._open_jobs = 0
        self._closed = False
        self._lock = threading.Lock()

    def submit(self, work: Callable[[], T]) -> Future[T]:
        """Run `work` as soon as a thread is free; cancelling the future before that drops it."""
        future: Future[T] = Future()
        with self._lock:
            if self._closed:
                future.set_exception(Refused(Kind.UNAVAILABLE, "the model is being unloaded"))
                return future
            self._open_jobs += 1
            grow = self._started < min(self.limit, self._open_jobs)
            self._started += grow
            number = self._started
            self._jobs.put((future, work))  # before anybody can close: behind its end nothing runs
        if grow:
            name = f"{self._name}-{number}"
            threading.Thread(target=self._work, name=name, daemon=True).start()
        return future

    @property
    def wanted(self) -> bool:
        """Does anything wait for a thread? Not any more once this is closed: what is under way is to end."""
        return not self._closed and not self._jobs.empty()

    @property
    def over(self) -> bool:
        """Has this been closed, and is nothing run any more?"""
        with self._lock:
            return self._closed and self._ended == self._started

    def close(self) -> None:
        """Let the threads end after what is submitted; does not wait. What is submitted later is refused."""
        with self._lock:
            self._closed = True
            for _ in range(self._started):
                self._jobs.put(None)

    def _work(self) -> None:
        result: Any = None
        while (job := self._jobs.get()) is not None:
            future, work = job
            if future.set_running_or_notify_cancel():
                try:
                    result = work()
                except BaseException as error:  # noqa: BLE001 - it belongs to whoever awaits the future
                    self._done()
                    future.set_exception(error)
                else:
                    self._done()
                    future.set_result(result)
            else:
                self._done()
            del job, future, work  # do not keep the last request, or its answer, alive while idle
            result = None
        with self._lock:
            self._ended += 1

    def _done(self) -> None:
        with self._lock:
            self._open_jobs -= 1
