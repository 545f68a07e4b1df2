"""What a worker and a voice's process say to each other: frames of a letter, a length and that many bytes.

The worker says LOAD once, then SAY for each synthesis, and STOP to have it end early. The process answers LOAD with
HELLO, and SAY with AUDIO (16-bit little-endian samples) as it is made, then END. FAILED instead of HELLO or END says why.
Only the standard library: the process shall start quickly and stay small.
"""

from __future__ import annotations

import struct

LOAD = b"L"
SAY = b"S"
STOP = b"X"
HELLO = b"H"
AUDIO = b"A"
END = b"E"
FAILED = b"F"
BUFFER_BYTES = 16 * 1024  # of sound on its way: what a voice may be ahead of its listener
_HEAD = struct.Struct(">cI")
_MOST_BYTES = 16 << 20


class Garbled(Exception):
    """What came is no frame."""


class Frames:
    """Takes frames out of bytes as they arrive."""

    def __init__(self) -> None:
        self._unread = bytearray()

    def feed(self, data: bytes) -> None:
        self._unread += data

    def take(self) -> tuple[bytes, bytes] | None:
        """The next frame's letter and content; None if it is not whole yet. Raises Garbled."""
        if len(self._unread) < _HEAD.size:
            return None
        letter, length = _HEAD.unpack_from(self._unread)
        if length > _MOST_BYTES:
            raise Garbled(f"a frame of {length} bytes")
        end = _HEAD.size + length
        if len(self._unread) < end:
            return None
        content = bytes(self._unread[_HEAD.size : end])
        del self._unread[:end]
        return letter, content

    def take_all(self, letter: bytes) -> bytes:
        """The contents of all whole frames of this letter that come next, as one."""
        found = []
        while self._unread.startswith(letter) and (frame := self.take()) is not None:
            found.append(frame[1])
        return b"".join(found)


def framed(letter: bytes, content: bytes = b"") -> bytes:
    """A frame."""
    return _HEAD.pack(letter, len(content)) + content
