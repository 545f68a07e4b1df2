"""Rows of floats the short way: the same bits as the long one, or nothing."""

import json
import math

import numpy as np
import pytest
from hypothesis import given, strategies as st

from fairlead.api.packed import FloatRows
from fairlead.api.tensors import tensor_from_lists
from fairlead.dialects.project import TensorCodec
from fairlead.domain.errors import SchemaMismatch
from fairlead.domain.signature import DataType, TensorSignature, TensorSpec

NUMBERS = (
    st.floats(allow_nan=False, allow_infinity=False)
    | st.integers(-(2**70), 2**70)
    | st.sampled_from([3.4028235677973366e38, 3.4028235677973362e38, 1e-46, -0.0, 16777217])
)


def body(rows: object) -> bytes:
    return json.dumps({"instances": rows}).encode()


@pytest.mark.parametrize("datatype", [DataType.FP32, DataType.FP64])
@given(rows=st.lists(st.lists(NUMBERS, min_size=3, max_size=3), min_size=1, max_size=4))
def test_the_bits_are_those_of_the_long_way_or_the_long_way_says_what_is_wrong(
    datatype: DataType, rows: list[list[float]]
) -> None:
    spec = TensorSpec("x", datatype, (-1, 3))
    found = FloatRows(spec).read(body(rows))
    largest = max(abs(number) for row in rows for number in row)
    if found is None:
        assert datatype is DataType.FP32
        assert largest >= 3.4028235677973366e38
    else:
        wanted = tensor_from_lists(spec, rows)
        assert found.dtype == wanted.dtype
        assert found.shape == wanted.shape
        assert found.tobytes() == wanted.tobytes()


@pytest.mark.parametrize(
    "rows",
    [
        [],
        [[]],
        [[1.0, 2.0]],
        [[1.0, 2.0, 3.0, 4.0]],
        [[1.0, 2.0, 3.0], [1.0]],
        [[1.0, 2.0, True]],
        [[1.0, 2.0, "3"]],
        [[1.0, 2.0, None]],
        [1.0, 2.0, 3.0],
        [[1e39, 0.0, 0.0]],
    ],
)
def test_what_is_out_of_the_ordinary_is_left_to_the_long_way_which_refuses_it(rows: object) -> None:
    spec = TensorSpec("x", DataType.FP32, (-1, 3))
    assert FloatRows(spec).read(body(rows)) is None
    codec = TensorCodec(TensorSignature((spec,), ()))
    with pytest.raises(SchemaMismatch):
        codec.decode(body(rows))


@pytest.mark.parametrize("text", [b"", b"{", b"[]", b'{"instances":[[1,2,NaN]]}', b"\xff"])
def test_what_is_no_json_is_left_to_the_long_way(text: bytes) -> None:
    assert FloatRows(TensorSpec("x", DataType.FP32, (-1, 3))).read(text) is None


@pytest.mark.parametrize(
    ("datatype", "shape", "fits"),
    [
        (DataType.FP32, (-1, 3), True),
        (DataType.FP64, (-1, 1024), True),
        (DataType.FP64, (-1, 1025), False),
        (DataType.FP32, (-1, 0), False),
        (DataType.FP32, (-1, -1), False),
        (DataType.FP32, (2, 3), False),
        (DataType.FP32, (-1,), False),
        (DataType.FP32, (), False),
        (DataType.FP32, (-1, 3, 3), False),
        (DataType.INT64, (-1, 3), False),
        (DataType.FP16, (-1, 3), False),
        (DataType.BYTES, (-1, 3), False),
    ],
)
def test_it_is_for_rows_of_a_known_number_of_floats(
    datatype: DataType, shape: tuple[int, ...], fits: bool
) -> None:
    assert FloatRows.fit(TensorSpec("x", datatype, shape)) is fits


def test_the_rows_can_be_written_to_as_any_tensor() -> None:
    found = FloatRows(TensorSpec("x", DataType.FP32, (-1, 2))).read(body([[1, 2], [3, 4]]))
    assert found is not None
    found[0, 0] = math.pi
    assert np.allclose(found, [[math.pi, 2], [3, 4]])
