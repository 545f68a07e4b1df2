"""The Open Inference Protocol over gRPC: what goes in comes out, and REST would have said the same."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given, strategies as st

from fairlead.api.grpc_status import GRPC_STATUS, encoded
from fairlead.api.inference import NUMPY_TYPES, InferResponse
from fairlead.api.oip_messages import message
from fairlead.dialects import oip_grpc_calls, oip_rest
from fairlead.dialects.oip_grpc import DocumentCodec, TensorCodec
from fairlead.domain.errors import Kind, Refused
from fairlead.domain.signature import DataType, TensorSignature, TensorSpec
from support.effort import effort

FIELDS = {
    "BOOL": "bool_contents",
    "INT8": "int_contents",
    "INT16": "int_contents",
    "INT32": "int_contents",
    "INT64": "int64_contents",
    "UINT8": "uint_contents",
    "UINT16": "uint_contents",
    "UINT32": "uint_contents",
    "UINT64": "uint64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
    "BYTES": "bytes_contents",
}
TYPES = [*FIELDS, "FP16"]


def signature(kind: str) -> TensorSignature:
    one = DataType(kind)
    return TensorSignature((TensorSpec("x", one, (-1, 2)),), (TensorSpec("y", one, (-1, 2)),))


def asking(**more: Any) -> Any:
    return message("ModelInferRequest")(model_name="m", **more)


def put(asked: Any, kind: str, array: np.ndarray[Any, Any], *, raw: bool, name: str = "x") -> Any:
    one = asked.inputs.add(name=name, datatype=kind, shape=list(array.shape))
    if not raw:
        values = (
            [str(each).encode() for each in array.flat]
            if kind == "BYTES"
            else array.ravel().tolist()
        )
        getattr(one.contents, FIELDS[kind]).extend(values)
        one.contents.SetInParent()
    elif kind == "BYTES":
        texts = [str(each).encode() for each in array.flat]
        asked.raw_input_contents.append(
            b"".join(len(text).to_bytes(4, "little") + text for text in texts)
        )
    else:
        asked.raw_input_contents.append(array.tobytes())
    return asked


@st.composite
def tensors(draw: st.DrawFn) -> tuple[str, np.ndarray[Any, Any]]:
    kind = draw(st.sampled_from(TYPES))
    rows = draw(st.integers(0, 3))
    dtype = NUMPY_TYPES[kind]
    if kind == "BYTES":
        values = draw(st.lists(st.text(max_size=5), min_size=2 * rows, max_size=2 * rows))
        array = np.empty(2 * rows, dtype=object)
        array[:] = values
        return kind, array.reshape(rows, 2)
    size = 2 * rows * dtype.itemsize
    data = draw(st.binary(min_size=size, max_size=size))
    if kind == "BOOL":
        data = bytes(byte & 1 for byte in data)
    return kind, np.frombuffer(data, dtype).reshape(rows, 2)


def same(one: np.ndarray[Any, Any], other: np.ndarray[Any, Any]) -> bool:
    if one.dtype == object:
        return one.shape == other.shape and one.tolist() == other.tolist()
    return (one.shape, one.dtype, one.tobytes()) == (other.shape, other.dtype, other.tobytes())


def answered(codec: TensorCodec, call: Any, tensor: np.ndarray[Any, Any]) -> Any:
    return message("ModelInferResponse").FromString(
        codec.encode(call, InferResponse({"y": tensor}))
    )


@given(tensors(), st.booleans(), st.text(max_size=10))
def test_a_tensor_comes_out_as_it_went_in_and_the_answer_is_written_as_the_question(
    tensor: tuple[str, np.ndarray[Any, Any]], raw: bool, identity: str
) -> None:
    kind, array = tensor
    raw = raw or kind == "FP16"
    if not raw and kind.startswith("FP"):  # a signalling NaN does not survive Python's own float
        array = np.nan_to_num(array)
    codec = TensorCodec("m", 3, signature(kind))
    call = codec.decode(put(asking(id=identity), kind, array, raw=raw).SerializeToString())
    assert same(call.request.tensors["x"], array)
    answer = answered(codec, call, call.request.tensors["x"])
    assert (answer.model_name, answer.model_version, answer.id) == ("m", "3", identity)
    (output,) = answer.outputs
    assert (output.name, output.datatype, list(output.shape)) == ("y", kind, list(array.shape))
    # A rows-of-nothing question holds no raw bytes to tell by.
    assert bool(answer.raw_output_contents) == raw
    again = message("ModelInferRequest")(model_name="m")
    given_back = again.inputs.add(name="x", datatype=kind, shape=output.shape)
    if raw:
        again.raw_input_contents.extend(answer.raw_output_contents)
    else:
        given_back.contents.CopyFrom(output.contents)
    assert same(codec.decode(again.SerializeToString()).request.tensors["x"], array)


@given(tensors())
def test_rest_reads_the_same_tensor(tensor: tuple[str, np.ndarray[Any, Any]]) -> None:
    kind, array = tensor
    if kind == "FP16" or (array.dtype.kind == "f" and not np.isfinite(array).all()):
        return  # JSON has no word for it
    body = {
        "inputs": [
            {
                "name": "x",
                "datatype": kind,
                "shape": list(array.shape),
                "data": array.ravel().tolist(),
            }
        ]
    }
    over_rest = oip_rest.TensorCodec("m", 3, signature(kind)).decode(json.dumps(body).encode())
    for raw in (True, False):
        over_grpc = TensorCodec("m", 3, signature(kind)).decode(
            put(asking(), kind, array, raw=raw).SerializeToString()
        )
        assert same(over_grpc.request.tensors["x"], over_rest.request.tensors["x"])


TWO = TensorSignature(
    (TensorSpec("a", DataType.FP32, (-1, 2)), TensorSpec("b", DataType.INT8, (2,))),
    (TensorSpec("y", DataType.FP32, (-1, 2)),),
)
A = {"name": "a", "datatype": "FP32", "shape": [1, 2], "data": [1, 2]}
B = {"name": "b", "datatype": "INT8", "shape": [2], "data": [1, 2]}


@pytest.mark.parametrize(
    "body",
    [
        {"inputs": []},
        {"inputs": [A]},
        {"inputs": [A, A, B]},
        {"inputs": [A, B, {**A, "name": "c"}]},
        {"inputs": [{**A, "datatype": "INT64"}, B]},
        {"inputs": [{**A, "shape": [2]}, B]},
        {"inputs": [{**A, "shape": [-1, 2]}, B]},
        {"inputs": [{**A, "shape": [1, 3]}, B]},
        {"inputs": [A, B], "outputs": [{"name": "z"}]},
        {"inputs": [A, B], "outputs": [{"name": "y"}, {"name": "y"}]},
    ],
)
def test_the_same_mistake_is_the_same_error_as_over_rest(body: dict[str, Any]) -> None:
    asked = asking()
    for one in body["inputs"]:
        given_ = asked.inputs.add(name=one["name"], datatype=one["datatype"], shape=one["shape"])
        getattr(given_.contents, FIELDS[one["datatype"]]).extend(one["data"])
    for one in body.get("outputs", ()):
        asked.outputs.add(name=one["name"])
    with pytest.raises(Refused) as over_rest:
        oip_rest.TensorCodec("m", 3, TWO).decode(json.dumps(body).encode())
    with pytest.raises(Refused) as over_grpc:
        TensorCodec("m", 3, TWO).decode(asked.SerializeToString())
    assert over_grpc.value.message == over_rest.value.message
    assert over_grpc.value.kind is Kind.INVALID


def put_parameters(parameters: Any, said: dict[str, Any]) -> None:
    for name, value in said.items():
        choice = {bool: "bool", int: "int64", str: "string", float: "double"}[type(value)]
        setattr(parameters[name], f"{choice}_param", value)


REGION = {"shared_memory_region": "r", "shared_memory_byte_size": 8}


@pytest.mark.parametrize(
    ("said", "of_input", "of_output", "words"),
    [
        ({}, {}, {}, None),
        ({"sequence_id": 7}, {}, {}, "sequences are not served"),
        ({"sequence_id": 7, "sequence_start": True, "sequence_end": True}, {}, {}, "sequences are not served"),
        ({"sequence_id": "seven"}, {}, {}, "sequences are not served"),
        ({"sequence_id": 0}, {}, {}, None),
        ({"sequence_id": "", "sequence_start": True}, {}, {}, None),
        ({}, REGION, {}, "a: shared memory is not served"),
        ({}, {"shared_memory_region": ""}, {}, "a: shared memory is not served"),
        ({}, {}, REGION, "output 'y': shared memory is not served"),
        ({}, {}, {**REGION, "classification": 1}, "output 'y': shared memory is not served"),
        ({"sequence_id": 1}, REGION, REGION, "sequences are not served"),
        ({}, REGION, REGION, "a: shared memory is not served"),
        ({}, {"shared_memory_byte_size": 8}, {"shared_memory_offset": 8}, None),
        ({"nobody": 1, "knows": "this", "one": True}, {"nor": "that"}, {"or": 1.5}, None),
        ({}, {}, {"classification": -1}, "output 'y': classification is -1"),
        ({"priority": 3, "timeout": 5}, {}, {"classification": 1}, None),
    ],
)  # fmt: skip
@pytest.mark.parametrize("raw", [True, False])
def test_parameters_are_honoured_or_refused_as_over_rest(
    said: dict[str, Any],
    of_input: dict[str, Any],
    of_output: dict[str, Any],
    words: str | None,
    *,
    raw: bool,
) -> None:
    asked = put(asking(), "FP32", np.array([[1, 2]], np.float32), raw=raw, name="a")
    put(asked, "INT8", np.array([1, 2], np.int8), raw=raw, name="b")
    put_parameters(asked.parameters, said)
    put_parameters(asked.inputs[0].parameters, of_input)
    put_parameters(asked.outputs.add(name="y").parameters, of_output)
    body = {
        "inputs": [{**A, "parameters": of_input}, B],
        "outputs": [{"name": "y", "parameters": of_output}],
        "parameters": said,
    }
    over_rest, over_grpc = oip_rest.TensorCodec("m", 3, TWO), TensorCodec("m", 3, TWO)
    if words is None:
        one = over_rest.decode(json.dumps(body).encode())
        other = over_grpc.decode(asked.SerializeToString())
        assert one.classes == other.classes
        assert one.request.priority == other.request.priority
        assert one.request.queue_seconds == other.request.queue_seconds
        return
    with pytest.raises(Refused, match=words) as there:
        over_rest.decode(json.dumps(body).encode())
    assert refusal(asked) == there.value.message


def test_what_lies_in_shared_memory_has_no_raw_contents() -> None:
    asked = put(asking(), "INT8", np.array([1, 2], np.int8), raw=True, name="b")
    elsewhere = asked.inputs.add(name="a", datatype="FP32", shape=[1, 2])
    put_parameters(elsewhere.parameters, REGION)
    assert refusal(asked).startswith("a: shared memory is not served")


def test_a_sequence_is_refused_whatever_its_name_is_written_as() -> None:
    asked = put(asking(), "FP32", np.ones((1, 2), np.float32), raw=True)
    for value in (True, 1.5):
        put_parameters(asked.parameters, {"sequence_id": value})
        assert refusal(asked, signature("FP32")).startswith("sequences are not served")
    asked.parameters["sequence_id"].uint64_param = 1 << 63
    assert refusal(asked, signature("FP32")).startswith("sequences are not served")
    asked.parameters["sequence_id"].Clear()
    TensorCodec("m", 3, signature("FP32")).decode(asked.SerializeToString())


def test_how_many_classes_is_a_whole_number() -> None:
    asked = put(asking(), "FP32", np.ones((1, 2), np.float32), raw=True)
    parameter = asked.outputs.add(name="y").parameters["classification"]
    parameter.string_param = "1"
    assert refusal(asked, signature("FP32")) == (
        "output 'y': classification is no whole number; send it as int64_param"
    )
    parameter.uint64_param = 2
    call = TensorCodec("m", 3, signature("FP32")).decode(asked.SerializeToString())
    assert call.classes == {"y": 2}


def refusal(asked: Any, about: TensorSignature = TWO) -> str:
    with pytest.raises(Refused) as caught:
        TensorCodec("m", 3, about).decode(asked.SerializeToString())
    assert caught.value.kind is Kind.INVALID
    return caught.value.message


def test_what_only_messages_can_say_wrong_is_told() -> None:
    one = np.array([[1, 2]], np.float32)
    two = np.array([1, 2], np.int8)
    both = put(put(asking(), "FP32", one, raw=True, name="a"), "INT8", two, raw=False, name="b")
    assert refusal(both) == ("raw_input_contents has 1 entries for 2 inputs; send one for each")
    both.raw_input_contents.append(b"12")
    assert refusal(both) == "b: has contents and raw_input_contents; send one of the two"
    short = put(
        put(asking(), "FP32", one[:, :1], raw=True, name="a"), "INT8", two, raw=True, name="b"
    )
    short.inputs[0].shape[:] = [1, 2]
    assert refusal(short).startswith("a: raw_input_contents has 4 bytes, a FP32 tensor of shape")
    wide = put(put(asking(), "FP32", one, raw=False, name="a"), "INT8", two, raw=False, name="b")
    wide.inputs[1].contents.int_contents[:] = [1, 300]
    assert refusal(wide) == "b: a number does not fit into INT8"
    wide.inputs[1].contents.int_contents[:] = [1]
    assert refusal(wide) == "b: contents holds 1 elements, shape [2] asks for 2"
    wide.inputs[1].contents.ClearField("int_contents")
    wide.inputs[1].contents.fp32_contents.extend([1, 2])
    assert refusal(wide) == (
        "b: the contents are in fp32_contents, those of INT8 belong in int_contents"
    )
    half = put(asking(), "FP16", np.ones((1, 2), np.float16), raw=True)
    half.ClearField("raw_input_contents")
    assert refusal(half, signature("FP16")) == (
        "x: FP16 has no typed contents; send it in raw_input_contents"
    )
    assert refusal(asking(model_version="2")) == "the message asks for version '2', this is 3"
    other = message("ModelInferRequest")(model_name="other")
    assert refusal(other) == "the message names the model 'other', this is 'm'"
    texts = put(asking(), "BYTES", np.array([["a", "b"]], dtype=object), raw=False)
    texts.inputs[0].contents.bytes_contents[1] = b"\xff"
    assert refusal(texts, signature("BYTES")) == "x: text 1 is not UTF-8"


@given(st.binary(max_size=200))
@effort(100)
def test_any_bytes_are_a_request_or_refused(body: bytes) -> None:
    with pytest.raises(Refused):
        TensorCodec("m", 3, TWO).decode(body)
    for method in (*oip_grpc_calls.METHODS, oip_grpc_calls.CHECK):
        try:
            verb, path = oip_grpc_calls.asks(method, body)
        except Refused as refused:
            assert refused.kind is Kind.INVALID
        else:
            assert verb in ("GET", "POST")
            assert path.startswith("/v2")
            assert not set(path) & set("?#%\\ ")
            assert ".." not in path.split("/")


def test_documents_travel_as_texts() -> None:
    codec = DocumentCodec("m", 3)
    asked = put(
        asking(), "BYTES", np.array(['{"a":1}', "{}"], dtype=object), raw=False, name="request"
    )
    call = codec.decode(asked.SerializeToString())
    assert call.texts == [b'{"a":1}', b"{}"]
    answer = message("ModelInferResponse").FromString(codec.encode(call, [b"1", b'"\xc3\xbc"']))
    assert list(answer.outputs[0].contents.bytes_contents) == [b"1", b'"\xc3\xbc"']
    put_parameters(asked.parameters, {"sequence_id": 7})
    with pytest.raises(Refused, match="sequences are not served"):
        codec.decode(asked.SerializeToString())
    del asked.parameters["sequence_id"]
    put_parameters(asked.inputs[0].parameters, REGION)
    with pytest.raises(Refused, match="request: shared memory is not served"):
        codec.decode(asked.SerializeToString())


@pytest.mark.parametrize(
    ("method", "status", "code", "body", "expected"),
    [
        ("ServerLive", 200, None, {"live": True}, (0, {"live": True})),
        ("ModelReady", 503, "unavailable", {"error": "starting"}, (0, {})),
        ("ModelReady", 404, "not_found", {"error": "no m"}, (0, {})),
        ("ModelReady", 403, "forbidden", {"error": "not with this key"}, (7, "not with this key")),
        ("ModelMetadata", 404, "not_found", {"error": "no m"}, (5, "no m")),
        ("ServerReady", 404, "not_found", {"error": "no page"}, (5, "no page")),
        ("ModelConfig", 200, None, {"name": "m", "max_batch_size": 4, "extra": 1}, (0, {"config": {"name": "m", "max_batch_size": 4}})),
        ("RepositoryIndex", 200, None, [{"name": "m", "state": "READY"}], (0, {"models": [{"name": "m", "state": "READY"}]})),
        ("ModelStatistics", 200, None, {"model_stats": [{"name": "m", "inference_count": 7}]}, (0, {"model_stats": [{"name": "m", "inference_count": "7"}]})),
        ("RepositoryModelLoad", 200, None, None, (0, {})),
        ("RepositoryModelUnload", 403, "forbidden", {"error": "not with this key"}, (7, "not with this key")),
        ("ModelMetadata", 401, None, {"message": "no key"}, (16, "no key")),
        ("ModelMetadata", 200, None, {"name": 5}, (13, None)),
        ("ModelMetadata", 200, None, {"model_stats": []}, (5, "Request for unknown model: 'stats' is not found")),
        ("ModelMetadata", 502, None, None, (13, "HTTP 502")),
        ("ModelMetadata", 502, None, {"why": "nobody knows"}, (13, "HTTP 502")),
        ("ModelMetadata", 502, None, ["nobody knows"], (13, "HTTP 502")),
        ("ModelMetadata", 502, None, b"<html>Bad Gateway</html>", (13, "HTTP 502")),
    ],
)  # fmt: skip
def test_an_http_answer_is_translated(
    method: str, status: int, code: str | None, body: Any, expected: tuple[int, Any]
) -> None:
    from google.protobuf.json_format import MessageToDict

    raw = body if isinstance(body, bytes) else b"" if body is None else json.dumps(body).encode()
    said = oip_grpc_calls.answer(method, status, code, raw)
    assert said.code == expected[0]
    if said.code == 0:
        found = message(f"{method}Response").FromString(said.body)
        assert MessageToDict(found, preserving_proto_field_name=True) == expected[1]
    elif expected[1] is not None:
        assert said.message == expected[1]


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("", "/v2/health/ready"),
        ("inference.GRPCInferenceService", "/v2/health/ready"),
        ("demo", "/v2/models/demo/ready"),
    ],
)
def test_a_health_check_asks_for_the_server_or_one_model(name: str, path: str) -> None:
    asked = message("ModelReadyRequest")(name=name).SerializeToString()  # field 1, as there
    assert oip_grpc_calls.asks(oip_grpc_calls.CHECK, asked) == ("GET", path)


def test_who_checks_the_health_of_what_is_not_there_is_told_so() -> None:
    body = json.dumps({"error": "no m"}).encode()
    said = oip_grpc_calls.answer(oip_grpc_calls.CHECK, 404, "not_found", body)
    assert (said.code, said.message) == (5, "no m")


def test_statistics_are_asked_of_one_model_or_of_all() -> None:
    def path(**asked: str) -> tuple[str, str]:
        body = message("ModelStatisticsRequest")(**asked).SerializeToString()
        return oip_grpc_calls.asks("ModelStatistics", body)

    assert path() == ("GET", "/v2/models/stats")
    assert path(name="m") == ("GET", "/v2/models/m/stats")
    assert path(name="m", version="2") == ("GET", "/v2/models/m/versions/2/stats")
    assert path(version="2") == ("GET", "/v2/models/stats")


@pytest.mark.parametrize(("method", "verb"), [("Load", "load"), ("Unload", "unload")])
def test_loading_and_unloading_ask_for_one_model(method: str, verb: str) -> None:
    name = f"RepositoryModel{method}"
    asked = message(f"{name}Request")(model_name="demo").SerializeToString()
    assert oip_grpc_calls.asks(name, asked) == ("POST", f"/v2/repository/models/demo/{verb}")


def test_a_question_becomes_the_json_that_asks_the_same() -> None:
    with pytest.raises(Refused, match="there is no method 'ModelSing'"):
        oip_grpc_calls.request_body("ModelSing", b"")
    load = message("RepositoryModelLoadRequest")(model_name="m")
    load.parameters["config"].string_param = "{}"
    assert json.loads(oip_grpc_calls.request_body("RepositoryModelLoad", load.SerializeToString()))[
        "parameters"
    ] == {"config": "{}"}
    index = message("RepositoryIndexRequest")(ready=True).SerializeToString()
    assert json.loads(oip_grpc_calls.request_body("RepositoryIndex", index)) == {"ready": True}


def test_every_kind_of_error_has_a_code() -> None:
    assert set(GRPC_STATUS) == set(Kind)
    assert encoded("50 % of ü\n") == "50 %25 of %C3%BC%0A"


@pytest.mark.parametrize("raw", [True, False])
def test_the_highest_classes_are_told_as_over_rest(*, raw: bool) -> None:
    labels = {"y": ("cat", "dog")}
    asked = put(asking(), "FP32", np.ones((2, 2), np.float32), raw=raw)
    asked.outputs.add(name="y").parameters["classification"].int64_param = 1
    codec = TensorCodec("m", 3, signature("FP32"), labels)
    call = codec.decode(asked.SerializeToString())
    scores = InferResponse({"y": np.array([[0.25, 0.75], [3, 2]], np.float32)})
    (output,) = (answer := codec.answer(call, scores)).outputs
    assert (output.datatype, list(output.shape)) == ("BYTES", [2, 1])
    over_rest = oip_rest.TensorCodec("m", 3, signature("FP32"), labels)
    body = {
        "inputs": [{"name": "x", "shape": [2, 2], "datatype": "FP32", "data": [1, 1, 1, 1]}],
        "outputs": [{"name": "y", "parameters": {"classification": 1}}],
    }
    told, _ = over_rest.encode(over_rest.decode(json.dumps(body).encode()), scores)
    texts = json.loads(told)["outputs"][0]["data"]
    assert texts == ["0.750000:1:dog", "3.000000:0:cat"]
    if raw:
        expected = b"".join(len(one).to_bytes(4, "little") + one.encode() for one in texts)
        assert list(answer.raw_output_contents) == [expected]
    else:
        assert list(output.contents.bytes_contents) == [one.encode() for one in texts]


@pytest.mark.parametrize("raw", [True, False])
def test_nan_and_infinity_are_numbers_in_messages(*, raw: bool) -> None:
    sent = np.array([[np.nan, -np.inf]], np.float32)
    codec = TensorCodec("m", 3, signature("FP32"))
    call = codec.decode(put(asking(), "FP32", sent, raw=raw).SerializeToString())
    answer = answered(codec, call, call.request.tensors["x"])
    found = (
        np.frombuffer(answer.raw_output_contents[0], np.float32)
        if raw
        else np.array(answer.outputs[0].contents.fp32_contents)
    )
    assert np.array_equal(found, sent[0], equal_nan=True)


def test_a_timeout_is_asked_for_as_over_rest() -> None:
    asked = put(asking(), "FP32", np.ones((1, 2), np.float32), raw=True)
    codec = TensorCodec("m", 3, signature("FP32"))
    assert codec.decode(asked.SerializeToString()).request.queue_seconds == 0
    asked.parameters["timeout"].int64_param = 2_500_000
    assert codec.decode(asked.SerializeToString()).request.queue_seconds == 2.5
    asked.parameters["timeout"].int64_param = -1
    assert refusal(asked, signature("FP32")).startswith("timeout is -1; write a whole number")
    asked.parameters["timeout"].string_param = "soon"
    assert refusal(asked, signature("FP32")).startswith("timeout is no whole number")


def test_a_priority_is_asked_for_as_over_rest() -> None:
    asked = put(asking(), "FP32", np.ones((1, 2), np.float32), raw=True)
    asked.parameters["priority"].uint64_param = 7
    codec = TensorCodec("m", 3, signature("FP32"))
    assert codec.decode(asked.SerializeToString()).request.priority == 7
    asked.parameters["priority"].uint64_param = 1000
    assert (
        refusal(asked, signature("FP32")) == "priority is 1000; write a whole number from 0 to 999"
    )
    asked.parameters["priority"].string_param = "high"
    assert refusal(asked, signature("FP32")) == (
        "priority is no whole number; send it as int64_param, from 0 to 999"
    )
    for count, kind in ((0, "FP32"), (1, "BYTES")):
        none = put(asking(), "FP32", np.ones((1, 2), np.float32), raw=True)
        none.outputs.add(name="y").parameters["classification"].int64_param = count
        about = TensorSignature(signature("FP32").inputs, signature(kind).outputs)
        assert refusal(none, about).startswith("output 'y': ")


def test_an_output_without_elements_has_contents_without_elements() -> None:
    codec = TensorCodec("m", 3, signature("FP32"))
    call = codec.call(put(asking(), "FP32", np.empty((0, 2), np.float32), raw=False))
    (output,) = codec.answer(call, InferResponse({"y": np.empty((0, 2), np.float32)})).outputs
    assert output.HasField("contents")
    assert list(output.shape) == [0, 2]
