"""A quick request: what it is to its connection, and what a wave notes of it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, Protocol

from fairlead.api.inference import InferRequest, InferResponse
from fairlead.server.http.handlers import Headers
from fairlead.server.http.routes import HotRoute
from fairlead.server.http.timing import Raw


class Connection(Protocol):
    """What a quick request needs of the connection it came on."""

    @property
    def left(self) -> bool:
        """Has the client gone?"""
        ...

    def finish(self, request: QuickRequest, answer: bytes) -> None:
        """Write the answer and go on with what comes next on this connection."""
        ...

    def hand_over(self, request: QuickRequest) -> None:
        """Let the ASGI app answer it: it turned out not to be quick."""
        ...

    def peer(self) -> Sequence[Any] | None:
        """Who asks, for the access log."""
        ...


class Lane(Protocol):
    """What answers quick requests."""

    def add(self, one: QuickRequest, loop: asyncio.AbstractEventLoop, /) -> None:
        """Answer one whose body is complete."""
        ...


class Event(Protocol):
    """Set when something has happened to a request, as uvicorn's protocol does."""

    def set(self) -> None: ...


class _Unheard:
    """In place of an event that nobody waits for."""

    def set(self) -> None:
        """Nobody waits."""


NOBODY_WAITS = _Unheard()


class QuickRequest:
    """One request with a small body for a model that runs on the event loop.

    To uvicorn's protocol it stands where an ASGI cycle would, so that what is pipelined behind it waits
    for its answer and a server that stops lets it finish: hence `response_complete`, `disconnected`,
    `keep_alive`, `more_body` and the like.
    """

    __slots__ = (
        "alone",
        "answer",
        "batch",
        "began",
        "body",
        "call",
        "connection",
        "decoding",
        "disconnected",
        "ended",
        "headers",
        "identity",
        "keep_alive",
        "message",
        "message_event",
        "more_body",
        "raw_headers",
        "request",
        "response_complete",
        "response_started",
        "route",
        "rows",
        "run_said",
        "start",
        "target",
        "until",
        "wave",
    )

    def __init__(
        self,
        wave: Lane,
        connection: Connection,
        route: HotRoute,
        target: bytes,
        raw_headers: Raw,
        headers: Headers,
    ) -> None:
        self.wave = wave  # that it joins
        self.connection = connection
        self.route = route
        self.target = target
        self.raw_headers = raw_headers
        self.headers = headers
        self.body = b""
        self.keep_alive = True
        self.disconnected = False
        self.response_complete = False
        self.response_started = False
        self.more_body = True
        self.message_event: Event = NOBODY_WAITS
        self.identity = b""
        self.start = 0.0
        self.decoding = 0.0  # seconds, its part of what was decoded together
        self.began = 0.0  # its run, if it came to one
        self.ended = 0.0
        self.rows = 1
        self.alone = False  # the run that it shared went wrong
        self.batch = 1  # requests that shared its run
        self.run_said = b""  # in the answer's head, where it was put into words for all of them
        self.until = 0.0  # when its caller stops waiting, if that is said
        self.call: Any = None
        self.request: InferRequest | None = None
        self.answer: InferResponse | None = None
        self.message = b""  # the answer as it is sent

    @property
    def spent(self) -> float:
        """Seconds of a run that were for it, if there was one: what is wasted if nobody takes the answer."""
        return (self.ended - self.began) / self.batch if self.ended else 0.0
