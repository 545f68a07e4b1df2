"""Compressed bodies (RFC 9110): gzip and deflate, both ways.

A request says how it is compressed and is read as if it were not; it may not grow beyond the limit of bodies. An
answer is compressed only for who asks for nothing else (`Accept-Encoding: gzip`): most clients send a list
of all they could read with every request, and compressing tensors for each of them would cost more than it
saves.
"""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import AsyncIterator

from fairlead.domain.errors import Kind, Refused
from fairlead.kits.compression import IDENTITY, WINDOWS, Unpacker
from fairlead.server.http.exchange import Holding
from fairlead.server.http.handlers import Headers

CONTENT_ENCODING = b"content-encoding"
ACCEPT_ENCODING = b"accept-encoding"
_WISHES = (b"gzip", b"deflate")
_LEVEL = 1  # numbers hardly get smaller with more work
_ON_LOOP_BYTES = 64 * 1024  # more is the work of a thread: some milliseconds in a megabyte
_PIECE_BYTES = 1024 * 1024


def is_encoded(headers: Headers) -> bool:
    """Is there anything for this module to do?"""
    return CONTENT_ENCODING in headers or headers.get(ACCEPT_ENCODING) in _WISHES


async def unpacked(body: bytes, headers: Headers, limit: int, holding: Holding) -> bytes:
    """The body as it was before it was compressed; raises Refused (ENCODING, INVALID, TOO_LARGE, OVERLOADED)."""
    encoding = headers.get(CONTENT_ENCODING, IDENTITY).strip().lower()
    if encoding == IDENTITY:
        return body
    if encoding not in WINDOWS:
        shown = encoding.decode("latin-1")
        message = f"content-encoding {shown!r:.40} is not read here; send gzip, deflate or none"
        raise Refused(Kind.ENCODING, message)
    found = bytearray()
    async for piece in pieces(body, encoding, limit):
        holding.take(len(piece))
        found += piece
    return bytes(found)


async def pieces(body: bytes, encoding: bytes, limit: int) -> AsyncIterator[bytes]:
    """What a body was before it was compressed, in order; `encoding` is one of WINDOWS.

    Raises Refused: INVALID if it is not what its encoding says, TOO_LARGE once there would be more than `limit` bytes.
    """
    reader = Unpacker(body, encoding)
    size, most = 0, _ON_LOOP_BYTES
    while True:  # piece by piece: a small body may unpack to a huge one
        if size:
            piece = await asyncio.to_thread(_read, reader, most)
        else:
            piece = _read(reader, most)
        size += len(piece)
        if size > limit:
            message = (
                f"the body is larger than {limit} bytes once it is unpacked; send less at once"
            )
            raise Refused(Kind.TOO_LARGE, message)
        yield piece
        if len(piece) < most:
            break
        most = _PIECE_BYTES
    if not reader.whole:
        raise _damaged()


async def packed(body: bytes, headers: Headers) -> tuple[bytes, list[tuple[bytes, bytes]]]:
    """The answer's body as its caller wants it, and the headers that say so."""
    wish = headers.get(ACCEPT_ENCODING, b"")
    if wish not in _WISHES:
        return body, []
    if len(body) <= _ON_LOOP_BYTES:
        smaller = _deflate(body, WINDOWS[wish])
    else:
        smaller = await asyncio.to_thread(_deflate, body, WINDOWS[wish])
    return smaller, [(CONTENT_ENCODING, wish), (b"vary", ACCEPT_ENCODING)]


def _read(reader: Unpacker, most: int) -> bytes:
    try:
        return reader.read(most)
    except ValueError:
        raise _damaged() from None


def _damaged() -> Refused:
    return Refused(
        Kind.INVALID, "the body is not what its content-encoding says: it cannot be unpacked"
    )


def _deflate(body: bytes, window: int) -> bytes:
    writer = zlib.compressobj(_LEVEL, zlib.DEFLATED, window)
    return writer.compress(body) + writer.flush()
