"""The constant load: a process of its own with clients of every kind, handing in a page each second."""

import asyncio
import multiprocessing
import queue
import signal
import time
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Any

from soak import clients
from soak.book import Book

_PAGE_SECONDS = 1.0
_LOOK_SECONDS = 0.05
_START_SECONDS = 30.0
# Beyond the longest answer: then the load itself is broken, and says so.
_QUIET_SECONDS = 60.0


@dataclass(frozen=True)
class Target:
    """Who is asked, and how often: `pace` 2 asks twice as often as 1."""

    port: int
    key: str
    node_status: Path
    seed: int
    pace: float = 1.0


class Load:
    """The running load, seen from outside."""

    def __init__(self, process: Any, go: Event, quiet: Event, stop: Event, pages: Any) -> None:
        self._process = process
        self._go, self._quiet, self._stop = go, quiet, stop
        self._pages = pages
        self.book: Book | None = None

    def collect(self) -> Book:
        """Everything that was handed in so far. Raises RuntimeError if the load has died."""
        while True:
            try:
                page = self._pages.get_nowait()
            except queue.Empty:
                break
            self._take(page)
        if not self._process.is_alive() and not self._stop.is_set():
            raise RuntimeError(f"the load has ended by itself (exit {self._process.exitcode})")
        return self.book or Book(0)

    def _take(self, page: Book) -> None:
        if self.book is None:
            self.book = page
        else:
            self.book.add(page)

    def pause(self) -> None:
        """Let every client finish and close its connections; returns when there are none."""
        self._go.clear()
        if not self._quiet.wait(_QUIET_SECONDS):
            raise RuntimeError(f"the clients did not finish within {_QUIET_SECONDS:.0f} s")

    def resume(self) -> None:
        self._go.set()

    def begin(self) -> None:
        """Start asking; returns after the first right answers."""
        self.resume()
        until = time.monotonic() + _START_SECONDS
        while not self.collect().answers:
            if time.monotonic() > until:
                raise RuntimeError(f"no right answer within {_START_SECONDS:.0f} s")
            time.sleep(_LOOK_SECONDS)

    def end(self) -> None:
        """Stop and collect what is still handed in; a load that has died hands in nothing."""
        self._stop.set()
        self._go.set()
        until = time.monotonic() + _QUIET_SECONDS
        while time.monotonic() < until:
            try:
                page = self._pages.get(timeout=_PAGE_SECONDS)
            except queue.Empty:
                if not self._process.is_alive():
                    return
                continue
            if page is None:
                break
            self._take(page)
        self._process.join(_PAGE_SECONDS)

    def abandon(self) -> None:
        """Whatever state it is in, it ends now."""
        if self._process.is_alive():
            self._process.kill()
        self._process.join()


@contextmanager
def loading(target: Target) -> Iterator[Load]:
    """A load that is gone afterwards, whatever happens."""
    context = multiprocessing.get_context("spawn")
    go, quiet, stop = context.Event(), context.Event(), context.Event()
    pages: Any = context.Queue()
    process = context.Process(target=_main, args=(target, go, quiet, stop, pages), daemon=True)
    process.start()
    load = Load(process, go, quiet, stop, pages)
    try:
        yield load
    finally:
        load.abandon()


def _main(target: Target, go: Event, quiet: Event, stop: Event, pages: Any) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the one who started us
    try:
        asyncio.run(_Rounds(target, go, quiet, stop, pages).run())
    finally:
        pages.put(None)


class _Rounds:
    """Between two pauses, one round: all clients at work, then all of them gone."""

    def __init__(self, target: Target, go: Event, quiet: Event, stop: Event, pages: Any) -> None:
        self._target = target
        self._go, self._quiet, self._stop = go, quiet, stop
        self._pages = pages
        self._desk = clients.Desk(
            target.port, target.key, target.node_status, target.pace, Book(target.seed)
        )

    async def run(self) -> None:
        while not self._stop.is_set():
            self._quiet.set()
            await asyncio.to_thread(self._go.wait)
            if self._stop.is_set():
                break
            self._quiet.clear()
            await self._round()
            self._hand_in()

    async def _round(self) -> None:
        self._desk.over = False
        works: list[Coroutine[Any, Any, None]] = clients.everybody(self._desk)
        async with asyncio.TaskGroup() as group:
            for work in works:
                group.create_task(work)
            group.create_task(self._pages_until_over())

    async def _pages_until_over(self) -> None:
        spent = 0.0
        while self._go.is_set() and not self._stop.is_set():
            await asyncio.sleep(_LOOK_SECONDS)
            spent += _LOOK_SECONDS
            if spent >= _PAGE_SECONDS:
                spent = 0.0
                self._hand_in()
        self._desk.over = True

    def _hand_in(self) -> None:
        page, self._desk.book = self._desk.book, Book(self._target.seed)
        self._pages.put(page)
