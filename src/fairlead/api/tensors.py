"""Tensors as JSON values: nested lists in, checked against a signature, and nested lists out.

What JSON cannot tell apart is decided here once: a number must be a number (no `true`, no `"1"`, no
`null`), a whole number must be one and fit its type, a float must fit its type, text is text.
Nothing is allocated from a shape alone, only from data that is really there.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import msgspec
import numpy as np

from fairlead.api.bf16 import from_floats, to_floats
from fairlead.api.inference import NUMPY_TYPES, Tensor, Tensors
from fairlead.domain.errors import Kind, Refused
from fairlead.domain.signature import DataType, TensorSpec

# The smallest doubles that round to infinity: what a float type cannot hold any more.
_FP32_LIMIT = 3.4028235677973366e38
_FP16_LIMIT = 65520.0
_BF16_LIMIT = 3.39617752923046e38
_LARGEST_SANE = 1e15
_MOST_ELEMENTS = (
    2**40
)  # of an empty tensor, were it not empty: numpy refuses shapes beyond its own limit

_ELEMENT_TYPES: Mapping[str, Any] = {
    "BOOL": bool,
    "UINT8": Annotated[int, msgspec.Meta(ge=0, le=2**8 - 1)],
    "UINT16": Annotated[int, msgspec.Meta(ge=0, le=2**16 - 1)],
    "UINT32": Annotated[int, msgspec.Meta(ge=0, le=2**32 - 1)],
    "UINT64": Annotated[int, msgspec.Meta(ge=0)],
    "INT8": Annotated[int, msgspec.Meta(ge=-(2**7), le=2**7 - 1)],
    "INT16": Annotated[int, msgspec.Meta(ge=-(2**15), le=2**15 - 1)],
    "INT32": Annotated[int, msgspec.Meta(ge=-(2**31), le=2**31 - 1)],
    "INT64": int,
    "FP16": Annotated[float, msgspec.Meta(gt=-_FP16_LIMIT, lt=_FP16_LIMIT)],
    "FP32": Annotated[float, msgspec.Meta(gt=-_FP32_LIMIT, lt=_FP32_LIMIT)],
    "FP64": float,
    "BF16": Annotated[float, msgspec.Meta(gt=-_BF16_LIMIT, lt=_BF16_LIMIT)],
    "BYTES": str,
}


def list_type(spec: TensorSpec, dimensions: Sequence[int]) -> Any:  # noqa: ANN401 - a type for msgspec
    """Nested lists of the tensor's elements, one level per dimension; -1 is any length.

    No dimension at all is the element itself.
    """
    kind: Any = _ELEMENT_TYPES[spec.datatype]
    for size in reversed(dimensions):
        kind = list[kind]
        if size >= 0:
            kind = Annotated[kind, msgspec.Meta(min_length=size, max_length=size)]
    return kind


def array_of(spec: TensorSpec, values: Any) -> Tensor:  # noqa: ANN401 - nested lists of any depth
    """Nested lists whose elements were checked already (`list_type`) as an array.

    Raises Refused (INVALID) if the lists are ragged or a number is too large for the type.
    """
    bits = spec.datatype is DataType.BF16
    try:
        array = np.array(values, dtype=np.float64 if bits else NUMPY_TYPES[spec.datatype])
    except ValueError:
        raise _ragged(spec) from None
    except OverflowError:
        message = f"{spec.name}: a number does not fit into {spec.datatype}"
        raise Refused(Kind.INVALID, message) from None
    # numpy keeps ragged texts as an array of lists instead of refusing them.
    if spec.datatype == "BYTES" and any(not isinstance(item, str) for item in array.flat):
        raise _ragged(spec)
    return from_floats(array) if bits else array


def numbers(datatype: str, tensor: Tensor) -> Tensor:
    """The tensor with elements that mean what they say: BF16's bits as floats, all else as it is."""
    return to_floats(tensor) if datatype == DataType.BF16 else tensor


def tensor_from_lists(spec: TensorSpec, value: Any) -> Tensor:  # noqa: ANN401 - a JSON value
    """A JSON value as the tensor a signature describes; raises Refused (INVALID)."""
    try:
        checked = msgspec.convert(value, list_type(spec, spec.shape))
    except (msgspec.ValidationError, RecursionError) as error:
        raise Refused(Kind.INVALID, f"{spec.name}: {error}") from None
    array = array_of(spec, checked)
    if array.size == 0:  # the inner lengths of an empty list are unknown
        array = array.reshape([max(size, 0) for size in spec.shape])
    return array


def not_finite(request: Tensors, message: str) -> Refused:
    """The error for an answer that holds NaN or infinity: whose fault it is follows from what was asked.

    Numbers that no feature has overflow in any model, and NaN stays NaN; a model that overflows on others has failed.
    BF16 must be given as the `numbers` it means.
    """
    for name, tensor in request.items():
        if tensor.dtype.kind != "f":
            continue
        if np.isnan(tensor).any():
            return Refused(Kind.INVALID, f"{name}: the input itself holds NaN, so {message}")
        # Of FP16 only infinity is too large.
        if (np.abs(tensor) > min(_LARGEST_SANE, float(np.finfo(tensor.dtype).max))).any():
            return Refused(Kind.INVALID, f"{name}: the numbers are so large that {message}")
    return Refused(Kind.MODEL, message)


def shape_problem(spec: TensorSpec, shape: Sequence[int]) -> str | None:
    """Why a tensor of this shape is not what the signature asks for; None if it is."""
    if any(size < 0 for size in shape):
        return f"{spec.name}: shape {_shown(shape)} has a negative dimension; write the real sizes"
    if len(shape) == len(spec.shape) and all(
        size in (given, -1) for given, size in zip(shape, spec.shape, strict=True)
    ):
        if 0 in shape and math.prod(size or 1 for size in shape) > _MOST_ELEMENTS:
            return f"{spec.name}: shape {_shown(shape)} is larger than any tensor; write the real sizes"
        return None
    return f"{spec.name}: shape {_shown(shape)} does not fit, the model takes {_shown(spec.shape)}"


def _shown(shape: Sequence[int]) -> str:
    text = str(list(shape[:8]))
    return text if len(shape) <= 8 else f"{text[:-1]}, … {len(shape)} dimensions]"  # noqa: PLR2004 - enough to recognise it


def _ragged(spec: TensorSpec) -> Refused:
    return Refused(
        Kind.INVALID, f"{spec.name}: the lists differ in length; a tensor has rows of one length"
    )
