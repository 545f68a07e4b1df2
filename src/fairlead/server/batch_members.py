"""Requests on their way through a batch, and the batch that was taken: passive, `batching.py` acts on them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from fairlead.api.cancellation import Cancellation
from fairlead.api.inference import InferRequest, InferResponse
from fairlead.server.batch_queue import Waiting


class Answer(Protocol):
    """Where a request's outcome is put, once: a future, or what needs none. `done`: nobody waits for it any more."""

    def done(self) -> bool: ...

    def set_result(self, result: InferResponse, /) -> None: ...

    def set_exception(self, exception: BaseException, /) -> None: ...


@dataclass(slots=True, eq=False)
class Member(Waiting):
    """One request on its way through a batch. `left`: its caller does not wait any more."""

    request: InferRequest = field(default_factory=InferRequest)
    answer: Answer = field(kw_only=True)
    free: Callable[[float], None] = field(kw_only=True)
    patience: float = 0.0  # seconds it may wait for a run; 0 is as long as its caller waits
    timer: asyncio.TimerHandle | None = None  # of its patience
    run: Run | None = None
    began: float = 0.0  # its first run
    seconds: float = 0.0  # of all its runs
    share: float = 0.0  # of those seconds, by rows: what is wasted if nobody takes the answer
    size: int = 1  # requests in its last run
    left: bool = False
    freed: bool = False

    def let_go(self, wasted_seconds: float) -> None:
        """Nothing is done for it any more."""
        if not self.freed:
            self.freed = True
            self.free(wasted_seconds)

    def engine_seconds(self, now: float) -> float:
        """Of its runs; up to now, if it was given up in one."""
        return (self.seconds or now - self.began) if self.began else 0.0


@dataclass(slots=True, eq=False)
class Run:
    """One batch that was taken. `waiting`: members that still want their answer."""

    waiting: int
    cancellation: Cancellation = field(default_factory=Cancellation)
    ran: list[tuple[int, int, float, bool]] = field(
        default_factory=list
    )  # requests, rows, seconds, whether it went well


Outcome = tuple[Member, InferResponse | BaseException]
