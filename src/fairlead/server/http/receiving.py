"""Large bodies, read by the system straight to where the engine takes them from.

Through a parser a body is copied three times before it lies in one piece: out of the loop's buffer, out of the
parser, into the body. Of a body whose length is known, the parser has nothing to say. So once the head of such a
request is read, an `Intake` stands in the connection's place at its transport, and what it lets the system read
into is the body itself.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Protocol

from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

from fairlead.domain.errors import Refused
from fairlead.server.http.exchange import ClientLeft, Holding

LARGE_BODY = (
    "fairlead.large_body"  # the ASGI extension: a function that awaits the body and gives it whole
)
LargeBody = Callable[[Holding], Awaitable[memoryview]]
_HEAD_BYTES = 16 * 1024  # read at once while no body is expected: a head, and a little of its body
_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


class Receiving:
    """One body on its way; `left` bytes of it are still to come. `memory` is for all of it."""

    def __init__(self, memory: memoryview, cycle: RequestResponseCycle) -> None:
        self.left = self._size = len(memory)
        self.cycle = cycle
        self._memory: memoryview | None = memory
        self._holding: Holding | None = None
        self._refused = False  # was there no room for more of it?

    def room(self, waste: memoryview) -> memoryview:
        """Where the next bytes go: `waste` once nobody wants them."""
        if self._memory is None:
            return waste[: self.left]
        return self._memory[self._size - self.left :]

    def came(self, size: int) -> None:
        """So many bytes were put there."""
        self.left -= size
        if self._holding is None:
            return
        try:
            self._holding.take(size)
        except (
            Refused
        ):  # said again where it is read: kept, it would keep the frames it came through
            self._refused = True
            self.drop()
            self.cycle.message_event.set()

    def take(self, data: bytes | bytearray) -> int:
        """How many bytes of what was read otherwise belong to it; they are copied."""
        size = min(self.left, len(data))
        if self._memory is not None:
            start = self._size - self.left
            with memoryview(data) as view:
                self._memory[start : start + size] = view[:size]
        self.came(size)
        return size

    def drop(self) -> None:
        """Nobody wants it any more; what is left of it is read and forgotten."""
        self._memory = None

    async def whole(self, holding: Holding) -> memoryview:
        """The body, once all of it is here; `holding` counts what comes. Raises Refused (OVERLOADED) or ClientLeft."""
        cycle = self.cycle
        if cycle.waiting_for_100_continue and not cycle.transport.is_closing():
            cycle.transport.write(_CONTINUE)
            cycle.waiting_for_100_continue = False
        holding.take(self._size - self.left)
        self._holding = holding
        event = cycle.message_event
        while self.left and not self._refused and not cycle.disconnected:
            event.clear()
            await event.wait()
        event.clear()
        self._holding = None
        if self._refused:
            raise holding.refusal()
        if self._memory is None or cycle.disconnected:
            raise ClientLeft
        memory, self._memory = self._memory, None
        return memory


class Connection(Protocol):
    """What reads through an intake."""

    receiving: Receiving | None

    def data_received(self, data: bytes, /) -> None: ...
    def body_received(self, size: int, /) -> None: ...
    def eof_received(self) -> None: ...
    def connection_lost(self, exc: Exception | None, /) -> None: ...
    def pause_writing(self) -> None: ...
    def resume_writing(self) -> None: ...


class Intake(asyncio.BufferedProtocol):
    """Stands for a connection at its transport from its first large body on, as long as large ones follow."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._head = memoryview(bytearray(_HEAD_BYTES))

    def get_buffer(self, sizehint: int) -> memoryview:
        del sizehint
        receiving = self._connection.receiving
        return self._head if receiving is None else receiving.room(self._head)

    def buffer_updated(self, nbytes: int) -> None:
        if self._connection.receiving is None:
            self._connection.data_received(bytes(self._head[:nbytes]))
        else:
            self._connection.body_received(nbytes)

    def eof_received(self) -> None:
        self._connection.eof_received()

    def connection_lost(self, exc: Exception | None) -> None:
        self._connection.connection_lost(exc)

    def pause_writing(self) -> None:
        self._connection.pause_writing()

    def resume_writing(self) -> None:
        self._connection.resume_writing()
