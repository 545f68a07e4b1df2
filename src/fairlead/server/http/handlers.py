"""A dialect at one endpoint, in one form for all: bytes to requests, responses to bytes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, Protocol

from fairlead.api.inference import InferRequest, InferResponse, Model, Tensor
from fairlead.dialects import oip_rest, project
from fairlead.dialects.oip_binary import Body
from fairlead.domain.signature import DataType, DocumentSignature, TensorSignature

if TYPE_CHECKING:
    from fairlead.dialects import oip_grpc

Headers = Mapping[bytes, bytes]
Answer = tuple[Body, int | None]  # the body, and how much of it is JSON if not all

HEADER_LENGTH = b"inference-header-content-length"
_MOST_DIGITS = 11  # of a length: more than any body
_CLASS = 32  # elements that are written while one class is: a text with a number in it
_SORTED = 2  # classes that are written while a row is sorted
_LOOKED_AT = (DataType.BYTES, DataType.BOOL)  # as bytes, element by element


def joined(body: Body) -> bytes:
    """In one piece, for who cannot write several."""
    return b"".join(body) if isinstance(body, tuple) else body


def size_of(body: Body) -> int:
    """In bytes."""
    return sum(map(len, body)) if isinstance(body, tuple) else len(body)


class Handler(Protocol):
    """`decode` gives the requests of one call, and what `encode` must remember of it."""

    splits: bool  # may a body be JSON and bytes behind it? Then it may be any buffer

    def decode(self, body: bytes, headers: Headers) -> tuple[Sequence[InferRequest], Any]:
        """Raises FairleadError."""
        ...

    def encode(self, call: Any, responses: Sequence[InferResponse]) -> Answer:  # noqa: ANN401 - the handler's own
        """Raises FairleadError."""
        ...

    def parsed(self, body: bytes, headers: Headers) -> int:
        """How many bytes of a body `decode` would read one by one: what it costs."""
        ...

    def elements(self, call: Any, responses: Sequence[InferResponse]) -> int:  # noqa: ANN401 - as above
        """How many elements `encode` would write one by one: what it costs."""
        ...


class _Text:
    """What all dialects share whose bodies are read, and answers written, element by element."""

    splits = False

    def parsed(self, body: bytes, headers: Headers) -> int:
        del headers  # whatever they say of bytes behind JSON
        return len(body)

    def elements(self, call: Any, responses: Sequence[InferResponse]) -> int:  # noqa: ANN401 - the handler's own
        del call
        return sum(tensor.size for one in responses for tensor in one.tensors.values())


def _written(tensor: Tensor, classes: int) -> int:
    """What it costs to write a tensor, or so many classes of each of its rows, in elements."""
    if not classes:
        return tensor.size
    rows = max(1, len(tensor)) if tensor.ndim > 1 else 1
    return tensor.size + _CLASS * rows * (min(classes, tensor.size // rows) + _SORTED)


def project_handler(model: Model) -> Handler:
    if isinstance(model.signature, DocumentSignature):
        return _ProjectDocuments(model)
    return _ProjectTensors(project.TensorCodec(model.signature))


def oip_handler(
    model: Model, name: str, version: int, labels: Mapping[str, Sequence[str]] | None = None
) -> Handler:
    """`labels` name an output's elements, for the classification extension."""
    if isinstance(model.signature, DocumentSignature):
        return _OipDocuments(model, oip_rest.DocumentCodec(name, version))
    return _OipTensors(oip_rest.TensorCodec(name, version, model.signature, labels))


def grpc_handler(
    model: Model, name: str, version: int, labels: Mapping[str, Sequence[str]]
) -> Handler:
    """The same over gRPC: bare messages, without frames."""
    if isinstance(model.signature, DocumentSignature):
        return _GrpcDocuments(model, name, version)
    return _GrpcTensors(model.signature, name, version, labels)


class _ProjectTensors(_Text):
    def __init__(self, codec: project.TensorCodec) -> None:
        self._codec = codec

    def decode(self, body: bytes, headers: Headers) -> tuple[Sequence[InferRequest], InferRequest]:
        del headers
        request = self._codec.decode(body)
        return (request,), request

    def encode(self, call: InferRequest, responses: Sequence[InferResponse]) -> Answer:
        return self._codec.encode(call, responses[0]), None


class _ProjectDocuments(_Text):
    def __init__(self, model: Model) -> None:
        self._model = model

    def decode(self, body: bytes, headers: Headers) -> tuple[Sequence[InferRequest], None]:
        del headers
        return (InferRequest(document=self._model.parse_document(body), text=body),), None

    def encode(self, call: None, responses: Sequence[InferResponse]) -> Answer:
        del call
        return self._model.dump_document(responses[0].document), None


class _OipTensors:
    splits = True

    def __init__(self, codec: oip_rest.TensorCodec) -> None:
        self._codec = codec
        # Texts have lengths of their own, and whether a BOOL is one is looked at.
        self._looks = any(spec.datatype in _LOOKED_AT for spec in codec.signature.inputs)

    def decode(self, body: bytes, headers: Headers) -> tuple[Sequence[InferRequest], oip_rest.Call]:
        call = self._codec.decode(body, headers.get(HEADER_LENGTH))
        return (call.request,), call

    def encode(self, call: oip_rest.Call, responses: Sequence[InferResponse]) -> Answer:
        return self._codec.encode(call, responses[0])

    def parsed(self, body: bytes, headers: Headers) -> int:
        said = headers.get(HEADER_LENGTH, b"")
        if self._looks or not said.isdigit() or len(said) > _MOST_DIGITS:
            return len(body)
        return int(said)

    def elements(self, call: oip_rest.Call, responses: Sequence[InferResponse]) -> int:
        return sum(
            _written(tensor, call.classes.get(name, 0))
            for one in responses
            for name, tensor in one.tensors.items()
            if name not in call.binary or name in call.classes or tensor.dtype.hasobject
        )


class _OipDocuments(_Text):
    splits = True

    def __init__(self, model: Model, codec: oip_rest.DocumentCodec) -> None:
        self._model = model
        self._codec = codec

    def decode(
        self, body: bytes, headers: Headers
    ) -> tuple[Sequence[InferRequest], oip_rest.DocumentCall]:
        call = self._codec.decode(body, headers.get(HEADER_LENGTH))
        return _documents(call.call.request, self._model, call.texts), call

    def encode(self, call: oip_rest.DocumentCall, responses: Sequence[InferResponse]) -> Answer:
        dump = self._model.dump_document
        return self._codec.encode(call, [dump(response.document) for response in responses])


def _documents(asked: InferRequest, model: Model, texts: Iterable[bytes]) -> Sequence[InferRequest]:
    """One request for each document of a call; what the call says of itself holds for each."""
    return [
        InferRequest(
            document=model.parse_document(text),
            text=text,
            priority=asked.priority,
            queue_seconds=asked.queue_seconds,
        )
        for text in texts
    ]


class _GrpcTensors(_Text):
    """Its codec is made for the first call: protobuf costs a worker nothing that nobody asks over gRPC."""

    def __init__(
        self,
        signature: TensorSignature,
        name: str,
        version: int,
        labels: Mapping[str, Sequence[str]],
    ) -> None:
        self._about = name, version, signature, labels

    @cached_property
    def codec(self) -> oip_grpc.TensorCodec:
        from fairlead.dialects.oip_grpc import TensorCodec  # noqa: PLC0415 - see above

        return TensorCodec(*self._about)

    def decode(self, body: bytes, headers: Headers) -> tuple[Sequence[InferRequest], oip_grpc.Call]:
        del headers
        call = self.codec.decode(body)
        return (call.request,), call

    def encode(self, call: oip_grpc.Call, responses: Sequence[InferResponse]) -> Answer:
        return self.codec.encode(call, responses[0]), None

    def elements(self, call: oip_grpc.Call, responses: Sequence[InferResponse]) -> int:
        return sum(
            _written(tensor, call.classes.get(name, 0))
            for one in responses
            for name, tensor in one.tensors.items()
        )


class _GrpcDocuments(_Text):
    def __init__(self, model: Model, name: str, version: int) -> None:
        self._model = model
        self._about = name, version

    @cached_property
    def codec(self) -> oip_grpc.DocumentCodec:
        from fairlead.dialects.oip_grpc import DocumentCodec  # noqa: PLC0415 - as above

        return DocumentCodec(*self._about)

    def decode(
        self, body: bytes, headers: Headers
    ) -> tuple[Sequence[InferRequest], oip_grpc.DocumentCall]:
        del headers
        call = self.codec.decode(body)
        return _documents(call.call.request, self._model, call.texts), call

    def encode(self, call: oip_grpc.DocumentCall, responses: Sequence[InferResponse]) -> Answer:
        dump = self._model.dump_document
        return self.codec.encode(call, [dump(response.document) for response in responses]), None
