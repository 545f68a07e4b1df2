"""gRPC's frames: a message after one byte (is it compressed?) and four of length."""

from __future__ import annotations

import struct

_HEAD = struct.Struct(">BI")
HEAD_BYTES = _HEAD.size


class WrongFrame(Exception):
    """A frame that is not taken. `length` is its message's; `compressed` says that this is why."""

    def __init__(self, length: int, *, compressed: bool) -> None:
        super().__init__(f"a frame of {length} bytes")
        self.length = length
        self.compressed = compressed


class Frames:
    """Takes the messages out of bytes as they arrive."""

    def __init__(self, most_bytes: int) -> None:
        self._most = most_bytes
        self._unread = bytearray()

    @property
    def unfinished(self) -> bool:
        """Is there a part of a message?"""
        return bool(self._unread)

    def feed(self, data: bytes) -> None:
        self._unread += data

    def take(self) -> bytes | None:
        """The next message; None if it is not whole yet. Raises WrongFrame."""
        if len(self._unread) < _HEAD.size:
            return None
        compressed, length = _HEAD.unpack_from(self._unread)
        if compressed or length > self._most:
            raise WrongFrame(length, compressed=bool(compressed))
        end = _HEAD.size + length
        if len(self._unread) < end:
            return None
        one = bytes(self._unread[_HEAD.size : end])
        del self._unread[:end]
        return one


def framed(message: bytes) -> bytes:
    """A message in its frame."""
    return _HEAD.pack(0, len(message)) + message
