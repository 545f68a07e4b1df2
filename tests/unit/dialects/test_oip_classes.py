"""The classification extension: the highest elements of an output, as texts."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given, strategies as st

from fairlead.api.bf16 import from_floats
from fairlead.api.inference import NUMPY_TYPES, InferResponse
from fairlead.dialects import oip_rest
from fairlead.dialects.oip_classes import highest
from fairlead.domain.signature import DataType, TensorSignature, TensorSpec

X = {"name": "x", "shape": [1], "datatype": "FP32", "data": [0]}


def classes(
    values: Any, count: int, datatype: str = "FP32", shape: tuple[int, ...] = (-1, 4), *labels: str
) -> Any:
    spec = TensorSpec("y", DataType(datatype), shape)
    return highest(spec, np.array(values, NUMPY_TYPES[datatype]), count, labels).tolist()


def test_each_row_of_a_batch_has_its_own_highest_first() -> None:
    assert classes([[1, 5, 10, 4], [9, 7, 8, 0]], 2) == [
        ["10.000000:2", "5.000000:1"],
        ["9.000000:0", "8.000000:2"],
    ]


def test_an_output_without_a_batch_is_one_list() -> None:
    assert classes([[1, 3], [9, 7]], 3, "INT32", (2, 2)) == ["9:2", "7:3", "3:1"]


def test_an_output_of_one_dimension_is_one_list_however_long() -> None:
    assert classes([1, 3, 2], 2, shape=(-1,)) == ["3.000000:1", "2.000000:2"]
    assert classes([1, 3, 2], 9, "INT32", (3,)) == ["3:1", "2:2", "1:0"]
    assert classes(np.empty(0), 2, shape=(-1,)) == []


def test_labels_follow_the_index_where_there_are_any() -> None:
    assert classes([[0.25, 0.5, 0.125, 0]], 3, "FP64", (-1, 4), "cat", "dog") == [
        ["0.500000:1:dog", "0.250000:0:cat", "0.125000:2"]
    ]


def test_more_classes_than_elements_are_all_of_them() -> None:
    assert classes([[2, 1]], 9, "UINT8", (-1, 2)) == [["2:0", "1:1"]]


def test_no_rows_are_no_classes() -> None:
    assert classes(np.empty((0, 4)), 2) == []
    assert classes(np.empty((3, 0)), 2, shape=(-1, -1)) == [[], [], []]


def test_nan_comes_last_and_equal_values_keep_their_order() -> None:
    assert classes([[float("nan"), 1, float("-inf"), 1]], 4) == [
        ["1.000000:1", "1.000000:3", "-inf:2", "nan:0"]
    ]


@pytest.mark.parametrize("datatype", ["UINT64", "INT64", "INT8", "FP16"])
def test_types_are_compared_as_they_are(datatype: str) -> None:
    kind = NUMPY_TYPES[datatype]
    least, most = (np.iinfo(kind).min, np.iinfo(kind).max) if kind.kind != "f" else (-3, 4)
    first = classes([[least, most]], 1, datatype, (-1, 2))
    assert first == [[f"{most:f}:1" if kind.kind == "f" else f"{most}:1"]]


def test_bf16_counts_as_the_numbers_it_means() -> None:
    bits = from_floats(np.array([[-2.5, 1.5]]))
    assert classes(bits, 1, "BF16", (-1, 2)) == [["1.500000:1"]]


@given(st.lists(st.integers(-5, 5), min_size=1, max_size=9), st.integers(1, 9))
def test_it_is_a_stable_sort_cut_short(row: list[int], count: int) -> None:
    order = sorted(range(len(row)), key=lambda index: (-row[index], index))[:count]
    assert classes([row], count, "INT32", (-1, len(row))) == [
        [f"{row[index]}:{index}" for index in order]
    ]


@pytest.mark.parametrize("binary", [False, True])
def test_in_an_answer_the_output_is_of_bytes_with_its_own_shape(binary: bool) -> None:
    signature = TensorSignature(
        (TensorSpec("x", DataType.FP32, (-1,)),),
        (TensorSpec("y", DataType.FP32, (-1, 2)), TensorSpec("z", DataType.INT32, (-1,))),
    )
    codec = oip_rest.TensorCodec("m", 1, signature, {"y": ("cat", "dog")})
    outputs = [
        {"name": "z"},
        {"name": "y", "parameters": {"classification": 1, "binary_data": binary}},
    ]
    call = codec.decode(json.dumps({"inputs": [X], "outputs": outputs}).encode())
    assert call.request.outputs == ("z", "y")
    answer = InferResponse({"z": np.array([7], np.int32), "y": np.array([[1, 2]], np.float32)})
    data, length = codec.encode(call, answer)
    found = json.loads(data[:length])["outputs"]
    assert found[0] == {"name": "z", "datatype": "INT32", "shape": [1], "data": [7]}
    text = b"2.000000:1:dog"
    if binary:
        assert data[length:] == len(text).to_bytes(4, "little") + text
    else:
        assert found[1] == {
            "name": "y",
            "datatype": "BYTES",
            "shape": [1, 1],
            "data": [text.decode()],
        }
