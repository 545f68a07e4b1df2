"""The Open Inference Protocol, version 2, over REST (S1-G 40), with the binary tensor extension.

Every mistake of a caller is an INVALID error that says what was wrong and what would be right; the
transport answers it as 400 `{"error": …}`. A model that takes documents shows one BYTES input `request`
and one BYTES output `response`, each [N], whose elements are JSON texts.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated

import msgspec
import numpy as np

from fairlead.api.inference import InferRequest, InferResponse, Tensor
from fairlead.api.pieces import (
    LARGE_BYTES,
    encoded_in_pieces,
    flat_in_pieces,
    nested_in_pieces,
)
from fairlead.api.tensors import array_of, list_type, not_finite, numbers, shape_problem
from fairlead.dialects.json_bodies import NotJson, place, read
from fairlead.dialects.oip_binary import (
    Body,
    chunk,
    only_input,
    put_together,
    split,
    tensor_from_binary,
    tensor_of_all,
    tensor_to_binary,
)
from fairlead.dialects.oip_classes import class_problem, highest
from fairlead.dialects.oip_model import DOCUMENTS
from fairlead.domain.errors import FairleadError, Kind, Refused
from fairlead.domain.signature import (
    DataType,
    TensorSignature,
    TensorSpec,
)

LOWEST_PRIORITY = 999  # the last level that may be asked for
LONGEST_TIMEOUT = (1 << 63) - 1  # microseconds; what longer ones mean nobody would live to see
_NO_DATA = msgspec.Raw()
_NESTED = re.compile(rb"\[[ \t\r\n]*\[").match  # however far it is indented
NO_SEQUENCES = (
    "sequences are not served: nothing is kept from one request to the next; leave sequence_id out"
)
NO_SHARED_MEMORY = "shared memory is not served: tensors travel in the request and in the answer"


class _TensorParameters(msgspec.Struct, gc=False):
    binary_data_size: int | None = None
    binary_data: bool | None = None
    classification: int | None = None
    shared_memory_region: str | None = None


_NO_PARAMETERS = _TensorParameters()


class _Input(msgspec.Struct, gc=False):
    name: str
    shape: list[int]
    datatype: str
    data: msgspec.Raw = _NO_DATA
    parameters: _TensorParameters | None = None


class _Output(msgspec.Struct, gc=False):
    name: str
    parameters: _TensorParameters | None = None


class _Parameters(msgspec.Struct, gc=False):
    binary_data_output: bool = False
    sequence_id: int | str | None = None
    priority: Annotated[int, msgspec.Meta(ge=0, le=LOWEST_PRIORITY)] = 0
    timeout: Annotated[int, msgspec.Meta(ge=0, le=LONGEST_TIMEOUT)] = 0  # microseconds


class _Body(msgspec.Struct, gc=False):
    inputs: list[_Input]
    id: str | None = None
    parameters: _Parameters | None = None
    outputs: list[_Output] | None = None


_body_decoder = msgspec.json.Decoder(_Body)


@dataclass(slots=True)
class Call:
    """A decoded request, and what its answer must look like.

    `binary` names outputs wanted as bytes; `classes` says of how many of an output's elements, the highest, texts
    are wanted instead of all of it.
    """

    request: InferRequest
    id: str | None
    binary: frozenset[str]
    classes: Mapping[str, int] = field(default_factory=dict)


class _InputPlan:
    """What one input of a model must be, with its decoders."""

    __slots__ = ("flat", "nested", "spec")

    def __init__(self, spec: TensorSpec) -> None:
        self.spec = spec
        rank = len(spec.shape)
        self.flat = msgspec.json.Decoder(list_type(spec, (-1,)))
        self.nested = msgspec.json.Decoder(list_type(spec, (-1,) * max(rank, 1)))

    def tensor(self, given: _Input, binary: memoryview | None) -> Tensor:
        spec = self.spec
        if given.datatype != spec.datatype:
            message = f"{spec.name}: datatype {given.datatype!r:.40} does not fit, the model takes {spec.datatype}"
            raise Refused(Kind.INVALID, message)
        problem = shape_problem(spec, given.shape)
        if problem is not None:
            raise Refused(Kind.INVALID, problem)
        if binary is not None:
            return tensor_from_binary(spec, given.shape, binary)
        return self._from_json(given)

    def _from_json(self, given: _Input) -> Tensor:
        spec, shape = self.spec, given.shape
        raw = memoryview(given.data)
        nested = len(shape) > 1 and _NESTED(raw) is not None
        array = self._in_pieces(raw, len(shape) if nested else 1)
        if array is None:
            array = self._at_once(raw, nested=nested)
        if array.size != math.prod(shape):
            message = f"{spec.name}: data holds {array.size} elements, shape {shape} asks for {math.prod(shape)}"
            raise Refused(Kind.INVALID, message)
        if nested and array.size and list(array.shape) != shape:
            message = f"{spec.name}: data is nested as {list(array.shape)}, shape says {shape}"
            raise Refused(Kind.INVALID, message)
        return array.reshape(shape)

    def _in_pieces(self, raw: memoryview, rank: int) -> Tensor | None:
        """What is large, so that other threads get their turn; None for what is small, or wrong."""
        if len(raw) <= LARGE_BYTES:
            return None
        if rank == 1:
            return flat_in_pieces(self.spec, raw)
        return nested_in_pieces(self.spec, raw, rank)

    def _at_once(self, raw: memoryview, *, nested: bool) -> Tensor:
        spec = self.spec
        try:
            values = read(self.nested if nested else self.flat, raw)
        except msgspec.ValidationError as error:
            text, path = place(error)
            where = "".join(f"[{step}]" for step in path)
            message = f"{spec.name}: data{where}: {text}".replace("`", "'")
            raise Refused(Kind.INVALID, message) from None
        except NotJson as error:  # the outer parse passes over the texts in here
            message = f"{spec.name}: data is not JSON: {error.why} (byte {error.at} of it)"
            raise Refused(Kind.INVALID, message) from None
        return array_of(spec, values)


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
        self._inputs = {spec.name: _InputPlan(spec) for spec in signature.inputs}
        self._outputs = {spec.name: spec for spec in signature.outputs}
        quoted = msgspec.json.encode
        self._head = b'{"model_name":%b,"model_version":%b,' % (quoted(name), quoted(str(version)))
        self._output_heads = {
            spec.name: _output_head(spec.name, spec.datatype) for spec in signature.outputs
        }

    def decode(self, body: bytes, header_length: bytes | None = None) -> Call:
        """Read a request; `header_length` is the header Inference-Header-Content-Length, if sent."""
        text, binary = split(body, header_length)
        if binary is not None and not text:
            name = only_input(list(self._inputs))
            tensors = {name: tensor_of_all(self._inputs[name].spec, binary)}
            return Call(InferRequest(tensors), None, frozenset(self._outputs))
        try:
            parsed = read(_body_decoder, text)
        except NotJson as error:
            raise Refused(
                Kind.INVALID, f"the body is not JSON: {error.why} (byte {error.at})"
            ) from None
        except msgspec.ValidationError as error:
            raise Refused(Kind.INVALID, _sentence(error)) from None
        every = False
        request = InferRequest()
        said = parsed.parameters
        if said is not None:
            every = said.binary_data_output
            request.priority, request.queue_seconds = said.priority, said.timeout / 1e6
            if said.sequence_id:
                raise Refused(Kind.INVALID, NO_SEQUENCES)
        request.tensors = self._tensors(parsed.inputs, binary)
        if parsed.outputs:
            return self._wanted(parsed.outputs, request, parsed.id, every=every)
        return Call(request, parsed.id, frozenset(self._outputs) if every else frozenset())

    def encode(self, call: Call, response: InferResponse) -> tuple[Body, int | None]:
        """The answer's bytes, in pieces if it is large; with binary outputs, also how many of them are JSON."""
        parts, blobs = [], []
        for name, tensor in response.tensors.items():
            head = self._output_heads[name]
            if name in call.classes:
                spec, labels = self._outputs[name], self._labels.get(name, ())
                tensor = highest(spec, tensor, call.classes[name], labels)  # noqa: PLW2901 - it takes its place
                head = _output_head(name, DataType.BYTES)
            shape = msgspec.json.encode(tensor.shape)
            if name in call.binary:
                blob = tensor_to_binary(tensor)
                blobs.append(blob)
                tail = b',"parameters":{"binary_data_size":%d}}' % len(blob)
            else:
                tail = b',"data":%b}' % self._json(name, tensor, call.request)
            parts.append(head + shape + tail)
        identity = b'"id":%b,' % msgspec.json.encode(call.id) if call.id else b""
        text = b'%b%b"outputs":[%b]}' % (self._head, identity, b",".join(parts))
        return (put_together([text, *blobs]), len(text)) if blobs else (text, None)

    def _json(self, name: str, tensor: Tensor, asked: InferRequest) -> bytes:
        if tensor.dtype == np.uint16:
            tensor = numbers(self._outputs[name].datatype, tensor)
        data = encoded_in_pieces(tensor.ravel())
        if b"null" in data and tensor.dtype.kind == "f":
            message = f"output {name} holds NaN or infinity, which JSON cannot carry: ask for it with the parameter binary_data"
            given = {
                name: numbers(self._inputs[name].spec.datatype, one)
                for name, one in asked.tensors.items()
            }
            raise not_finite(given, message)
        return data

    def _tensors(self, inputs: list[_Input], binary: memoryview | None) -> dict[str, Tensor]:
        tensors: dict[str, Tensor] = {}
        at = 0
        for given in inputs:
            plan = self._inputs.get(given.name)
            if plan is None:
                raise Refused(Kind.INVALID, unknown("input", given.name, self._inputs))
            if given.name in tensors:
                raise Refused(
                    Kind.INVALID, f"input {given.name!r} is given twice; send each input once"
                )
            size = None
            if given.parameters is not None:
                size = given.parameters.binary_data_size
                if given.parameters.shared_memory_region is not None:
                    raise Refused(Kind.INVALID, f"{given.name}: {NO_SHARED_MEMORY}")
            if size is None:
                if not memoryview(given.data):
                    raise Refused(Kind.INVALID, f"{given.name}: data is missing")
                tensors[given.name] = plan.tensor(given, None)
                continue
            tensors[given.name] = plan.tensor(given, _blob(given, size, binary, at))
            at += size
        if len(tensors) != len(self._inputs):
            missing = [name for name in self._inputs if name not in tensors]
            message = f"input {missing[0]!r} is missing; the model takes {listed(self._inputs)}"
            raise Refused(Kind.INVALID, message)
        if binary is not None and at != len(binary):
            message = (
                f"{len(binary)} bytes follow the JSON, the inputs' binary_data_size sum to {at}"
            )
            raise Refused(Kind.INVALID, message)
        return tensors

    def _wanted(
        self,
        outputs: list[_Output],
        request: InferRequest,
        asked: str | None,
        *,
        every: bool,
    ) -> Call:
        names: list[str] = []
        binary = set()
        classes: dict[str, int] = {}
        for output in outputs:
            spec = self._outputs.get(output.name)
            if spec is None:
                raise Refused(Kind.INVALID, unknown("output", output.name, self._outputs))
            if output.name in names:
                message = f"output {output.name!r} is asked for twice; name each output once"
                raise Refused(Kind.INVALID, message)
            names.append(output.name)
            parameters = output.parameters or _NO_PARAMETERS
            if every if parameters.binary_data is None else parameters.binary_data:
                binary.add(output.name)
            if output.parameters is not None:
                _check_output(spec, output.parameters)
                if output.parameters.classification is not None:
                    classes[output.name] = output.parameters.classification
        request.outputs = tuple(names)
        return Call(request, asked, frozenset(binary), classes)


@dataclass(slots=True)
class DocumentCall:
    """The documents of one request, in order, each to be answered on its own."""

    texts: list[bytes]
    call: Call


class DocumentCodec:
    """The protocol for one model that takes documents."""

    def __init__(self, name: str, version: int) -> None:
        self.signature = DOCUMENTS
        self._tensors = TensorCodec(name, version, DOCUMENTS)

    def decode(self, body: bytes, header_length: bytes | None = None) -> DocumentCall:
        call = self._tensors.decode(body, header_length)
        return DocumentCall(texts_of(call.request), call)

    def encode(self, asked: DocumentCall, answers: Sequence[bytes]) -> tuple[Body, int | None]:
        return self._tensors.encode(asked.call, texts_to_response(answers))


def texts_of(request: InferRequest) -> list[bytes]:
    """The documents in a request of `DOCUMENTS`."""
    return [text.encode() for text in request.tensors["request"]]


def texts_to_response(answers: Sequence[bytes]) -> InferResponse:
    """Answered documents as a response of `DOCUMENTS`."""
    tensor = np.empty(len(answers), dtype=object)
    tensor[:] = [answer.decode() for answer in answers]
    return InferResponse({"response": tensor})


def error_body(error: FairleadError) -> bytes:
    return msgspec.json.encode({"error": error.message})


def _output_head(name: str, datatype: str) -> bytes:
    """Everything of an output that does not depend on the answer."""
    quoted = msgspec.json.encode
    return b'{"name":%b,"datatype":%b,"shape":' % (quoted(name), quoted(datatype))


def _blob(given: _Input, size: int, binary: memoryview | None, at: int) -> memoryview:
    if memoryview(given.data):
        message = f"{given.name}: has data and binary_data_size; send one of the two"
        raise Refused(Kind.INVALID, message)
    return chunk(given.name, size, binary, at)


def _check_output(spec: TensorSpec, parameters: _TensorParameters) -> None:
    if parameters.shared_memory_region is not None:
        raise Refused(Kind.INVALID, f"output {spec.name!r}: {NO_SHARED_MEMORY}")
    if parameters.classification is not None:
        problem = class_problem(spec, parameters.classification)
        if problem is not None:
            raise Refused(Kind.INVALID, problem)


def _sentence(error: msgspec.ValidationError) -> str:
    text, path = place(error)
    where = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in path).lstrip(
        "."
    )
    return (f"{where}: {text}" if where else text).replace("`", "'")


def unknown(side: str, name: str, known: Mapping[str, object]) -> str:
    return f"unknown {side} {name!r:.80}; the model's {side}s are {listed(known)}"


def listed(names: Mapping[str, object]) -> str:
    return ", ".join(repr(name) for name in names)
