"""A connection that sends exactly these bytes and keeps all that comes back, whatever the other side thinks of it."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from pathlib import Path

Address = Path | tuple[str, int]


@contextlib.asynccontextmanager
async def connected(address: Address) -> AsyncIterator[socket.socket]:
    """A plain socket: it still gives what was sent before the other side reset it."""
    family = socket.AF_UNIX if isinstance(address, Path) else socket.AF_INET
    one = socket.socket(family, socket.SOCK_STREAM)
    one.setblocking(False)
    try:
        where = str(address) if isinstance(address, Path) else address
        await asyncio.get_running_loop().sock_connect(one, where)
        yield one
    finally:
        one.close()


async def send(one: socket.socket, data: bytes) -> bool:
    """False if the other side does not take it any more."""
    try:
        await asyncio.get_running_loop().sock_sendall(one, data)
    except OSError:
        return False
    return True


async def receive(one: socket.socket, seconds: float) -> tuple[bytes, bool]:
    """All that comes until the other side closes, or until nothing has come for this long; whether it closed."""
    loop = asyncio.get_running_loop()
    found = b""
    while True:
        try:
            async with asyncio.timeout(seconds):
                part = await loop.sock_recv(one, 1 << 16)
        except TimeoutError:
            return found, False
        except OSError:
            return found, True
        if not part:
            return found, True
        found += part


def statuses(answers: bytes) -> list[int]:
    """Of HTTP/1.1 answers whose bodies hold no status line."""
    return [int(part[:3]) for part in answers.split(b"HTTP/1.1 ")[1:]]
