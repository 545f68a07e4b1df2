"""The classification extension: an output's highest elements as texts, instead of all of it as numbers.

`"parameters": {"classification": K}` on a requested output makes it BYTES: each text is
`value:index` or, where the model's author gave labels, `value:index:label`, the highest value first.
Floats have six decimals, as Triton writes them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from fairlead.api.inference import Tensor
from fairlead.api.tensors import numbers
from fairlead.domain.signature import DataType, TensorSpec

_UNORDERED = (DataType.BOOL, DataType.BYTES)


def class_problem(spec: TensorSpec, count: int) -> str | None:
    """Why this output cannot be answered as its `count` highest classes; None if it can."""
    if count < 1:
        return f"output {spec.name!r}: classification is {count}; write how many classes you want, from 1"
    if spec.datatype in _UNORDERED:
        return f"output {spec.name!r}: {spec.datatype} elements have no highest; leave classification out"
    return None


def highest(spec: TensorSpec, tensor: Tensor, count: int, labels: Sequence[str]) -> Tensor:
    """The classes as an object array of str: [batch, K] where the batch is the caller's to choose, else [K].

    K is `count`, or all elements if there are fewer. Of equal values the first comes first; NaN comes last.
    An output of one dimension is one list: rows of a single element have no highest.
    """
    batched = len(spec.shape) > 1 and spec.shape[0] == -1
    values = numbers(spec.datatype, tensor)
    rows = (
        values.reshape(len(values), math.prod(values.shape[1:]))
        if batched
        else values.reshape(1, -1)
    )
    most = min(count, rows.shape[1])
    texts = np.empty((len(rows), most), dtype=object)
    for at, row in enumerate(rows):
        texts[at] = [_text(row, index, labels) for index in _order(row)[:most]]
    if batched:
        return texts
    flat: Tensor = texts[0]
    return flat


def _order(row: Tensor) -> list[int]:
    if row.dtype.kind == "f":  # numpy puts NaN behind all numbers
        falling: list[int] = np.argsort(-row, kind="stable").tolist()
        return falling
    # Whole numbers cannot all be negated. Sorted backwards and read backwards, so that equal values keep their order.
    backwards = np.argsort(row[::-1], kind="stable")[::-1]
    order: list[int] = (len(row) - 1 - backwards).tolist()
    return order


def _text(row: Tensor, index: int, labels: Sequence[str]) -> str:
    value = f"{row[index]:f}" if row.dtype.kind == "f" else str(row[index])
    label = f":{labels[index]}" if index < len(labels) else ""
    return f"{value}:{index}{label}"
