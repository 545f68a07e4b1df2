"""gRPC's frames: a message after one byte (is it compressed?) and four of length."""

from __future__ import annotations

import struct
from typing import NamedTuple

_HEAD = struct.Struct(">BI")
HEAD_BYTES = _HEAD.size


class TooLong(Exception):
    """A frame's message has more bytes, `length`, than are taken."""

    def __init__(self, length: int) -> None:
        super().__init__(f"a frame of {length} bytes")
        self.length = length


class Frame(NamedTuple):
    """One frame's content: the message, or, if it is compressed, what the call's `grpc-encoding` made of it."""

    content: bytes
    compressed: bool


class Frames:
    """Takes the frames out of bytes as they arrive."""

    def __init__(self, most_bytes: int) -> None:
        self._most = most_bytes
        self._unread = bytearray()

    @property
    def unfinished(self) -> bool:
        """Is there a part of a frame?"""
        return bool(self._unread)

    def feed(self, data: bytes) -> None:
        self._unread += data

    def take(self) -> Frame | None:
        """The next frame; None if it is not whole yet. Raises TooLong."""
        if len(self._unread) < _HEAD.size:
            return None
        compressed, length = _HEAD.unpack_from(self._unread)
        if length > self._most:
            raise TooLong(length)
        end = _HEAD.size + length
        if len(self._unread) < end:
            return None
        one = bytes(self._unread[_HEAD.size : end])
        del self._unread[:end]
        return Frame(one, bool(compressed))


def framed(message: bytes) -> bytes:
    """A message in its frame."""
    return _HEAD.pack(0, len(message)) + message
