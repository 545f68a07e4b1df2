"""Small bodies of rows of floats, from JSON to memory the short way.

numpy looks at every number of a nested list twice, because it has to find out what it is given. Where a
signature says it already (so many floats in a row), each row is packed by one call instead: half the time, and
the same bits. Whatever is out of the ordinary is left to those who can say what is wrong with it.
"""

from __future__ import annotations

from struct import Struct
from typing import Annotated, Any

import msgspec
import numpy as np

from fairlead.api.inference import NUMPY_TYPES, Tensor
from fairlead.domain.signature import TensorSpec

_FORMATS = {"FP32": "f", "FP64": "d"}
_MOST_COLUMNS = 1024  # each is an argument of a call


class FloatRows:
    """Reads `{"instances": [[…], …]}` for one input that has rows of so many floats."""

    __slots__ = ("_decode", "_pack", "_type", "_width")

    def __init__(self, spec: TensorSpec) -> None:
        """For a `spec` that `fit` says yes to."""
        self._width = spec.shape[1]
        self._type = NUMPY_TYPES[spec.datatype]
        # "=": only so are numbers refused that are too large for the type.
        self._pack = Struct(f"={self._width}{_FORMATS[spec.datatype]}").pack
        length = msgspec.Meta(min_length=self._width, max_length=self._width)
        rows: Any = Annotated[list[Annotated[list[float], length]], msgspec.Meta(min_length=1)]
        body = msgspec.defstruct("Body", [("instances", rows)], gc=False)
        decoder: msgspec.json.Decoder[Any] = msgspec.json.Decoder(body)
        self._decode = decoder.decode

    @staticmethod
    def fit(spec: TensorSpec) -> bool:
        return (
            spec.datatype in _FORMATS
            and len(spec.shape) == 2  # noqa: PLR2004 - rows and columns
            and spec.shape[0] == -1
            and 0 < spec.shape[1] <= _MOST_COLUMNS
        )

    def read(self, body: bytes) -> Tensor | None:
        """The rows; None if they are not what the signature says, or a number is too large for its type."""
        try:
            rows = self._decode(body).instances
            packed = bytearray()  # which, unlike bytes, a model may write into
            for row in rows:
                packed += self._pack(*row)
        except (msgspec.MsgspecError, OverflowError, ValueError, RecursionError):
            return None
        return np.ndarray((len(rows), self._width), self._type, packed)
