"""gzip and deflate (zlib's format), by the names that HTTP (RFC 9110) and gRPC have for them."""

from __future__ import annotations

import zlib
from collections.abc import Mapping

IDENTITY = b"identity"
_GZIP = zlib.MAX_WBITS | 16
# What a reader is fed at once: what it gives back unread is copied, for each member anew.
_FED_BYTES = 64 * 1024
# Of a file in blocks, as `bgzip` writes them, so many are 128 MiB; members without content cost time and are nothing.
MOST_MEMBERS = 2048
# The `wbits` of zlib for each encoding that is read.
WINDOWS: Mapping[bytes, int] = {b"gzip": _GZIP, b"x-gzip": _GZIP, b"deflate": zlib.MAX_WBITS}


class Unpacker:
    """Reads what is compressed, piece by piece. gzip's members (RFC 1952) are read one after another, as one.

    `encoding` is one of `WINDOWS`. `whole`: everything was read, nothing is missing, and nothing else is there.
    """

    def __init__(self, data: bytes, encoding: bytes) -> None:
        self.whole = False
        self._rest = memoryview(data)
        self._fed = b""
        self._window = WINDOWS[encoding]
        self._reader = zlib.decompressobj(self._window)
        self._members = 1

    def read(self, most: int) -> bytes:
        """The next `most` bytes; fewer if there are no more. Raises ValueError for what is not of the encoding."""
        found = bytearray()
        while len(found) < most and not self.whole:
            self._feed()
            try:
                piece = self._reader.decompress(self._fed, most - len(found))
            except zlib.error as error:
                raise ValueError(str(error)) from None
            found += piece
            self._fed = self._reader.unconsumed_tail
            if self._reader.eof:
                self._next_member()
            elif not (piece or self._fed or self._rest):
                break  # cut off
        return bytes(found)

    def _feed(self) -> None:
        if not self._fed:
            self._fed, self._rest = bytes(self._rest[:_FED_BYTES]), self._rest[_FED_BYTES:]

    def _next_member(self) -> None:
        self._fed = self._reader.unused_data
        self._feed()
        if not self._fed:
            self.whole = True
            return
        if self._window != _GZIP:
            raise ValueError("there is more behind it")
        if self._members == MOST_MEMBERS:
            raise ValueError(f"it has more than {MOST_MEMBERS} members")
        self._members += 1
        self._reader = zlib.decompressobj(self._window)


def beginning(data: bytes, encoding: bytes, most: int) -> bytes:
    """The first `most` bytes of what `data`, of which the end may be missing, was before; fewer if there are no more.

    `encoding` is one of `WINDOWS`, or IDENTITY. Raises ValueError for another one, and for data that are not of it.
    """
    return data[:most] if encoding == IDENTITY else _unpacker(data, encoding).read(most)


def whole(data: bytes, encoding: bytes, most: int) -> bytes:
    """All that `data` was before; raises ValueError as `beginning` does, and if it is cut off or over `most` bytes."""
    if encoding == IDENTITY:
        found, ended = data, True
    else:
        reader = _unpacker(data, encoding)
        found = reader.read(most + 1)
        ended = reader.whole
    if not ended or len(found) > most:
        raise ValueError("cut off, or too long")
    return found


def _unpacker(data: bytes, encoding: bytes) -> Unpacker:
    if encoding not in WINDOWS:
        raise ValueError("not an encoding that is read")
    return Unpacker(data, encoding)
