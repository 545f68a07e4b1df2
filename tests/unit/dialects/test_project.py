"""The project API: instances to predictions, and errors the way FastAPI shows them."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given, strategies as st

from fairlead.api.inference import InferResponse
from fairlead.dialects import project
from fairlead.domain.errors import FairleadError, Kind, Refused, SchemaMismatch
from fairlead.domain.signature import DataType, DocumentSignature, TensorSignature, TensorSpec
from support.effort import effort

SINGLE = TensorSignature(
    (TensorSpec("x", DataType.FP32, (-1, 2)),), (TensorSpec("y", DataType.FP32, (-1,)),)
)
SEVERAL = TensorSignature(
    (TensorSpec("an id", DataType.INT64, (-1,)), TensorSpec("t.x", DataType.BYTES, (-1, -1))),
    (TensorSpec("label", DataType.BYTES, (-1,)), TensorSpec("score", DataType.FP32, (-1, 2))),
)
ONE = project.TensorCodec(SINGLE)
MANY = project.TensorCodec(SEVERAL)


def body(instances: Any) -> bytes:
    return json.dumps({"instances": instances}).encode()


def test_one_input_and_one_output_are_bare_values() -> None:
    request = ONE.decode(body([[1, 2], [3, 4.5]]))
    assert request.tensors["x"].tolist() == [[1, 2], [3, 4.5]]
    answer = ONE.encode(request, InferResponse({"y": np.array([3, 7.5], np.float32)}))
    assert answer == b'{"predictions":[3.0,7.5]}'


def test_several_inputs_and_outputs_are_objects_by_name() -> None:
    rows = [{"an id": 1, "t.x": ["a", "b"]}, {"an id": 2, "t.x": ["c", "d"]}]
    request = MANY.decode(body(rows))
    assert request.tensors["an id"].tolist() == [1, 2]
    assert request.tensors["t.x"].tolist() == [["a", "b"], ["c", "d"]]
    answer = InferResponse(
        {
            "label": np.array(["p", "n"], dtype=object),
            "score": np.array([[0.5, 1], [0, 2]], np.float32),
        }
    )
    assert json.loads(MANY.encode(request, answer)) == {
        "predictions": [{"label": "p", "score": [0.5, 1.0]}, {"label": "n", "score": [0.0, 2.0]}]
    }


@pytest.mark.parametrize(
    ("codec", "data", "loc", "kind"),
    [
        (ONE, b"{}", ["instances"], "missing"),
        (ONE, b"[]", [], "dict_type"),
        (ONE, body([]), ["instances"], "value_error"),
        (ONE, body([[1, True]]), ["instances", 0, 1], "float_type"),
        (ONE, body([[1, 2], [1, None]]), ["instances", 1, 1], "float_type"),
        (ONE, body([[1, 2, 3]]), ["instances", 0], "value_error"),
        (ONE, body([[[1, 2], 3]]), ["instances", 0, 0], "float_type"),
        (ONE, body("ab"), ["instances"], "list_type"),
        (ONE, b'{"instances": [[1,', [18], "json_invalid"),
        (ONE, b'{"instances": [[NaN, 1]]}', [16], "json_invalid"),
        (MANY, b'{"instances": [{"an id": 1, "t.x": ["a\xff"]}]}', [38], "json_invalid"),
        (ONE, b"[" * 100_000, [], "dict_type"),
        (ONE, b'{"instances":' + b"[" * 100_000, ["instances", 0, 0], "float_type"),
        (ONE, b'{"a":' + b"[" * 1_000_000, [0], "json_invalid"),
        (MANY, body([{"an id": 1}]), ["instances", 0, "t.x"], "missing"),
        (MANY, body([{"an id": 1, "t.x": [], "z": 1}]), ["instances", 0, "z"], "extra_forbidden"),
        (MANY, body([{"an id": 2**63, "t.x": ["a"]}]), ["instances"], "value_error"),
        (
            MANY,
            body([{"an id": 1, "t.x": ["a"]}, {"an id": 1, "t.x": []}]),
            ["instances"],
            "value_error",
        ),
        (MANY, body([1]), ["instances", 0], "dict_type"),
    ],
)
def test_a_wrong_request_says_where(
    codec: project.TensorCodec, data: bytes, loc: list[Any], kind: str
) -> None:
    with pytest.raises(SchemaMismatch) as caught:
        codec.decode(data)
    (detail,) = json.loads(project.error_body(caught.value))["detail"]
    assert detail["loc"] == ["body", *loc]
    assert detail["type"] == kind
    assert detail["msg"]


def test_other_errors_are_a_sentence() -> None:
    error = Refused(Kind.OVERLOADED, "pending request queue full")
    assert project.error_body(error) == b'{"detail":"pending request queue full"}'


def test_a_model_without_rows_points_to_the_other_dialect() -> None:
    spec = TensorSpec("x", DataType.FP32, ())
    codec = project.TensorCodec(TensorSignature((spec,), (spec,)))
    with pytest.raises(FairleadError, match="no batch dimension"):
        codec.decode(body([1]))
    request = ONE.decode(body([[1, 2]]))
    with pytest.raises(FairleadError, match="not a row per instance"):
        ONE.encode(request, InferResponse({"y": np.zeros((3,), np.float32)}))


def test_nan_is_an_error_and_the_word_null_is_not() -> None:
    request = ONE.decode(body([[1, 2]]))
    with pytest.raises(FairleadError, match="NaN"):
        ONE.encode(request, InferResponse({"y": np.array([np.nan], np.float32)}))
    huge = ONE.decode(body([[1, 1e30]]))
    with pytest.raises(FairleadError, match="x: the numbers are so large") as caught:
        ONE.encode(huge, InferResponse({"y": np.array([np.nan], np.float32)}))
    assert caught.value.kind is Kind.INVALID
    answer = InferResponse({"y": np.array(["null"], dtype=object)})
    assert ONE.encode(request, answer) == b'{"predictions":["null"]}'


def test_a_golden_example_is_shown_as_this_api_takes_it() -> None:
    assert project.example_body(SINGLE, {"x": [[1, 2]]}) == {"instances": [[1, 2]]}
    assert project.example_body(SEVERAL, {"an id": [1], "t.x": [["a"]]}) == {
        "instances": [{"an id": 1, "t.x": ["a"]}]
    }
    assert project.example_body(DocumentSignature(), {"a": 1}) == {"a": 1}
    whole = TensorSignature((TensorSpec("x", DataType.FP32, ()),), SINGLE.outputs)
    assert project.example_body(whole, {"x": 1}) is None, "it has no rows"


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from(["an id", "t.x", "z"]), inner, max_size=3)
    ),
    max_leaves=12,
)


@effort(150)
@given(data=st.binary(max_size=60) | JSON.map(body))
def test_any_bytes_are_a_request_or_a_refusal(data: bytes) -> None:
    for codec in (ONE, MANY):
        try:
            request = codec.decode(data)
        except SchemaMismatch as error:
            assert json.loads(project.error_body(error))["detail"]
        else:
            assert len(next(iter(request.tensors.values()))) >= 1


@pytest.mark.parametrize("length", [7_999, 8_001])
@pytest.mark.parametrize("rows", [1, 3])
def test_long_rows_of_another_length_are_refused(length: int, rows: int) -> None:
    spec = TensorSpec("x", DataType.FP32, (-1, 8_000))
    codec = project.TensorCodec(TensorSignature((spec,), (spec,)))
    assert codec.decode(body([[1.25] * 8_000] * rows)).tensors["x"].shape == (rows, 8_000)
    with pytest.raises(SchemaMismatch, match="length"):
        codec.decode(body([[1.25] * length] * rows))
