"""HTTP/1.1 by hand: the clients of a soak pipeline, read slowly and leave, which no polite library does."""

import asyncio
import json
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from soak import models

PATH = f"/v2/models/{models.NAME}/infer"
ANSWER_SECONDS = 40.0  # beyond the gateway's own deadline: who waits longer hangs

Pair = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@dataclass(frozen=True, slots=True)
class Answer:
    """One whole answer."""

    status: int
    headers: Mapping[str, str]  # names in lower case
    body: bytes

    @property
    def keeps(self) -> bool:
        """May the connection be used again?"""
        return self.headers.get("connection", "").lower() != "close"


def question(seed: int, rows: range) -> bytes:
    """The body that asks for these rows, counted round and round."""
    asked = models.inputs(seed)
    data = [float(value) for row in rows for value in asked[row % models.INPUTS]]
    tensor = {"name": "x", "shape": [len(rows), models.WIDTH], "datatype": "FP32", "data": data}
    return json.dumps({"inputs": [tensor]}).encode()


def message(body: bytes, headers: Mapping[str, str], path: str = PATH) -> bytes:
    """A POST as it goes over the wire."""
    lines = [f"POST {path} HTTP/1.1", "Host: soak", "Content-Type: application/json"]
    lines += [f"Content-Length: {len(body)}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    return ("\r\n".join(lines) + "\r\n\r\n").encode() + body


async def connect(port: int) -> Pair:
    return await asyncio.open_connection("127.0.0.1", port)


async def connect_slowly(port: int, buffer_bytes: int) -> Pair:
    """A connection that takes little at a time."""
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer_bytes)
    sock.setblocking(False)  # noqa: FBT003 - its own signature
    await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", port))
    return await asyncio.open_connection(sock=sock, limit=buffer_bytes)


async def connect_unix(path: Path) -> Pair:
    return await asyncio.open_unix_connection(str(path))


async def read(reader: asyncio.StreamReader, pause: float = 0.0, piece: int = 1 << 16) -> Answer:
    """One answer; with a pause after each piece. Raises IncompleteReadError if it ends early."""
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    headers = {
        name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:])
    }
    length = int(headers.get("content-length", "0"))
    parts: list[bytes] = []
    missing = length
    while missing:
        part = await reader.read(min(piece, missing))
        if not part:
            raise asyncio.IncompleteReadError(b"".join(parts), length)
        parts.append(part)
        missing -= len(part)
        if pause:
            await asyncio.sleep(pause)
    return Answer(int(head[0].split()[1]), headers, b"".join(parts))


async def close(pair: Pair | None) -> None:
    """Close, and wait until it is closed; the other side may have been faster."""
    if pair is None:
        return
    pair[1].close()
    try:
        await pair[1].wait_closed()
    except OSError:
        return


def reset(pair: Pair) -> None:
    """Leave rudely."""
    pair[1].transport.abort()
