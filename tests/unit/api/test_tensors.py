"""Nested lists as the tensors a signature describes."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from fairlead.api.tensors import not_finite, numbers, tensor_from_lists
from fairlead.domain.errors import Kind, Refused
from fairlead.domain.signature import DataType, TensorSpec


@pytest.mark.parametrize(
    ("shape", "values", "found"),
    [((-1, 2), [[1, 2], [3, 4]], (2, 2)), ((-1, 2), [], (0, 2)), ((-1, -1, 3), [], (0, 0, 3))],
)
def test_an_empty_list_has_the_inner_lengths_of_the_signature(
    shape: tuple[int, ...], values: Any, found: tuple[int, ...]
) -> None:
    assert tensor_from_lists(TensorSpec("x", DataType.FP32, shape), values).shape == found


@pytest.mark.parametrize("values", [[[1, 2], [3]], [["a", "b"]], [[1e400, 2]], 7])
def test_what_is_no_such_tensor_is_refused_by_name(values: Any) -> None:
    with pytest.raises(Refused, match="x") as caught:
        tensor_from_lists(TensorSpec("x", DataType.INT8, (-1, 2)), values)
    assert caught.value.kind is Kind.INVALID


@pytest.mark.parametrize(
    ("datatype", "least"),
    [("FP16", 65520.0), ("FP32", 2.0**128 * (1 - 2.0**-25)), ("BF16", 2.0**128 * (1 - 2.0**-9))],
)
def test_what_would_be_rounded_to_infinity_is_refused_and_nothing_below_it(
    datatype: str, least: float
) -> None:
    spec = TensorSpec("x", DataType(datatype), (2,))
    most = math.nextafter(least, 0)
    assert np.isfinite(numbers(datatype, tensor_from_lists(spec, [most, -most]))).all()
    for number in (least, -least):
        with pytest.raises(Refused):
            tensor_from_lists(spec, [number, 0.0])


@pytest.mark.parametrize(
    ("datatype", "number", "kind"),
    [
        ("float16", np.inf, Kind.INVALID),
        ("float16", -np.inf, Kind.INVALID),
        ("float16", np.nan, Kind.INVALID),
        ("float16", 65504, Kind.MODEL),
        ("float32", np.inf, Kind.INVALID),
        ("float64", 1e300, Kind.INVALID),
        ("float64", 1e9, Kind.MODEL),
    ],
)
def test_whose_fault_infinity_is_follows_from_what_was_asked(
    datatype: str, number: float, kind: Kind
) -> None:
    tensor = np.array([1.0, number], datatype)
    assert not_finite({"x": tensor, "t": np.array(["a"], object)}, "it is endless").kind is kind
