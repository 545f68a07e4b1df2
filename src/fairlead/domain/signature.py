"""What a model takes and gives: named, typed, shaped tensors, or a request and a response schema."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from fairlead.domain.reading import Node


class DataType(StrEnum):
    """Element types, as the Open Inference Protocol writes them (S1-G 37)."""

    BOOL = "BOOL"
    UINT8 = "UINT8"
    UINT16 = "UINT16"
    UINT32 = "UINT32"
    UINT64 = "UINT64"
    INT8 = "INT8"
    INT16 = "INT16"
    INT32 = "INT32"
    INT64 = "INT64"
    FP16 = "FP16"
    FP32 = "FP32"
    FP64 = "FP64"
    BF16 = "BF16"
    BYTES = "BYTES"


_LARGEST_FLOATS = {
    "FP16": 65504.0,
    "BF16": 3.3895313892515355e38,
    "FP32": 3.4028234663852886e38,
}


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """One tensor: its name, element type and shape. -1 is a dimension the caller chooses."""

    name: str
    datatype: DataType
    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class TensorSignature:
    """Named tensors in, named tensors out, in the model's order."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]


@dataclass(frozen=True, slots=True)
class DocumentSignature:
    """A typed request and response, each as a JSON Schema."""

    request: Mapping[str, Any] = field(default_factory=dict)
    response: Mapping[str, Any] = field(default_factory=dict)


Signature = TensorSignature | DocumentSignature


def element_schema(datatype: DataType) -> dict[str, Any]:
    """JSON Schema of one element, as callers write it."""
    if datatype is DataType.BYTES:
        return {"type": "string"}
    if datatype is DataType.BOOL:
        return {"type": "boolean"}
    kind, bits = datatype.rstrip("0123456789"), int(datatype.lstrip("UINTBFP"))
    if kind == "UINT":
        return {"type": "integer", "minimum": 0, "maximum": 2**bits - 1}
    if kind == "INT":
        return {"type": "integer", "minimum": -(2 ** (bits - 1)), "maximum": 2 ** (bits - 1) - 1}
    largest = _LARGEST_FLOATS.get(datatype)
    return {"type": "number"} | ({"minimum": -largest, "maximum": largest} if largest else {})


def signature_to_json(signature: Signature) -> dict[str, Any]:
    """A signature as the manifest holds it."""
    if isinstance(signature, DocumentSignature):
        return {
            "kind": "document",
            "request": dict(signature.request),
            "response": dict(signature.response),
        }
    return {
        "kind": "tensors",
        "inputs": [_spec_to_json(spec) for spec in signature.inputs],
        "outputs": [_spec_to_json(spec) for spec in signature.outputs],
    }


def signature_from_json(node: Node) -> Signature:
    """Read a signature; problems are noted on the node."""
    if not node.mapping():
        return DocumentSignature()
    if node.child("kind").one_of(["tensors", "document"]) == "document":
        return DocumentSignature(_schema(node.child("request")), _schema(node.child("response")))
    return TensorSignature(
        tuple(_spec_from_json(spec) for spec in node.child("inputs").elements()),
        tuple(_spec_from_json(spec) for spec in node.child("outputs").elements()),
    )


def _schema(node: Node) -> Mapping[str, Any]:
    return node.value if node.value is not None and node.mapping() else {}


def _spec_to_json(spec: TensorSpec) -> dict[str, Any]:
    return {"name": spec.name, "datatype": str(spec.datatype), "shape": list(spec.shape)}


def _spec_from_json(node: Node) -> TensorSpec:
    node.mapping(["name", "datatype", "shape"], ["name", "datatype", "shape"])
    return TensorSpec(
        node.child("name").text(),
        DataType(node.child("datatype").one_of([str(kind) for kind in DataType])),
        tuple(size.integer(-1) for size in node.child("shape").elements()),
    )
