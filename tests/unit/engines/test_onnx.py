"""ONNX Runtime, with real models made here."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper

from fairlead.api.bf16 import from_floats, to_floats
from fairlead.api.inference import NUMPY_TYPES, InferRequest
from fairlead.domain.errors import FairleadError, Kind
from fairlead.domain.signature import DataType, TensorSignature, TensorSpec
from fairlead.engines import onnx
from fairlead.engines.onnx import OnnxModel
from support.models import (
    BOOL,
    FLOAT,
    INT64,
    STRING,
    bf16_doubled,
    identity,
    onnx_bytes,
    scaled,
    two_ways,
)


def load(tmp_path: Path, data: bytes) -> OnnxModel:
    path = tmp_path / "model.onnx"
    path.write_bytes(data)
    return OnnxModel(path)


def test_the_signature_is_read_and_a_named_or_unknown_size_is_the_callers_choice(
    tmp_path: Path,
) -> None:
    model = load(tmp_path, two_ways())
    assert model.signature == TensorSignature(
        (TensorSpec("a", DataType.INT64, (-1,)), TensorSpec("b", DataType.FP32, (-1, 2))),
        (TensorSpec("a out", DataType.INT64, (-1,)), TensorSpec("b.out", DataType.FP32, (-1, 2))),
    )


@pytest.mark.parametrize(
    ("kind", "values", "dtype"),
    [
        (FLOAT, [1.5, -2.0], "float32"),
        (INT64, [2**62, -1], "int64"),
        (BOOL, [True, False], "bool"),
        (STRING, ["grüße", ""], "object"),
        (TensorProto.UINT8, [255, 0], "uint8"),
        (TensorProto.FLOAT16, [0.5, 2.0], "float16"),
        (TensorProto.DOUBLE, [0.1, 1e300], "float64"),
    ],
)
def test_every_element_type_goes_in_and_comes_out_unchanged(
    tmp_path: Path, kind: int, values: list[Any], dtype: str
) -> None:
    model = load(tmp_path, identity(kind, ["n"]))
    sent = np.array(values, dtype=dtype)
    answer = model.infer(InferRequest({"x": sent})).tensors["y"]
    assert answer.dtype == sent.dtype
    assert answer.tolist() == sent.tolist()


def test_bf16_goes_in_and_comes_out_as_its_bits(tmp_path: Path) -> None:
    model = load(tmp_path, bf16_doubled())
    assert isinstance(model.signature, TensorSignature)
    assert model.signature.inputs == (TensorSpec("x", DataType.BF16, (-1, 2)),)
    for values in ([[1.5, -2.0], [0.25, 3e30]], np.empty((0, 2))):
        sent = from_floats(np.array(values))
        answer = model.infer(InferRequest({"x": sent})).tensors["y"]
        assert answer.dtype == np.uint16
        assert to_floats(answer).tolist() == (2 * to_floats(sent)).tolist()
    kept = model.infer(InferRequest({"x": from_floats(np.ones((1, 2)))})).tensors["y"]
    model.infer(InferRequest({"x": from_floats(np.zeros((1, 2)))}))
    assert to_floats(kept).tolist() == [[2.0, 2.0]]  # an answer outlives the next run
    with pytest.raises(FairleadError, match="does not take this input"):
        model.infer(InferRequest({"x": np.zeros((1, 3), np.uint16)}))


def test_only_the_wanted_outputs_are_computed(tmp_path: Path) -> None:
    model = load(tmp_path, two_ways())
    tensors = {"a": np.array([1]), "b": np.zeros((1, 2), np.float32)}
    answer = model.infer(InferRequest(tensors, outputs=("b.out",)))
    assert list(answer.tensors) == ["b.out"]


def test_an_input_of_another_type_is_refused_and_never_cast(tmp_path: Path) -> None:
    model = load(tmp_path, scaled())
    with pytest.raises(FairleadError, match="double") as caught:
        model.infer(InferRequest({"x": np.zeros((1, 3), np.float64)}))
    assert caught.value.kind is Kind.INVALID


def test_sizes_that_contradict_each_other_are_an_error_and_not_a_crash(tmp_path: Path) -> None:
    node = helper.make_node("Add", ["a", "b"], ["y"])
    data = onnx_bytes([("a", FLOAT, ["n"]), ("b", FLOAT, ["m"])], [("y", FLOAT, ["k"])], [node])
    model = load(tmp_path, data)
    with pytest.raises(FairleadError, match=r"failed|does not take"):
        model.infer(InferRequest({"a": np.zeros(2, np.float32), "b": np.zeros(3, np.float32)}))


def test_a_closed_models_session_goes_though_somebody_has_the_model_and_its_error(
    tmp_path: Path,
) -> None:
    model = load(tmp_path, scaled())
    session = weakref.ref(model._session)  # noqa: SLF001 - it is what holds the memory
    wrong = InferRequest({"x": np.zeros((1, 2), np.float32)})
    with pytest.raises(FairleadError) as caught:
        model.infer(wrong)
    gc.disable()  # it has to go by itself
    try:
        model.close()
        assert session() is None
    finally:
        gc.enable()
    assert caught.value.kind is Kind.INVALID
    with pytest.raises(FairleadError, match="being unloaded") as late:
        model.infer(wrong)
    assert late.value.kind is Kind.UNAVAILABLE


@pytest.mark.parametrize("graph", [scaled, bf16_doubled])
def test_a_run_that_has_begun_when_its_model_is_closed_is_answered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, graph: Callable[[], bytes]
) -> None:
    model = load(tmp_path, graph())
    (spec,) = model.signature.inputs
    request = InferRequest({spec.name: np.zeros((1, spec.shape[1]), NUMPY_TYPES[spec.datatype])})
    # Where what runs it has been found, and its inputs have not been made.
    monkeypatch.setattr(onnx, "_options", model.close)
    right = model.infer(request)
    assert not right.tensors["y"].any()


def test_half_a_surrogate_pair_is_refused(tmp_path: Path) -> None:
    model = load(tmp_path, identity(STRING, ["n"]))
    with pytest.raises(FairleadError, match="surrogate") as caught:
        model.infer(InferRequest({"x": np.array(["\ud800"], dtype=object)}))
    assert caught.value.kind is Kind.INVALID


def test_a_file_that_is_no_model_is_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(
        FairleadError, match=r"model\.onnx is not a model that ONNX Runtime can load"
    ):
        load(tmp_path, b"not a model")


def test_a_tensor_type_that_cannot_be_served_is_named(tmp_path: Path) -> None:
    graph = helper.make_graph(
        [helper.make_node("Cast", ["x"], ["y"], to=FLOAT)],
        "graph",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT8E4M3FN, ["n"])],
        [helper.make_tensor_value_info("y", FLOAT, ["n"])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9)
    with pytest.raises(FairleadError, match=r"input 'x' is a tensor\(float8e4m3fn\)"):
        load(tmp_path, model.SerializeToString())
