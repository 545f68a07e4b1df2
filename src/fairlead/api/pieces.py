"""Large tensors from and to JSON, a piece at a time.

Parsing a megabyte of JSON in one call keeps every other thread of the process from running for some ten
milliseconds, whichever thread does it. In pieces, the others get their turn between two of them. The answer
is the same, byte for byte; what is wrong with a body is said by whoever parses it whole.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any

import msgspec
import numpy as np

from fairlead.api.inference import Tensor
from fairlead.api.tensors import array_of, list_type
from fairlead.domain.errors import Refused
from fairlead.domain.signature import TensorSpec

LARGE_BYTES = (
    64 * 1024
)  # of a body: about a millisecond of parsing, twenty times a hand-over to a thread
LARGE_ELEMENTS = 8 * 1024  # of an answer, likewise
_PIECE_BYTES = 16 * 1024
_PIECE_ELEMENTS = 2 * 1024

_raws: msgspec.json.Decoder[list[msgspec.Raw]] = msgspec.json.Decoder(list[msgspec.Raw])


def groups(raws: Sequence[msgspec.Raw]) -> Iterator[bytes]:
    """Lists of JSON values as JSON lists of about a piece's size, in order."""
    start = size = 0
    for end, raw in enumerate(raws, 1):
        size += memoryview(raw).nbytes
        if size >= _PIECE_BYTES:
            yield b"[" + b",".join(map(bytes, raws[start:end])) + b"]"
            start, size = end, 0
    if start < len(raws):
        yield b"[" + b",".join(map(bytes, raws[start:])) + b"]"


def array_in_pieces(
    spec: TensorSpec, raws: Sequence[msgspec.Raw], inner: tuple[int, ...]
) -> Tensor | None:
    """The rows `raws`, each of the shape `inner` (-1 is any length), as one array.

    None if they are not what the signature says: parse them whole to learn why.
    """
    try:
        parts = [_part(spec, piece, inner) for piece in _cut(raws, inner)]
        return np.concatenate(parts)
    except (msgspec.MsgspecError, Refused, ValueError, RecursionError):
        return None


def nested_in_pieces(spec: TensorSpec, data: memoryview, rank: int) -> Tensor | None:
    """A JSON list of lists, `rank` deep, as one array; None if it is not what the signature says."""
    try:
        raws = _raws.decode(data)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return None
    return array_in_pieces(spec, raws, (-1,) * (rank - 1)) if raws else None


def flat_in_pieces(spec: TensorSpec, data: memoryview) -> Tensor | None:
    """A JSON list of numbers as one array; None if it is not what the signature says, or holds texts."""
    inside = bytes(data).strip()
    if spec.datatype == "BYTES" or inside[:1] != b"[" or inside[-1:] != b"]":
        return None
    inside = inside[1:-1]
    parts, start = [], 0
    try:
        while start <= len(inside):
            comma = inside.find(b",", start + _PIECE_BYTES)
            end = comma if comma >= 0 else len(inside)
            piece = inside[start:end]
            if not piece.strip():  # a comma too many: not to be taken for an empty list
                return None
            parts.append(array_of(spec, _decoder(spec, ()).decode(b"[" + piece + b"]")))
            start = end + 1
        return np.concatenate(parts)
    except (msgspec.MsgspecError, Refused, ValueError, RecursionError):
        return None


def encoded_in_pieces(tensor: Tensor) -> bytes:
    """The JSON of `tensor.tolist()`."""
    if tensor.size <= _PIECE_ELEMENTS or tensor.ndim == 0:
        return msgspec.json.encode(tensor.tolist())
    inner = tensor.size // len(tensor)
    if inner >= _PIECE_ELEMENTS:
        return b"[" + b",".join(map(encoded_in_pieces, tensor)) + b"]"
    step = _PIECE_ELEMENTS // inner
    return (
        b"["
        + b",".join(
            msgspec.json.encode(tensor[start : start + step].tolist())[1:-1]
            for start in range(0, len(tensor), step)
        )
        + b"]"
    )


_Piece = bytes | list[msgspec.Raw]


def _cut(raws: Sequence[msgspec.Raw], inner: tuple[int, ...]) -> Iterator[_Piece]:
    """Lists of small rows, and each large row as the list of its own."""
    small: list[msgspec.Raw] = []
    for raw in raws:
        if not inner or memoryview(raw).nbytes < 2 * _PIECE_BYTES:
            small.append(raw)
            continue
        yield from groups(small)
        small = []
        yield _raws.decode(raw)
    yield from groups(small)


def _part(spec: TensorSpec, piece: _Piece, inner: tuple[int, ...]) -> Tensor:
    if isinstance(piece, bytes):
        return array_of(spec, _decoder(spec, inner).decode(piece))
    if inner[0] not in (-1, len(piece)):
        raise ValueError("not the signature's length")
    return np.concatenate([_part(spec, one, inner[1:]) for one in _cut(piece, inner[1:])])[None]


@lru_cache(256)
def _decoder(spec: TensorSpec, inner: tuple[int, ...]) -> msgspec.json.Decoder[Any]:
    return msgspec.json.Decoder(list_type(spec, (-1, *inner)))
