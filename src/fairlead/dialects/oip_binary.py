"""The binary tensor extension of the Open Inference Protocol: raw little-endian elements after the JSON.

Numbers lie as numpy keeps them; BOOL is one byte, 0 or 1; each text of a BYTES tensor follows its length
in four bytes. A body may also be nothing but the bytes of a model's only input (Triton's raw binary request).
"""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence

import numpy as np

from fairlead.api.inference import NUMPY_TYPES, Tensor
from fairlead.domain.errors import Kind, Refused
from fairlead.domain.signature import DataType, TensorSpec

_LENGTH = struct.Struct("<I")
UNCOPIED_BYTES = 256 * 1024  # so many are worth being left where they lie

_SAY_MORE = "describe the input in JSON before its bytes, and give that JSON's length in Inference-Header-Content-Length"

Body = bytes | tuple[bytes | memoryview, ...]  # a large one in pieces, each where it lies
_WIRE_TYPES = {
    name: kind.newbyteorder("<") for name, kind in NUMPY_TYPES.items() if name != "BYTES"
}


def split(body: bytes, header_length: bytes | None) -> tuple[bytes, memoryview | None]:
    """The JSON of a body and the bytes behind it, by the header Inference-Header-Content-Length; raises Refused."""
    if header_length is None:
        return body, None
    digits = header_length.strip()
    if not digits.isdigit() or len(digits) > len(str(len(body))) or int(digits) > len(body):
        message = f"Inference-Header-Content-Length must be a number of bytes up to the body's {len(body)}"
        raise Refused(Kind.INVALID, message)
    length = int(digits)
    view = memoryview(body)
    return bytes(view[:length]), view[length:]


def only_input(names: Sequence[str]) -> str:
    """The input whose bytes a body without JSON is; raises Refused (INVALID) if it could be several."""
    if len(names) != 1:
        message = f"Inference-Header-Content-Length is 0, but a body without JSON is for models with one input and this one takes {', '.join(map(repr, names))}; {_SAY_MORE}"
        raise Refused(Kind.INVALID, message)
    return names[0]


def chunk(name: str, size: int, binary: memoryview | None, at: int) -> memoryview:
    """The `size` bytes of the input `name`, which begin `at` that byte behind the JSON; raises Refused."""
    if binary is None:
        message = f"{name}: binary_data_size needs the header Inference-Header-Content-Length"
        raise Refused(Kind.INVALID, message)
    if not 0 <= size <= len(binary) - at:
        message = (
            f"{name}: binary_data_size is {size}, {len(binary) - at} bytes are left in the body"
        )
        raise Refused(Kind.INVALID, message)
    return binary[at : at + size]


def tensor_from_binary(spec: TensorSpec, shape: Sequence[int], data: memoryview) -> Tensor:
    """A tensor without a copy where the bytes are aligned; raises Refused (INVALID)."""
    count = math.prod(shape)
    if spec.datatype is DataType.BYTES:
        return _texts(spec, count, data).reshape(tuple(shape))
    kind = _WIRE_TYPES[spec.datatype]
    if count * kind.itemsize != len(data):
        message = f"{spec.name}: binary_data_size is {len(data)}, a {spec.datatype} tensor of shape {list(shape)} has {count * kind.itemsize} bytes"
        raise Refused(Kind.INVALID, message)
    array = np.frombuffer(data, kind)
    if spec.datatype is DataType.BOOL and (array.view(np.uint8) > 1).any():
        raise Refused(Kind.INVALID, f"{spec.name}: a BOOL is one byte, 0 or 1")
    if not array.flags.aligned:
        array = array.copy()
    return array.reshape(tuple(shape))


def tensor_of_all(spec: TensorSpec, data: memoryview) -> Tensor:
    """The tensor whose bytes are all there is, without a word about its shape; raises Refused (INVALID).

    As in Triton the shape follows from their number: one dimension may be open, or two if one of them is the first,
    which then is 1. Of BYTES they are one text, and its length does not stand before it.
    """
    if spec.datatype is DataType.BYTES:
        return _only_text(spec, data)
    shape = list(spec.shape)
    open_ones = [at for at, size in enumerate(shape) if size == -1]
    if len(open_ones) > 1 and not open_ones[0]:
        shape[open_ones.pop(0)] = 1
    if len(open_ones) > 1:
        message = f"{spec.name}: the model takes {list(spec.shape)}, and bytes alone do not say which shape of that they have; {_SAY_MORE}"
        raise Refused(Kind.INVALID, message)
    # A product of what is known: -1 stands for the one that is not.
    size = abs(math.prod(shape)) * _WIRE_TYPES[spec.datatype].itemsize
    if open_ones:
        shape[open_ones[0]] = len(data) // size if size else 0
    if len(data) != size * (shape[open_ones[0]] if open_ones else 1):
        times = "a multiple of " if open_ones else ""
        message = f"{spec.name}: the body has {len(data)} bytes, a {spec.datatype} tensor of shape {list(spec.shape)} has {times}{size}"
        raise Refused(Kind.INVALID, message)
    return tensor_from_binary(spec, shape, data)


def tensor_to_binary(tensor: Tensor) -> bytes | memoryview:
    """A tensor's bytes; a large one's where they lie."""
    if tensor.dtype != np.object_:
        wire = tensor.astype(tensor.dtype.newbyteorder("<"), copy=False)
        if wire.nbytes >= UNCOPIED_BYTES and wire.flags.c_contiguous:
            return wire.reshape(-1).view(np.uint8).data
        return wire.tobytes()
    parts: list[bytes] = []
    for text in tensor.flat:
        data = str(text).encode()
        parts += (_LENGTH.pack(len(data)), data)
    return b"".join(parts)


def put_together(parts: Sequence[bytes | memoryview]) -> Body:
    """An answer's parts as one, unless one of them is worth not being copied."""
    if all(isinstance(part, bytes) for part in parts):
        return b"".join(parts)
    return tuple(parts)


def _only_text(spec: TensorSpec, data: memoryview) -> Tensor:
    shape = [1 if size == -1 else size for size in spec.shape]
    if math.prod(shape) != 1:
        message = f"{spec.name}: a body without JSON is one text, the model takes {list(spec.shape)} of them; {_SAY_MORE}"
        raise Refused(Kind.INVALID, message)
    return _texts(spec, 1, memoryview(_LENGTH.pack(len(data)) + data)).reshape(shape)


def _texts(spec: TensorSpec, count: int, data: memoryview) -> Tensor:
    texts: list[str] = []
    at = 0
    while at < len(data):
        start = at + _LENGTH.size
        at = start + _LENGTH.unpack_from(data, at)[0] if start <= len(data) else start
        if at > len(data):
            message = f"{spec.name}: text {len(texts)} reaches past the end of its binary data"
            raise Refused(Kind.INVALID, message)
        try:
            texts.append(str(data[start:at], "utf-8"))
        except UnicodeDecodeError:
            raise Refused(Kind.INVALID, f"{spec.name}: text {len(texts)} is not UTF-8") from None
    if len(texts) != count:
        message = (
            f"{spec.name}: the binary data holds {len(texts)} texts, the shape asks for {count}"
        )
        raise Refused(Kind.INVALID, message)
    array = np.empty(count, dtype=object)
    array[:] = texts
    return array
