"""The project API (S3-A): `{"instances": […]}` to `{"predictions": […]}`, or the model's own documents.

For tensors, an instance is one row: the value itself if the model has one input, else an object by input
name; predictions likewise. For documents the body is the model's request and the answer its response.
Schema errors, malformed JSON included, are SchemaMismatch, shown the way FastAPI shows them.
"""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
import numpy as np

from fairlead.api.inference import InferRequest, InferResponse, Tensor, Tensors
from fairlead.api.packed import FloatRows
from fairlead.api.pieces import (
    LARGE_BYTES,
    LARGE_ELEMENTS,
    array_in_pieces,
    encoded_in_pieces,
    groups,
)
from fairlead.api.tensors import array_of, list_type, not_finite, numbers
from fairlead.dialects.json_bodies import NotJson, field_error, read
from fairlead.domain.errors import FairleadError, FieldError, Kind, Refused, SchemaMismatch
from fairlead.domain.signature import (
    DataType,
    DocumentSignature,
    Signature,
    TensorSignature,
    TensorSpec,
)


class TensorCodec:
    """The project API for one model that takes tensors."""

    def __init__(self, signature: TensorSignature) -> None:
        self._inputs = signature.inputs
        self._scalars = [spec.name for spec in signature.inputs if not spec.shape]
        self._several_outputs = len(signature.outputs) > 1
        instance = _instance_type(signature.inputs)
        self._floats = (
            FloatRows(signature.inputs[0])
            if len(signature.inputs) == 1 and FloatRows.fit(signature.inputs[0])
            else None
        )
        self._bits = [spec for spec in signature.outputs if spec.datatype is DataType.BF16]
        self._decoder: msgspec.json.Decoder[Any] = msgspec.json.Decoder(_body_type(instance))
        self._rows: msgspec.json.Decoder[Any] = msgspec.json.Decoder(
            list.__class_getitem__(instance)
        )

    def decode(self, body: bytes) -> InferRequest:
        """The instances of a body as tensors of a row each; raises SchemaMismatch, or Refused (INVALID) where none has rows."""
        if self._floats is not None and len(body) <= LARGE_BYTES:
            rows = self._floats.read(body)
            if rows is not None:
                return InferRequest({self._inputs[0].name: rows})
        if self._scalars:
            message = f"input {self._scalars[0]!r} has no batch dimension, so it has no instances; use /v2/models/…/infer"
            raise Refused(Kind.INVALID, message)
        large = self._in_pieces(body) if len(body) > LARGE_BYTES else None
        if large is not None:
            return large
        try:
            instances = read(self._decoder, body).instances
        except NotJson as error:
            raise SchemaMismatch([json_invalid(error)]) from None
        except msgspec.ValidationError as error:
            raise SchemaMismatch([field_error(error)]) from None
        if len(self._inputs) == 1:
            return InferRequest({self._inputs[0].name: _column(self._inputs[0], instances)})
        return InferRequest(self._columns(instances))

    def _in_pieces(self, body: bytes) -> InferRequest | None:
        """The same of a large body, so that other threads get their turn; None if anything is wrong with it."""
        try:
            raws = _raw_decoder.decode(body).instances
        except (msgspec.MsgspecError, ValueError, RecursionError):
            return None
        if not raws:
            return None
        if len(self._inputs) == 1:
            spec = self._inputs[0]
            array = array_in_pieces(spec, raws, spec.shape[1:])
            return None if array is None else InferRequest({spec.name: array})
        try:
            parts = [self._columns(self._rows.decode(piece)) for piece in groups(raws)]
            names = [spec.name for spec in self._inputs]
            return InferRequest(
                {name: np.concatenate([one[name] for one in parts]) for name in names}
            )
        except (msgspec.MsgspecError, FairleadError, ValueError, RecursionError):
            return None

    def _columns(self, rows: list[Any]) -> dict[str, Tensor]:
        return {
            spec.name: _column(spec, [getattr(row, f"f{index}") for row in rows])
            for index, spec in enumerate(self._inputs)
        }

    def encode(self, request: InferRequest, response: InferResponse) -> bytes:
        """The answer; raises FairleadError (MODEL) if an output has no row per instance."""
        tensors = self._readable(response) if self._bits else response.tensors
        count = len(next(iter(request.tensors.values())))
        for name, tensor in tensors.items():
            if tensor.ndim == 0 or len(tensor) != count:
                message = f"output {name} has shape {list(tensor.shape)}, not a row per instance; use /v2/models/…/infer"
                raise Refused(Kind.MODEL, message)
        if self._several_outputs:
            data = _rows_of(tensors, count)
        else:
            data = encoded_in_pieces(next(iter(tensors.values())))
        if b"null" in data and any(_not_finite(tensor) for tensor in tensors.values()):
            message = "the answer holds NaN or infinity, which JSON cannot carry: use /v2/models/…/infer with binary_data"
            given = request.tensors
            raise not_finite(
                {one.name: numbers(one.datatype, given[one.name]) for one in self._inputs}, message
            )
        return b'{"predictions":%b}' % data

    def _readable(self, response: InferResponse) -> Tensors:
        tensors = response.tensors
        for spec in self._bits:
            tensors = {**tensors, spec.name: numbers(spec.datatype, tensors[spec.name])}
        return tensors


def example_body(signature: Signature, request: Any) -> Any:  # noqa: ANN401 - JSON values
    """A golden example's request as a caller of this API would send it; None if it cannot be sent so."""
    if isinstance(signature, DocumentSignature):
        return request
    if any(not spec.shape for spec in signature.inputs):
        return None
    columns = [request[spec.name] for spec in signature.inputs]
    if len(columns) == 1:
        return {"instances": columns[0]}
    names = [spec.name for spec in signature.inputs]
    rows = zip(*columns, strict=False)
    return {"instances": [dict(zip(names, row, strict=True)) for row in rows]}


def json_invalid(error: NotJson) -> FieldError:
    return FieldError((error.at,), f"JSON decode error: {error.why}", "json_invalid")


def error_body(error: FairleadError) -> bytes:
    """`{"detail": [{"loc": ["body", …], "msg", "type"}]}` for schema errors, else `{"detail": message}`."""
    if isinstance(error, SchemaMismatch):
        detail: Any = [
            {"loc": ["body", *problem.loc], "msg": problem.msg, "type": problem.type}
            for problem in error.errors
        ]
        return msgspec.json.encode({"detail": detail})
    return msgspec.json.encode({"detail": error.message})


def _rows_of(tensors: Tensors, count: int) -> bytes:
    """A JSON list of one object per row, some rows at a time."""
    size = sum(tensor.size for tensor in tensors.values())
    step = max(1, LARGE_ELEMENTS * count // size) if size > LARGE_ELEMENTS else max(1, count)
    pieces = []
    for start in range(0, count, step):
        columns = [tensor[start : start + step].tolist() for tensor in tensors.values()]
        rows = [dict(zip(tensors, row, strict=True)) for row in zip(*columns, strict=True)]
        pieces.append(msgspec.json.encode(rows)[1:-1])
    return b"[" + b",".join(pieces) + b"]"


class _RawBody(msgspec.Struct, gc=False):
    instances: list[msgspec.Raw]


_raw_decoder = msgspec.json.Decoder(_RawBody)


def _instance_type(inputs: tuple[TensorSpec, ...]) -> Any:  # noqa: ANN401 - a type for msgspec
    types = [list_type(spec, spec.shape[1:]) for spec in inputs]
    return types[0] if len(inputs) == 1 else _row_type(inputs, types)


def _body_type(instance: Any) -> Any:  # noqa: ANN401 - types for msgspec
    several: Any = list.__class_getitem__(instance)
    several = Annotated[several, msgspec.Meta(min_length=1)]
    return msgspec.defstruct("Body", [("instances", several)], gc=False)


def _row_type(inputs: tuple[TensorSpec, ...], types: list[Any]) -> Any:  # noqa: ANN401 - a type for msgspec
    """Tensor names need not be identifiers, so the fields are numbered and renamed."""
    return msgspec.defstruct(
        "Instance",
        [(f"f{index}", kind) for index, kind in enumerate(types)],
        rename={f"f{index}": spec.name for index, spec in enumerate(inputs)},
        forbid_unknown_fields=True,
        gc=False,
    )


def _column(spec: TensorSpec, rows: list[Any]) -> Tensor:
    try:
        return array_of(spec, rows)
    except Refused as error:
        raise SchemaMismatch([FieldError(("instances",), error.message, "value_error")]) from None


def _not_finite(tensor: Tensor) -> bool:
    return (
        tensor.dtype.kind == "f" and "null" in msgspec.json.encode(tensor.ravel().tolist()).decode()
    )
