"""gzip and deflate (zlib's format), by the names that HTTP (RFC 9110) and gRPC have for them."""

from __future__ import annotations

import zlib
from collections.abc import Mapping

IDENTITY = b"identity"
_GZIP = zlib.MAX_WBITS | 16
# The `wbits` of zlib for each encoding that is read.
WINDOWS: Mapping[bytes, int] = {b"gzip": _GZIP, b"x-gzip": _GZIP, b"deflate": zlib.MAX_WBITS}


def beginning(data: bytes, encoding: bytes, most: int) -> bytes:
    """The first `most` bytes of what `data`, of which the end may be missing, was before; fewer if there are no more.

    `encoding` is one of `WINDOWS`, or IDENTITY. Raises ValueError for another one, and for data that are not of it.
    """
    return _read(data, encoding, most)[0]


def whole(data: bytes, encoding: bytes, most: int) -> bytes:
    """All that `data` was before; raises ValueError as `beginning` does, and if it is cut off or over `most` bytes."""
    found, ended = _read(data, encoding, most)
    if not ended:
        raise ValueError("cut off, too long, or with more behind it")
    return found


def _read(data: bytes, encoding: bytes, most: int) -> tuple[bytes, bool]:
    """What was found, and whether it is all there is, and nothing else."""
    if encoding == IDENTITY:
        return data[:most], len(data) <= most
    if encoding not in WINDOWS:
        raise ValueError("not an encoding that is read")
    reader = zlib.decompressobj(WINDOWS[encoding])
    try:
        found = reader.decompress(data, most)
        found += reader.decompress(
            reader.unconsumed_tail, 1
        )  # also reads the checksum of what is exactly as long
    except zlib.error as error:
        raise ValueError(str(error)) from None
    return found[:most], reader.eof and not reader.unused_data and len(found) <= most
