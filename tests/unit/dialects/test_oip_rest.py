"""The Open Inference Protocol over REST: what is read, what is written, what is refused and how."""

from __future__ import annotations

import json
import re
import struct
from typing import Any

import numpy as np
import pytest
from hypothesis import given, strategies as st
from hypothesis.extra import numpy as hnp

from fairlead.api.bf16 import from_floats
from fairlead.api.inference import NUMPY_TYPES, InferResponse
from fairlead.api.tensors import numbers
from fairlead.dialects import oip_model, oip_rest, project
from fairlead.dialects.oip_binary import tensor_from_binary, tensor_to_binary
from fairlead.domain.errors import FairleadError, Kind
from fairlead.domain.signature import DataType, DocumentSignature, TensorSignature, TensorSpec
from support.effort import effort

SIGNATURE = TensorSignature(
    (TensorSpec("x", DataType.FP32, (-1, 2)), TensorSpec("t", DataType.BYTES, (-1,))),
    (TensorSpec("y", DataType.FP32, (-1, 2)), TensorSpec("u", DataType.BYTES, (-1,))),
)
CODEC = oip_rest.TensorCodec("demo", 7, SIGNATURE)
X = {"name": "x", "shape": [1, 2], "datatype": "FP32", "data": [1.5, 2]}
T = {"name": "t", "shape": [1], "datatype": "BYTES", "data": ["grüße"]}


def body(*inputs: Any, **more: Any) -> bytes:
    return json.dumps({"inputs": list(inputs), **more}).encode()


def one(datatype: str, shape: list[int]) -> oip_rest.TensorCodec:
    spec = TensorSpec("x", DataType(datatype), tuple(shape))
    return oip_rest.TensorCodec("one", 1, TensorSignature((spec,), ()))


def refusal(data: bytes, header: bytes | None = None, codec: oip_rest.TensorCodec = CODEC) -> str:
    with pytest.raises(FairleadError) as caught:
        codec.decode(data, header)
    assert caught.value.kind is Kind.INVALID
    return caught.value.message


def test_a_large_tensor_is_written_from_where_it_lies() -> None:
    tensor = np.arange(1 << 20, dtype=np.float32)
    found = tensor_to_binary(tensor)
    assert isinstance(found, memoryview)
    assert bytes(found) == tensor.tobytes()
    assert tensor_to_binary(tensor[::2]) == tensor[::2].tobytes()


def test_large_data_is_read_whether_it_is_flat_or_nested() -> None:
    rows = np.arange(20_000, dtype=np.float32).reshape(-1, 2)
    for data in (rows.ravel().tolist(), rows.tolist()):
        call = CODEC.decode(body({**X, "shape": [10_000, 2], "data": data}, T))
        assert np.array_equal(call.request.tensors["x"], rows)
    wrong = {**X, "shape": [5_000, 4], "data": rows.tolist()}
    assert "shape" in refusal(body(wrong, T))


@pytest.mark.parametrize("indent", [None, 0, 1, 4, 40, "\t"])
@pytest.mark.parametrize("rows", [2, 10_000])
def test_nested_data_is_read_however_it_is_indented(indent: int | str | None, rows: int) -> None:
    asked = {"inputs": [{**X, "shape": [rows, 2], "data": [[1.5, 2]] * rows}, T]}
    call = CODEC.decode(json.dumps(asked, indent=indent).encode())
    assert call.request.tensors["x"].tolist() == [[1.5, 2]] * rows


def test_a_request_is_read_whether_its_data_is_flat_or_nested() -> None:
    for data in ([1.5, 2], [[1.5, 2]]):
        call = CODEC.decode(
            body({**X, "data": data}, T, id="7", parameters={"anything": {"goes": 1}})
        )
        assert call.request.tensors["x"].tolist() == [[1.5, 2.0]]
        assert call.request.tensors["x"].dtype == np.float32
        assert call.request.tensors["t"].tolist() == ["grüße"]
        assert call.request.outputs is None
        assert call.id == "7"


def test_the_answer_names_model_version_and_id_and_lies_flat_in_row_major_order() -> None:
    call = CODEC.decode(body(X, T, id='a"b'))
    answer = InferResponse(
        {"y": np.array([[1, 2], [3, 4]], np.float32), "u": np.array(["ü"], dtype=object)}
    )
    text, length = CODEC.encode(call, answer)
    assert length is None
    assert json.loads(text) == {
        "model_name": "demo",
        "model_version": "7",
        "id": 'a"b',
        "outputs": [
            {"name": "y", "datatype": "FP32", "shape": [2, 2], "data": [1, 2, 3, 4]},
            {"name": "u", "datatype": "BYTES", "shape": [1], "data": ["ü"]},
        ],
    }


def test_an_empty_id_is_none() -> None:
    answer = InferResponse({"u": np.array(["a"], dtype=object)})
    for more in ({"id": ""}, {"id": None}, {}):
        text, _ = CODEC.encode(CODEC.decode(body(X, T, **more)), answer)
        assert "id" not in json.loads(text)


def test_requested_outputs_are_passed_on_in_the_callers_order() -> None:
    call = CODEC.decode(body(X, T, outputs=[{"name": "u"}, {"name": "y"}]))
    assert call.request.outputs == ("u", "y")


def test_binary_inputs_follow_the_json_in_order() -> None:
    floats = struct.pack("<2f", 1.5, -2)
    text = b"\x02\x00\x00\x00ab"
    asked = body(
        {"name": "x", "shape": [1, 2], "datatype": "FP32", "parameters": {"binary_data_size": 8}},
        {"name": "t", "shape": [1], "datatype": "BYTES", "parameters": {"binary_data_size": 6}},
    )
    call = CODEC.decode(asked + floats + text, b"%d" % len(asked))
    assert call.request.tensors["x"].tolist() == [[1.5, -2.0]]
    assert call.request.tensors["t"].tolist() == ["ab"]


def test_binary_outputs_come_when_asked_for_one_by_one_or_for_all() -> None:
    answer = InferResponse(
        {"y": np.array([[1, 2]], np.float32), "u": np.array(["ü"], dtype=object)}
    )
    single = CODEC.decode(
        body(X, T, outputs=[{"name": "y", "parameters": {"binary_data": True}}, {"name": "u"}])
    )
    data, length = CODEC.encode(single, answer)
    assert length is not None
    outputs = json.loads(data[:length])["outputs"]
    assert outputs[0]["parameters"] == {"binary_data_size": 8}
    assert "data" not in outputs[0]
    assert outputs[1]["data"] == ["ü"]
    assert data[length:] == struct.pack("<2f", 1, 2)

    every = CODEC.decode(body(X, T, parameters={"binary_data_output": True}))
    data, length = CODEC.encode(every, answer)
    assert data[length:] == struct.pack("<2f", 1, 2) + b"\x02\x00\x00\x00" + "ü".encode()

    but = [{"name": "y", "parameters": {"binary_data": False}}, {"name": "u"}]
    call = CODEC.decode(body(X, T, parameters={"binary_data_output": True}, outputs=but))
    assert call.binary == {"u"}


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "not JSON"),
        (b"{", "not JSON"),
        (b"\xff\xfe", "not JSON"),
        (b"[1]", "Expected 'object', got 'array'"),
        (b"{}", "missing required field 'inputs'"),
        (b"[" * 100_000, "Expected 'object', got 'array'"),
        (b'{"inputs":[{"name":"x","shape":[1,2],"datatype":"FP32","data":' + b"[" * 1_000_000, "nested too deeply"),
        (b'{"junk":' + b"[" * 1_000_000 + b"]" * 1_000_000 + b',"inputs":[]}', "nested too deeply"),
        (body({"name": "x"}, T), r"inputs\[0\]: Object missing required field 'shape'"),
        (body({**X, "shape": "12"}, T), r"inputs\[0\].shape: Expected 'array', got 'str'"),
        (body({**X, "shape": [1, 2.5]}, T), "Expected 'int', got 'float'"),
        (body({**X, "shape": [1, 10**30]}, T), "Integer value out of range|shape .* does not fit"),
        (body({**X, "name": "z"}, T), "unknown input 'z'; the model's inputs are 'x', 't'"),
        (body(X), "input 't' is missing"),
        (body(), "input 'x' is missing"),
        (body(X, X, T), "input 'x' is given twice"),
        (body({**X, "datatype": "FP64"}, T), "x: datatype 'FP64' does not fit, the model takes FP32"),
        (body({**X, "datatype": "nonsense"}, T), "datatype 'nonsense'"),
        (body({**X, "shape": [2]}, T), r"shape \[2\] does not fit, the model takes \[-1, 2\]"),
        (body({**X, "shape": [1, 3]}, T), r"shape \[1, 3\] does not fit"),
        (body({**X, "shape": [-1, 2]}, T), "negative dimension"),
        (body({**X, "shape": [1] * 100}, T), "100 dimensions"),
        (body({**X, "shape": [2**62, 2]}, T), "data holds 2 elements"),
        (body({**X, "shape": [0, 2]}, T), "data holds 2 elements, shape .* asks for 0"),
        (body({**X, "data": [1, 2, 3]}, T), "data holds 3 elements"),
        (body({**X, "data": [[1], [2]]}, T), r"nested as \[2, 1\], shape says \[1, 2\]"),
        (body({**X, "data": [[1, 2], [3]]}, T), "differ in length"),
        (body({**X, "data": [True, 2]}, T), r"x: data\[0\]: Expected 'float', got 'bool'"),
        (body({**X, "data": [None, 2]}, T), "got 'null'"),
        (body({**X, "data": ["1", 2]}, T), "got 'str'"),
        (body({**X, "data": [1e39, 2]}, T), "Expected 'float' <"),
        (b'{"inputs":[{"name":"x","shape":[1,2],"datatype":"FP32","data":[NaN,1]}]}', "not JSON"),
        (body({**X, "data": 5}, T), "Expected 'array', got 'int'"),
        (body({key: X[key] for key in ("name", "shape", "datatype")}, T), "x: data is missing"),
        (body(X, {**T, "data": [1]}), "Expected 'str', got 'int'"),
        (body(X, T, outputs=[{"name": "z"}]), "unknown output 'z'; the model's outputs are 'y', 'u'"),
        (body(X, T, outputs=[{"name": "y"}, {"name": "y"}]), "asked for twice"),
        (body(X, T, outputs=[{"name": "y", "parameters": {"classification": -1}}]), "write how many classes you want, from 1"),
        (body(X, T, outputs=[{"name": "y", "parameters": {"classification": 0}}]), "write how many classes you want, from 1"),
        (body(X, T, outputs=[{"name": "u", "parameters": {"classification": 1}}]), "BYTES elements have no highest"),
        (body(X, T, outputs=[{"name": "y", "parameters": {"classification": 1.5}}]), "Expected 'int | null', got 'float'"),
        (body(X, T, outputs=[{"name": "y", "parameters": {"shared_memory_region": "r"}}]), "output 'y': shared memory is not served"),
        (body({**X, "parameters": {"shared_memory_region": "r", "shared_memory_byte_size": 8}}, T), "x: shared memory is not served"),
        (body(X, T, parameters={"sequence_id": 7, "sequence_start": True}), "sequences are not served"),
        (body(X, T, parameters={"sequence_id": "seven"}), "sequences are not served"),
        (body({**X, "parameters": {"binary_data_size": 8}}, T), "send one of the two"),
        (body({"name": "x", "shape": [1, 2], "datatype": "FP32", "parameters": {"binary_data_size": 8}}, T), "needs the header"),
        (body(X, T, id=7), "id: Expected 'str | null', got 'int'"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said_and_what_would_be_right(data: bytes, message: str) -> None:
    assert re.search(message, refusal(data))


@pytest.mark.parametrize(
    ("size", "rest", "header", "message"),
    [
        (8, b"1234567", None, "binary_data_size is 8, 7 bytes are left"),
        (8, b"12345678x", None, "9 bytes follow the JSON, the inputs' binary_data_size sum to 8"),
        (4, b"1234", None, "binary_data_size is 4, a FP32 tensor of shape .* has 8 bytes"),
        (-1, b"", None, "binary_data_size is -1"),
        (8, b"12345678", b"-5", "must be a number of bytes"),
        (8, b"12345678", b"9" * 400, "must be a number of bytes"),
        (8, b"12345678", b"\xb2", "must be a number of bytes"),
        (8, b"12345678", b"999999", "must be a number of bytes"),
        (8, b"12345678", b"1", "not JSON"),
    ],
)
def test_binary_data_that_does_not_add_up_is_refused(
    size: int, rest: bytes, header: bytes | None, message: str
) -> None:
    asked = body(
        {"name": "x", "shape": [1, 2], "datatype": "FP32", "parameters": {"binary_data_size": size}}
    )
    found = refusal(asked + rest, header or b"%d" % len(asked), one("FP32", [-1, 2]))
    assert re.search(message, found)


@pytest.mark.parametrize(
    ("blob", "message"),
    [
        (b"\x05\x00\x00\x00ab", "reaches past the end"),
        (b"\x01\x00", "reaches past the end"),
        (b"\xff\xff\xff\xff", "reaches past the end"),
        (b"\x01\x00\x00\x00\xff", "is not UTF-8"),
        (b"\x00\x00\x00\x00" * 2, "holds 2 texts, the shape asks for 1"),
        (b"", "holds 0 texts"),
    ],
)
def test_binary_texts_that_do_not_add_up_are_refused(blob: bytes, message: str) -> None:
    spec = TensorSpec("t", DataType.BYTES, (-1,))
    with pytest.raises(FairleadError, match=message):
        tensor_from_binary(spec, [1], memoryview(blob))


@pytest.mark.parametrize(
    ("datatype", "shape", "count", "found"),
    [
        ("FP32", [-1], 3, [3]),
        ("FP32", [-1], 0, [0]),
        ("FP32", [1, 3], 3, [1, 3]),
        ("INT8", [-1, 3], 3, [1, 3]),
        ("FP32", [-1, 3], 6, [2, 3]),
        ("FP64", [2, -1], 6, [2, 3]),
        ("INT16", [-1, -1], 4, [1, 4]),
        ("INT16", [-1, 2, -1], 4, [1, 2, 2]),
        ("BOOL", [], 1, []),
        ("FP32", [-1, 0], 0, [0, 0]),
    ],
)
def test_a_body_without_json_is_the_only_input(
    datatype: str, shape: list[int], count: int, found: list[int]
) -> None:
    about = TensorSpec("x", DataType(datatype), tuple(shape))
    codec = oip_rest.TensorCodec("one", 1, TensorSignature((about,), (about,)))
    values = np.arange(count).astype(NUMPY_TYPES[datatype]).reshape(found)
    for header in (b"0", b" 0"):
        call = codec.decode(values.tobytes(), header)
        tensor = call.request.tensors["x"]
        assert (tensor.dtype, list(tensor.shape)) == (values.dtype, found)
        assert tensor.tolist() == values.tolist()
    answer, length = codec.encode(call, InferResponse({"x": values}))  # its answer is bytes, too
    assert isinstance(answer, bytes)
    assert answer[length:] == values.tobytes()
    assert "id" not in json.loads(answer[:length])


@pytest.mark.parametrize("shape", [[-1], [1], [-1, 1], [-1, -1], []])
def test_a_body_without_json_is_one_text_without_its_length(shape: list[int]) -> None:
    for text in ("grüße", "", "{}"):
        tensor = one("BYTES", shape).decode(text.encode(), b"0").request.tensors["x"]
        assert tensor.shape == (1,) * len(shape)
        assert tensor.reshape(-1).tolist() == [text]


def test_a_document_may_be_the_whole_body() -> None:
    call = oip_rest.DocumentCodec("echo", 1).decode(b'{"a": 1}', b"0")
    assert call.texts == [b'{"a": 1}']
    assert call.call.binary == {"response"}


@pytest.mark.parametrize(
    ("datatype", "shape", "data", "message"),
    [
        ("FP32", [1, 3], b"1234", r"x: the body has 4 bytes, a FP32 tensor of shape \[1, 3\] has 12"),
        ("FP32", [1, 3], bytes(24), r"x: the body has 24 bytes, a FP32 tensor of shape \[1, 3\] has 12"),
        ("FP32", [-1, 3], bytes(16), r"16 bytes, a FP32 tensor of shape \[-1, 3\] has a multiple of 12"),
        ("INT8", [-1, 0], b"1", r"1 bytes, a INT8 tensor of shape \[-1, 0\] has a multiple of 0"),
        ("INT8", [2, -1, -1], bytes(8), "bytes alone do not say which shape of that they have; describe the input in JSON"),
        ("INT8", [-1, -1, -1], bytes(8), "bytes alone do not say which shape"),
        ("BOOL", [-1], b"\x02", "a BOOL is one byte, 0 or 1"),
        ("BYTES", [-1, 16], b"a", r"a body without JSON is one text, the model takes \[-1, 16\] of them; describe"),
        ("BYTES", [0], b"a", "a body without JSON is one text"),
        ("BYTES", [-1], b"\xff\xd8", "x: text 0 is not UTF-8"),
    ],
)  # fmt: skip
def test_a_body_without_json_whose_shape_does_not_follow_is_refused(
    datatype: str, shape: list[int], data: bytes, message: str
) -> None:
    assert re.search(message, refusal(data, b"0", one(datatype, shape)))


def test_a_body_without_json_is_for_one_input() -> None:
    assert refusal(b"1234", b"0") == (
        "Inference-Header-Content-Length is 0, but a body without JSON is for models with one input and this one takes "
        "'x', 't'; describe the input in JSON before its bytes, and give that JSON's length in Inference-Header-Content-Length"
    )


def test_a_bool_is_zero_or_one() -> None:
    spec = TensorSpec("b", DataType.BOOL, (-1,))
    assert tensor_from_binary(spec, [2], memoryview(b"\x00\x01")).tolist() == [False, True]
    with pytest.raises(FairleadError, match="0 or 1"):
        tensor_from_binary(spec, [1], memoryview(b"\x02"))


@pytest.mark.parametrize(
    ("datatype", "good", "bad"),
    [
        ("INT8", [-128, 127], 128),
        ("UINT8", [0, 255], -1),
        ("INT64", [-(2**63), 2**63 - 1], 2**63),
        ("UINT64", [0, 2**64 - 1], 2**64),
        ("FP16", [65504, -1], 65520),
        ("FP32", [3.4028235e38, 0], 3.5e38),
        ("INT32", [1, 2], 1.5),
        ("BOOL", [True, False], 1),
        ("FP64", [1e308, 10**20], "1"),
    ],
)
def test_numbers_must_fit_their_type(datatype: str, good: list[Any], bad: Any) -> None:
    codec = one(datatype, [-1])
    request = {"name": "x", "shape": [2], "datatype": datatype}
    tensor = codec.decode(body({**request, "data": good})).request.tensors["x"]
    assert tensor.dtype == NUMPY_TYPES[datatype]
    assert np.array_equal(tensor, np.array(good, dtype=tensor.dtype))
    assert "x: " in refusal(body({**request, "data": [good[0], bad]}), codec=codec)


def test_nan_cannot_be_written_as_json_but_as_bytes() -> None:
    answer = InferResponse({"y": np.array([[np.nan, np.inf]], np.float32)})
    with pytest.raises(FairleadError, match="binary_data") as caught:
        CODEC.encode(CODEC.decode(body(X, T)), answer)
    assert caught.value.kind is Kind.MODEL
    call = CODEC.decode(body(X, T, parameters={"binary_data_output": True}))
    data, length = CODEC.encode(call, answer)
    assert np.isnan(np.frombuffer(data[length:], np.float32)[0])
    word = InferResponse({"u": np.array(["null"], dtype=object)})
    assert b'"null"' in CODEC.encode(CODEC.decode(body(X, T)), word)[0]


@pytest.mark.parametrize(
    ("datatype", "number", "words"),
    [
        ("FP32", np.nan, "x: the input itself holds NaN, so output y holds NaN"),
        ("FP64", np.nan, "x: the input itself holds NaN, so"),
        ("FP16", np.nan, "x: the input itself holds NaN, so"),
        ("BF16", np.nan, "x: the input itself holds NaN, so"),
        ("FP32", np.inf, "x: the numbers are so large that"),
        ("FP32", -np.inf, "x: the numbers are so large that"),
        ("FP32", 1.0, "output y holds NaN"),
    ],
)
def test_nan_that_the_caller_sent_is_the_callers(datatype: str, number: float, words: str) -> None:
    kind = DataType(datatype)
    about = TensorSignature((TensorSpec("x", kind, (-1,)),), (TensorSpec("y", kind, (-1,)),))
    codec = oip_rest.TensorCodec("one", 1, about)
    values = np.array([0.5, number])
    sent = from_floats(values) if datatype == "BF16" else values.astype(NUMPY_TYPES[datatype])
    size = {"binary_data_size": sent.nbytes}
    asked = body({"name": "x", "shape": [2], "datatype": datatype, "parameters": size})
    call = codec.decode(asked + sent.tobytes(), b"%d" % len(asked))
    out = np.array([0.5, np.nan])
    nothing = InferResponse(
        {"y": from_floats(out) if datatype == "BF16" else out.astype(np.float32)}
    )
    with pytest.raises(FairleadError) as caught:
        codec.encode(call, nothing)
    assert caught.value.message.startswith(words)
    assert caught.value.kind is (Kind.INVALID if number != 1.0 else Kind.MODEL)


def test_documents_travel_as_json_texts() -> None:
    codec = oip_rest.DocumentCodec("echo", 1)
    asked = body({"name": "request", "shape": [2], "datatype": "BYTES", "data": ['{"a":1}', "2"]})
    call = codec.decode(asked)
    assert call.texts == [b'{"a":1}', b"2"]
    answer = json.loads(codec.encode(call, [b'{"b":1}', b'"\xc3\xbc"'])[0])
    assert answer["outputs"] == [
        {"name": "response", "datatype": "BYTES", "shape": [2], "data": ['{"b":1}', '"ü"']}
    ]


def test_metadata_shows_tensors_and_for_documents_how_to_send_them() -> None:
    assert oip_model.metadata("demo", [6, 7], "onnxruntime_onnx", SIGNATURE) == {
        "name": "demo",
        "versions": ["6", "7"],
        "platform": "onnxruntime_onnx",
        "inputs": [
            {"name": "x", "datatype": "FP32", "shape": [-1, 2]},
            {"name": "t", "datatype": "BYTES", "shape": [-1]},
        ],
        "outputs": [
            {"name": "y", "datatype": "FP32", "shape": [-1, 2]},
            {"name": "u", "datatype": "BYTES", "shape": [-1]},
        ],
    }
    shown = oip_model.metadata("echo", [1], "python", DocumentSignature())
    assert shown["inputs"] == [{"name": "request", "datatype": "BYTES", "shape": [-1]}]
    assert shown["outputs"] == [{"name": "response", "datatype": "BYTES", "shape": [-1]}]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4)
    ),
    max_leaves=12,
)
NEARLY = st.fixed_dictionaries(
    {},
    optional={
        "name": st.sampled_from(["x", "t", "z"]) | JSON,
        "shape": st.lists(st.integers(-2, 3) | st.integers(), max_size=4) | JSON,
        "datatype": st.sampled_from(["FP32", "BYTES", "BF16"]) | JSON,
        "data": JSON,
        "parameters": st.fixed_dictionaries({}, optional={"binary_data_size": st.integers(-1, 40)})
        | JSON,
    },
)


@effort(150)
@given(data=st.binary(max_size=200), header=st.none() | st.binary(max_size=4))
def test_any_bytes_are_a_request_or_a_refusal(data: bytes, header: bytes | None) -> None:
    try:
        CODEC.decode(data, header)
    except FairleadError as error:
        assert error.message


@effort(150)
@given(
    inputs=st.lists(NEARLY | st.sampled_from([X, T]), max_size=4) | JSON,
    outputs=st.lists(st.fixed_dictionaries({"name": st.sampled_from(["y", "u", "z"])}), max_size=3)
    | JSON,
    blob=st.binary(max_size=40),
    with_header=st.booleans(),
)
def test_any_nearly_right_request_is_a_request_or_a_refusal(
    inputs: Any, outputs: Any, blob: bytes, with_header: bool
) -> None:
    data = json.dumps({"inputs": inputs, "outputs": outputs}).encode()
    header = b"%d" % len(data) if with_header else None
    try:
        call = CODEC.decode(data + blob if with_header else data, header)
    except FairleadError as error:
        assert error.message
    else:
        assert set(call.request.tensors) == {"x", "t"}


NUMERIC = sorted(set(NUMPY_TYPES) - {"BYTES"})


@st.composite
def tensors(draw: st.DrawFn) -> tuple[str, Any]:
    datatype = draw(st.sampled_from([*NUMERIC, "BYTES"]))
    shape = draw(hnp.array_shapes(min_dims=1, max_dims=3, max_side=4))
    if datatype == "BYTES":
        texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=6)
        array = draw(hnp.arrays(object, shape, elements=texts))
    elif datatype == "BF16":
        array = draw(hnp.arrays(np.uint16, shape, elements=st.integers(0, 0x7F7F)))
    elif datatype.startswith("FP"):
        array = draw(
            hnp.arrays(
                NUMPY_TYPES[datatype],
                shape,
                elements={"allow_nan": False, "allow_infinity": False},
            )
        )
    else:
        array = draw(hnp.arrays(NUMPY_TYPES[datatype], shape))
    return datatype, array


@effort(100)
@given(tensor=tensors(), nested=st.booleans(), unaligned=st.integers(0, 7))
def test_every_tensor_survives_json_and_binary_both_ways(
    tensor: tuple[str, Any], nested: bool, unaligned: int
) -> None:
    datatype, array = tensor
    shape = list(array.shape)
    codec = one(datatype, [-1] * len(shape))
    request = {"name": "x", "shape": shape, "datatype": datatype}
    shown = numbers(datatype, array)
    data = shown.tolist() if nested else shown.ravel().tolist()
    found = codec.decode(body({**request, "data": data})).request.tensors["x"]
    assert found.dtype == array.dtype
    assert found.shape == array.shape
    assert found.tolist() == array.tolist()

    blob = tensor_to_binary(array)
    asked = body({**request, "parameters": {"binary_data_size": len(blob)}}) + b" " * unaligned
    found = codec.decode(asked + blob, b"%d" % len(asked)).request.tensors["x"]
    assert found.flags.aligned
    assert found.tolist() == array.tolist()


@pytest.mark.parametrize(
    ("datatype", "request_", "blob", "told"),
    [
        ("FP32", {"shape": [0, 2**63], "data": []}, None, "larger than any tensor"),
        ("FP32", {"shape": [2**62, 0], "data": []}, None, "larger than any tensor"),
        ("BYTES", {"shape": [0, 2**63], "parameters": {"binary_data_size": 0}}, b"", "larger than any"),
        ("BYTES", {"shape": [1, 1], "data": ["\xff"]}, None, "data is not JSON: a text is not UTF-8"),
    ],
)  # fmt: skip
def test_what_used_to_be_a_failure_of_the_server_is_the_callers(
    datatype: str, request_: dict[str, Any], blob: bytes | None, told: str
) -> None:
    data = json.dumps(
        {"inputs": [{"name": "x", "datatype": datatype, **request_}]}, ensure_ascii=False
    ).encode("latin-1")
    header = b"%d" % len(data) if blob is not None else None
    with pytest.raises(FairleadError, match=told) as caught:
        one(datatype, [-1, -1]).decode(data + (blob or b""), header)
    assert caught.value.kind is Kind.INVALID


BITS = TensorSignature(
    (TensorSpec("x", DataType.BF16, (-1,)),), (TensorSpec("y", DataType.BF16, (-1,)),)
)


def test_bf16_is_told_as_numbers_and_what_is_none_is_somebodys_fault() -> None:
    codec = oip_rest.TensorCodec("bits", 1, BITS)
    asked = {"name": "x", "shape": [1], "datatype": "BF16", "data": [1.5]}
    text, _ = codec.encode(
        codec.decode(body(asked)), InferResponse({"y": from_floats(np.array([-2.5]))})
    )
    assert json.loads(text)["outputs"][0]["data"] == [-2.5]
    endless = InferResponse({"y": from_floats(np.array([np.inf]))})
    for number, kind in ((1.5, Kind.MODEL), (1e30, Kind.INVALID)):
        call = codec.decode(body({**asked, "data": [number]}))
        with pytest.raises(FairleadError, match="NaN or infinity") as caught:
            codec.encode(call, endless)
        assert caught.value.kind is kind
    message = refusal(body({**asked, "data": [3.4e38]}), codec=codec)
    assert "Expected 'float' <" in message


def test_bf16_through_the_project_api_is_numbers_too() -> None:
    codec = project.TensorCodec(BITS)
    call = codec.decode(b'{"instances": [1.5, 2]}')
    answer = InferResponse({"y": from_floats(np.array([3.0, -0.25]))})
    assert json.loads(codec.encode(call, answer)) == {"predictions": [3.0, -0.25]}
    endless = InferResponse({"y": from_floats(np.array([np.inf, 1.0]))})
    for number, kind in ((1.5, Kind.MODEL), (1e30, Kind.INVALID)):
        call = codec.decode(b'{"instances": [%b, 2]}' % json.dumps(number).encode())
        with pytest.raises(FairleadError, match="NaN or infinity") as caught:
            codec.encode(call, endless)
        assert caught.value.kind is kind


def test_a_length_of_json_of_thousands_of_digits_is_refused_as_any_other() -> None:
    with pytest.raises(FairleadError, match="must be a number of bytes up to the body's"):
        CODEC.decode(body(X, T), b"9" * 5000)
