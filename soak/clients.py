"""Every kind of client there is, each a loop that ends when the round is over."""

import asyncio
import itertools
import json
import random
import time
from collections.abc import Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import h2.config
import h2.connection
import h2.events
import h2.exceptions
import h2.settings

from soak import models, plan, wire
from soak.book import Asked, Book, Kind

BATCH = 8
_LARGE_ROWS = 1000
_SLOW_BUFFER_BYTES = 4096
_SLOW_PAUSE_SECONDS = 0.005
_GONE_SECONDS = 3.0  # until the node's status says that a worker is not ready any more
_BROKEN = (OSError, asyncio.IncompleteReadError, TimeoutError)


@dataclass(slots=True)
class Desk:
    """What all clients share. `over` ends them, each after what it is at."""

    port: int
    key: str
    node_status: Path
    pace: float
    book: Book
    over: bool = False
    choose: random.Random = field(init=False)
    numbers: Any = field(init=False)
    large: bytes = field(init=False)
    small: list[bytes] = field(init=False)

    def __post_init__(self) -> None:
        """Prepare the questions once."""
        self.choose = random.Random(self.book.seed)
        self.numbers = itertools.count(1)
        self.large = wire.question(self.book.seed, range(_LARGE_ROWS))
        self.small = [
            wire.question(self.book.seed, range(one, one + 1)) for one in range(models.INPUTS)
        ]

    def ask(self, kind: Kind, *, large: bool = False, line: str | None = None) -> Asked:
        """The next request: any row, any line or none."""
        row = self.choose.randrange(models.INPUTS)
        rows = range(_LARGE_ROWS) if large else range(row, row + 1)
        chosen = self.choose.choice(("", *plan.LINES)) if line is None else line
        return Asked(kind, f"{kind}-{next(self.numbers)}", chosen, rows, time.monotonic())

    def body(self, asked: Asked) -> bytes:
        return self.large if len(asked.rows) > 1 else self.small[asked.rows.start]

    def headers(self, asked: Asked) -> dict[str, str]:
        found = {"X-Api-Key": self.key, "X-Request-Id": asked.identity}
        found["X-Sticky-Key"] = str(self.choose.random())  # so that every share of a split is met
        if asked.line:
            found["Accept-Version"] = asked.line
        return found

    def message(self, asked: Asked) -> bytes:
        return wire.message(self.body(asked), self.headers(asked))

    def answered(self, asked: Asked, answer: wire.Answer) -> bool:
        whole = (answer.status, answer.headers, answer.body)
        return self.book.answered(asked, whole, time.monotonic())

    def lost(self, asked: Asked, error: Exception | str) -> None:
        text = error if isinstance(error, str) else repr(error)
        self.book.failed(asked, "lost", text, time.monotonic())

    async def rest(self, seconds: float) -> None:
        await asyncio.sleep(seconds / self.pace)


def everybody(desk: Desk) -> list[Coroutine[Any, Any, None]]:
    """The load: about 600 requests a second in all at pace 1."""
    return [
        *(kept(desk) for _ in range(4)),
        *(new(desk) for _ in range(2)),
        *(pipelined(desk) for _ in range(2)),
        worker(desk),
        http2(desk),
        *(slow(desk) for _ in range(2)),
        leaving(desk),
    ]


async def kept(desk: Desk) -> None:
    """Keep-alive: one connection as long as it lasts."""
    pair: wire.Pair | None = None
    while not desk.over:
        asked = desk.ask("kept")
        try:
            pair = pair or await wire.connect(desk.port)
            pair[1].write(desk.message(asked))
            async with asyncio.timeout(wire.ANSWER_SECONDS):
                answer = await wire.read(pair[0])
        except _BROKEN as error:
            desk.lost(asked, error)
            await wire.close(pair)
            pair = None
        else:
            desk.answered(asked, answer)
            if not answer.keeps:
                await wire.close(pair)
                pair = None
        await desk.rest(0.02)
    await wire.close(pair)


async def new(desk: Desk) -> None:
    """A connection for each request, closed by the client."""
    while not desk.over:
        asked = desk.ask("new")
        pair: wire.Pair | None = None
        try:
            pair = await wire.connect(desk.port)
            pair[1].write(desk.message(asked))
            async with asyncio.timeout(wire.ANSWER_SECONDS):
                desk.answered(asked, await wire.read(pair[0]))
        except _BROKEN as error:
            desk.lost(asked, error)
        await wire.close(pair)
        await desk.rest(0.04)


async def pipelined(desk: Desk) -> None:
    """Several requests written at once; the answers must come in their order."""
    pair: wire.Pair | None = None
    while not desk.over:
        batch = [desk.ask("pipelined") for _ in range(BATCH)]
        done = 0
        try:
            pair = pair or await wire.connect(desk.port)
            pair[1].write(b"".join(desk.message(asked) for asked in batch))
            async with asyncio.timeout(wire.ANSWER_SECONDS):
                for asked in batch:
                    answer = await wire.read(pair[0])
                    desk.answered(asked, answer)
                    done += 1
        except _BROKEN as error:
            for asked in batch[done:]:
                desk.lost(asked, error)
            await wire.close(pair)
            pair = None
        await desk.rest(0.1)
    await wire.close(pair)


async def worker(desk: Desk) -> None:
    """Pipelined into a ready worker's own socket.

    Nobody drains this client away from a worker that is replaced: the worker closes the connection between
    two answers, and HTTP leaves it to the client to send the rest again. A half answer is a failure, and so
    is a connection that closes while its worker stays ready.
    """
    while not desk.over:
        there = _ready(desk.node_status)
        if not there:
            await desk.rest(0.1)
            continue
        name, line, path = desk.choose.choice(there)
        pair: wire.Pair | None = None
        for _ in range(4):
            batch = [desk.ask("worker", line=line) for _ in range(BATCH)]
            done = 0
            try:
                pair = pair or await wire.connect_unix(path)
                pair[1].write(b"".join(desk.message(asked) for asked in batch))
                async with asyncio.timeout(wire.ANSWER_SECONDS):
                    for asked in batch:
                        desk.answered(asked, await wire.read(pair[0]))
                        done += 1
            except _BROKEN as error:
                await _unanswered(desk, name, batch[done:], error)
                break
            await desk.rest(0.08)
        await wire.close(pair)


async def _unanswered(desk: Desk, name: str, batch: Sequence[Asked], error: Exception) -> None:
    half = isinstance(error, asyncio.IncompleteReadError) and bool(error.partial)
    until = time.monotonic() + _GONE_SECONDS
    while not half and time.monotonic() < until:
        if name not in [one for one, _, _ in _ready(desk.node_status)]:
            desk.book.moved += len(batch)
            return
        await asyncio.sleep(0.05)
    for asked in batch:
        desk.lost(asked, error)


def _ready(node_status: Path) -> list[tuple[str, str, Path]]:
    """Name, line and socket of every ready worker of the service."""
    try:
        status = json.loads(node_status.read_bytes())
    except (OSError, ValueError):
        return []
    return [
        (one["worker"], one["revision"]["line"], Path(one["socket"]))
        for one in status["replicas"]
        if one["state"] == "ready" and one["revision"]["service"] == models.NAME
    ]


async def slow(desk: Desk) -> None:
    """A large answer, taken in small sips."""
    while not desk.over:
        asked = desk.ask("slow", large=True)
        pair: wire.Pair | None = None
        try:
            pair = await wire.connect_slowly(desk.port, _SLOW_BUFFER_BYTES)
            pair[1].write(desk.message(asked))
            async with asyncio.timeout(wire.ANSWER_SECONDS):
                desk.answered(
                    asked, await wire.read(pair[0], _SLOW_PAUSE_SECONDS, _SLOW_BUFFER_BYTES)
                )
        except _BROKEN as error:
            desk.lost(asked, error)
        await wire.close(pair)
        await desk.rest(0.5)


async def leaving(desk: Desk) -> None:
    """Clients that go away: with half a head, half a body, a whole request, half an answer."""
    while not desk.over:
        asked = desk.ask("leaving", large=desk.choose.random() < 0.1)  # noqa: PLR2004 - a tenth
        whole = desk.message(asked)
        length = desk.choose.choice((20, len(whole) - 10, len(whole), len(whole)))
        try:
            pair = await wire.connect(desk.port)
            pair[1].write(whole[:length])
            if length == len(whole) and desk.choose.random() < 0.5:  # noqa: PLR2004 - half of them
                async with asyncio.timeout(wire.ANSWER_SECONDS):
                    await pair[0].read(100)
            if desk.choose.random() < 0.5:  # noqa: PLR2004 - half of them
                wire.reset(pair)
            await wire.close(pair)
            desk.book.left += 1
        except _BROKEN as error:
            desk.lost(asked, error)
        await desk.rest(0.04)


async def http2(desk: Desk) -> None:
    """Several streams at a time on one connection."""
    line: _Http2 | None = None
    while not desk.over:
        batch = [desk.ask("http2") for _ in range(BATCH)]
        try:
            line = line or await _Http2.open(desk.port)
            async with asyncio.timeout(wire.ANSWER_SECONDS):
                await line.exchange(desk, batch)
        except (*_BROKEN, h2.exceptions.ProtocolError) as error:
            for asked in batch:
                if line is None or asked.identity not in line.done:
                    desk.lost(asked, error)
            await wire.close(line.pair if line else None)
            line = None
        else:
            if line.leaving:
                await wire.close(line.pair)
                line = None
        await desk.rest(0.1)
    await wire.close(line.pair if line else None)


class _Http2:
    """One HTTP/2 connection without TLS."""

    def __init__(self, pair: wire.Pair) -> None:
        self.pair = pair
        config = h2.config.H2Configuration(client_side=True, header_encoding="utf-8")
        self._state = h2.connection.H2Connection(config)
        self._answers: dict[int, tuple[dict[str, str], bytearray]] = {}
        self.done: set[str] = set()
        self.leaving = False  # the other side takes no more streams

    @classmethod
    async def open(cls, port: int) -> "_Http2":
        line = cls(await wire.connect(port))
        line._state.initiate_connection()
        line._flush()
        return line

    async def exchange(self, desk: Desk, batch: Sequence[Asked]) -> None:
        """Send all of them, read until every one is answered."""
        waiting: dict[int, Asked] = {}
        self.done = set()
        for asked in batch:
            stream = self._state.get_next_available_stream_id()
            waiting[stream] = asked
            self._answers[stream] = ({}, bytearray())
            self._send(stream, desk.body(asked), desk.headers(asked))
        while waiting:
            data = await self.pair[0].read(1 << 16)
            if not data:
                raise asyncio.IncompleteReadError(b"", None)
            for event in self._state.receive_data(data):
                self._take(event, waiting, desk)
            self._flush()

    def _send(self, stream: int, body: bytes, headers: Mapping[str, str]) -> None:
        head = [(":method", "POST"), (":path", wire.PATH), (":scheme", "http")]
        head += [(":authority", "soak"), ("content-type", "application/json")]
        head += [(name.lower(), value) for name, value in headers.items()]
        self._state.send_headers(stream, head)
        self._state.send_data(stream, body, end_stream=True)
        self._flush()

    def _take(self, event: h2.events.Event, waiting: dict[int, Asked], desk: Desk) -> None:
        match event:
            case h2.events.ResponseReceived():
                head = {str(name): str(value) for name, value in event.headers or ()}
                self._answers[event.stream_id][0].update(head)
            case h2.events.DataReceived():
                self._answers[event.stream_id][1].extend(event.data or b"")
                self._state.acknowledge_received_data(
                    event.flow_controlled_length or 0, event.stream_id
                )
            case h2.events.StreamEnded():
                asked = waiting.pop(event.stream_id)
                headers, body = self._answers.pop(event.stream_id)
                whole = wire.Answer(int(headers.pop(":status", "0")), headers, bytes(body))
                desk.answered(asked, whole)
                self.done.add(asked.identity)
            case h2.events.StreamReset():
                asked = waiting.pop(event.stream_id)
                self._answers.pop(event.stream_id)
                desk.lost(asked, f"stream reset ({event.error_code})")
                self.done.add(asked.identity)
            case h2.events.ConnectionTerminated():
                self.leaving = True
            case _:
                pass  # settings, windows, pings: the library's own business

    def _flush(self) -> None:
        self.pair[1].write(self._state.data_to_send())
