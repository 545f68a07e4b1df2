"""The Open Inference Protocol, version 2, over gRPC: messages to requests, responses to messages (S1-G 41).

The same rules and the same words as over REST (oip_rest.py); the frames, the codes and the connection are the
transport's. Tensors come as raw bytes (`raw_input_contents`, one for each input) or typed (`contents`), and
the answer is written the way the question was, except that FP16 and BF16 exist only as raw bytes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from google.protobuf.message import DecodeError

from fairlead.api.inference import NUMPY_TYPES, InferRequest, InferResponse, Tensor
from fairlead.api.oip_messages import message
from fairlead.api.tensors import shape_problem
from fairlead.dialects.oip_binary import tensor_from_binary, tensor_to_binary
from fairlead.dialects.oip_classes import class_problem, highest
from fairlead.dialects.oip_model import DOCUMENTS
from fairlead.dialects.oip_rest import (
    LONGEST_TIMEOUT,
    LOWEST_PRIORITY,
    NO_SEQUENCES,
    NO_SHARED_MEMORY,
    listed,
    texts_of,
    texts_to_response,
    unknown,
)
from fairlead.domain.errors import Kind, Refused
from fairlead.domain.signature import DataType, TensorSignature, TensorSpec

# Where the elements of each type stand in `InferTensorContents`.
_CONTENTS: Mapping[DataType, str] = {
    DataType.BOOL: "bool_contents",
    DataType.INT8: "int_contents",
    DataType.INT16: "int_contents",
    DataType.INT32: "int_contents",
    DataType.INT64: "int64_contents",
    DataType.UINT8: "uint_contents",
    DataType.UINT16: "uint_contents",
    DataType.UINT32: "uint_contents",
    DataType.UINT64: "uint64_contents",
    DataType.FP32: "fp32_contents",
    DataType.FP64: "fp64_contents",
    DataType.BYTES: "bytes_contents",
}
_CHOICE = "parameter_choice"  # the one of a parameter's fields that is set
_WHOLE = frozenset({"int64_param", "uint64_param"})  # of a parameter's value
# Types that are narrower than their field, which therefore can hold too large a number.
_NARROW = frozenset({DataType.INT8, DataType.INT16, DataType.UINT8, DataType.UINT16})


def _number(parameters: Any, name: str) -> int | None:  # noqa: ANN401 - of a message
    """A parameter's value if it is a whole number, else None."""
    given = parameters[name]
    if given.WhichOneof(_CHOICE) not in _WHOLE:
        return None
    return int(given.uint64_param or given.int64_param)


def _whole(parameters: Any, name: str, most: int) -> int:  # noqa: ANN401 - of a ModelInferRequest
    """A parameter that is a whole number, 0 if it is not there, as over REST; raises Refused (INVALID)."""
    if name not in parameters:
        return 0
    number = _number(parameters, name)
    if number is None:
        message = f"{name} is no whole number; send it as int64_param, from 0 to {most}"
        raise Refused(Kind.INVALID, message)
    if not 0 <= number <= most:
        message = f"{name} is {number}; write a whole number from 0 to {most}"
        raise Refused(Kind.INVALID, message)
    return number


def _is_given(parameters: Any, name: str) -> bool:  # noqa: ANN401 - of a message
    """Does a parameter say anything but 0 or an empty text, whatever it is written as?"""
    if name not in parameters:  # asking for it would put it there
        return False
    given = parameters[name]
    choice = given.WhichOneof(_CHOICE)
    return choice is not None and bool(getattr(given, choice))


def _shared_memory(place: str, tensor: Any) -> None:  # noqa: ANN401 - of a ModelInferRequest
    """Refuse a tensor that is said to lie, or is wanted, in memory that both sides share."""
    if "shared_memory_region" in tensor.parameters:
        raise Refused(Kind.INVALID, f"{place}: {NO_SHARED_MEMORY}")


def read_request(body: bytes) -> Any:  # noqa: ANN401 - a ModelInferRequest, whose class is made at run time
    """The bytes of a ModelInferRequest; raises Refused (INVALID)."""
    try:
        return _request_class.FromString(body)
    except DecodeError:
        raise Refused(Kind.INVALID, "the message is not a ModelInferRequest") from None


@dataclass(slots=True)
class Call:
    """A decoded request, and what its answer must look like."""

    request: InferRequest
    id: str
    raw: bool
    classes: Mapping[str, int] = field(
        default_factory=dict
    )  # outputs asked for as their highest elements


class TensorCodec:
    """The protocol for one model that takes tensors. `version` is the artifact's; `labels` of classes, by output."""

    def __init__(
        self,
        name: str,
        version: int,
        signature: TensorSignature,
        labels: Mapping[str, Sequence[str]] | None = None,
    ) -> None:
        self.signature = signature
        self._labels = labels or {}
        self._name = name
        self._version = str(version)
        self._inputs = {spec.name: spec for spec in signature.inputs}
        self._outputs = {spec.name: spec for spec in signature.outputs}
        self._only_raw = any(spec.datatype not in _CONTENTS for spec in signature.outputs)

    def decode(self, body: bytes) -> Call:
        """Read a request; raises Refused (INVALID)."""
        return self.call(read_request(body))

    def call(self, asked: Any) -> Call:  # noqa: ANN401 - a ModelInferRequest
        """The call in a message that is parsed already; raises Refused (INVALID)."""
        self._check_model(asked)
        request, raw = InferRequest(), asked.raw_input_contents
        said = asked.parameters
        if said:
            request.priority = _whole(said, "priority", LOWEST_PRIORITY)
            request.queue_seconds = _whole(said, "timeout", LONGEST_TIMEOUT) / 1e6
            if _is_given(said, "sequence_id"):
                raise Refused(Kind.INVALID, NO_SEQUENCES)
        request.tensors = self._tensors(asked.inputs, raw)
        if not asked.outputs:
            return Call(request, asked.id, bool(raw))
        classes = self._wanted(asked.outputs)
        request.outputs = tuple(classes)
        only = {name: count for name, count in classes.items() if count}
        return Call(request, asked.id, bool(raw), only)

    def encode(self, call: Call, response: InferResponse) -> bytes:
        """The bytes of a ModelInferResponse."""
        return bytes(self.answer(call, response).SerializeToString())

    def answer(self, call: Call, response: InferResponse) -> Any:  # noqa: ANN401 - a ModelInferResponse
        """The answer as a message."""
        answer = _response_class(model_name=self._name, model_version=self._version, id=call.id)
        raw = call.raw or self._only_raw
        outputs, blobs = answer.outputs, answer.raw_output_contents
        for name, tensor in response.tensors.items():
            spec = self._outputs[name]
            if name in call.classes:
                labels = self._labels.get(name, ())
                tensor = highest(spec, tensor, call.classes[name], labels)  # noqa: PLW2901 - it takes its place
                spec = TensorSpec(name, DataType.BYTES, spec.shape)
            output = outputs.add(name=name, datatype=spec.datatype, shape=tensor.shape)
            if raw:
                blobs.append(bytes(tensor_to_binary(tensor)))
            else:
                _fill(output.contents, spec, tensor)
        return answer

    def _check_model(self, asked: Any) -> None:  # noqa: ANN401 - a ModelInferRequest
        """The gateway routes by the first name in the message; whoever writes two is told."""
        if asked.model_name != self._name:
            problem = (
                f"the message names the model {asked.model_name!r:.80}, this is {self._name!r}"
            )
            raise Refused(Kind.INVALID, problem)
        if asked.model_version and asked.model_version != self._version:
            problem = (
                f"the message asks for version {asked.model_version!r:.80}, this is {self._version}"
            )
            raise Refused(Kind.INVALID, problem)

    def _tensors(self, given: Any, raw: Any) -> dict[str, Tensor]:  # noqa: ANN401 - of a ModelInferRequest
        blobs: Sequence[bytes | None] = raw or (None,) * len(given)
        if len(blobs) != len(given):
            for one in given:  # what lies elsewhere has no entry: then that is the mistake
                _shared_memory(one.name, one)
            problem = f"raw_input_contents has {len(raw)} entries for {len(given)} inputs; send one for each"
            raise Refused(Kind.INVALID, problem)
        tensors: dict[str, Tensor] = {}
        for one, blob in zip(given, blobs, strict=True):
            spec = self._inputs.get(one.name)
            if spec is None:
                raise Refused(Kind.INVALID, unknown("input", one.name, self._inputs))
            if spec.name in tensors:
                problem = f"input {spec.name!r} is given twice; send each input once"
                raise Refused(Kind.INVALID, problem)
            _shared_memory(spec.name, one)
            tensors[spec.name] = _tensor(spec, one, blob)
        if len(tensors) != len(self._inputs):
            missing = next(name for name in self._inputs if name not in tensors)
            problem = f"input {missing!r} is missing; the model takes {listed(self._inputs)}"
            raise Refused(Kind.INVALID, problem)
        return tensors

    def _wanted(self, outputs: Any) -> dict[str, int]:  # noqa: ANN401 - of a ModelInferRequest
        """The outputs by name, each with how many of its highest elements are asked for; 0 for all as they are."""
        wanted: dict[str, int] = {}
        for output in outputs:
            if output.name not in self._outputs:
                raise Refused(Kind.INVALID, unknown("output", output.name, self._outputs))
            if output.name in wanted:
                problem = f"output {output.name!r} is asked for twice; name each output once"
                raise Refused(Kind.INVALID, problem)
            _shared_memory(f"output {output.name!r}", output)
            wanted[output.name] = self._classes(output)
        return wanted

    def _classes(self, output: Any) -> int:  # noqa: ANN401 - of a ModelInferRequest
        if "classification" not in output.parameters:
            return 0
        count = _number(output.parameters, "classification")
        if count is None:
            wrong: str | None = (
                f"output {output.name!r}: classification is no whole number; send it as int64_param"
            )
        else:
            wrong = class_problem(self._outputs[output.name], count)
        if wrong is not None:
            raise Refused(Kind.INVALID, wrong)
        return count or 0


@dataclass(slots=True)
class DocumentCall:
    """The documents of one request, in order, each to be answered on its own."""

    texts: list[bytes]
    call: Call


class DocumentCodec:
    """The protocol for one model that takes documents: JSON texts in `request`, in `response`."""

    def __init__(self, name: str, version: int) -> None:
        self.signature = DOCUMENTS
        self._tensors = TensorCodec(name, version, DOCUMENTS)

    def decode(self, body: bytes) -> DocumentCall:
        call = self._tensors.decode(body)
        return DocumentCall(texts_of(call.request), call)

    def encode(self, asked: DocumentCall, answers: Sequence[bytes]) -> bytes:
        return self._tensors.encode(asked.call, texts_to_response(answers))


def _tensor(spec: TensorSpec, given: Any, blob: bytes | None) -> Tensor:  # noqa: ANN401 - an InferInputTensor
    if given.datatype != spec.datatype:
        problem = f"{spec.name}: datatype {given.datatype!r:.40} does not fit, the model takes {spec.datatype}"
        raise Refused(Kind.INVALID, problem)
    shape = tuple(given.shape)
    wrong = shape_problem(spec, shape)
    if wrong is not None:
        raise Refused(Kind.INVALID, wrong)
    if blob is None:
        return _typed(spec, shape, given)
    if given.HasField("contents"):
        problem = f"{spec.name}: has contents and raw_input_contents; send one of the two"
        raise Refused(Kind.INVALID, problem)
    kind = None if spec.datatype is DataType.BYTES else NUMPY_TYPES.get(spec.datatype)
    if kind is not None and len(blob) != (size := math.prod(shape) * kind.itemsize):
        problem = f"{spec.name}: raw_input_contents has {len(blob)} bytes, a {spec.datatype} tensor of shape {list(shape)} has {size}"
        raise Refused(Kind.INVALID, problem)
    return tensor_from_binary(spec, shape, memoryview(blob))


def _typed(spec: TensorSpec, shape: tuple[int, ...], given: Any) -> Tensor:  # noqa: ANN401 - an InferInputTensor
    field = _CONTENTS.get(spec.datatype)
    if field is None:
        problem = (
            f"{spec.name}: {spec.datatype} has no typed contents; send it in raw_input_contents"
        )
        raise Refused(Kind.INVALID, problem)
    others = [one.name for one, _ in given.contents.ListFields() if one.name != field]
    if others:
        problem = f"{spec.name}: the contents are in {others[0]}, those of {spec.datatype} belong in {field}"
        raise Refused(Kind.INVALID, problem)
    values = getattr(given.contents, field)
    count = math.prod(shape)
    if len(values) != count:
        problem = f"{spec.name}: contents holds {len(values)} elements, shape {list(shape)} asks for {count}"
        raise Refused(Kind.INVALID, problem)
    if spec.datatype is DataType.BYTES:
        return _texts(spec, values).reshape(shape)
    kind = NUMPY_TYPES[spec.datatype]
    if spec.datatype in _NARROW:
        wide = np.fromiter(values, np.int64, count)
        narrow = wide.astype(kind)
        if (wide != narrow).any():
            problem = f"{spec.name}: a number does not fit into {spec.datatype}"
            raise Refused(Kind.INVALID, problem)
        return narrow.reshape(shape)
    return np.fromiter(values, kind, count).reshape(shape)


def _texts(spec: TensorSpec, values: Sequence[bytes]) -> Tensor:
    array = np.empty(len(values), dtype=object)
    for index, value in enumerate(values):
        try:
            array[index] = value.decode()
        except UnicodeDecodeError:
            raise Refused(Kind.INVALID, f"{spec.name}: text {index} is not UTF-8") from None
    return array


def _fill(contents: Any, spec: TensorSpec, tensor: Tensor) -> None:  # noqa: ANN401 - an InferTensorContents
    values = tensor.ravel().tolist()
    if spec.datatype is DataType.BYTES:
        values = [str(value).encode() for value in values]
    getattr(contents, _CONTENTS[spec.datatype]).extend(values)
    contents.SetInParent()


_request_class = message("ModelInferRequest")
_response_class = message("ModelInferResponse")
