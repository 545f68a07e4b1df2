"""`/openapi.json`: one document for every service, from the signatures in the artifacts' manifests.

A service's schemas are those of the revision that `latest` means, because that is what a reader tries first.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from fairlead.api.speech_openapi import operations
from fairlead.domain.errors import FairleadError
from fairlead.domain.ids import LATEST
from fairlead.domain.layout import Home
from fairlead.domain.manifest import MANIFEST, Manifest, manifest_from_bytes
from fairlead.domain.signature import (
    DataType,
    DocumentSignature,
    Signature,
    TensorSpec,
    element_schema,
)
from fairlead.domain.table import RevisionRoute, RoutingTable, ServiceRoute
from fairlead.domain.versions import natural_key
from fairlead.gateway.settings import GatewaySettings

Document = dict[str, Any]

_SPEECH = "speech"  # the engine whose models have an API of their own
_SECURITY: list[Document] = [{"key": []}]
_REFUSALS = {
    "400": "Something is wrong with the request",
    "401": "No key, or a wrong one",
    "403": "Not for this key, or the key is switched off",
    "404": "No such version",
    "405": "Another method",
    "413": "The body is too large",
    "422": "Not what the model's schema asks for",
    "429": "Over the key's quota: Retry-After says when to try again",
    "431": "The headers are too large",
    "500": "The model failed",
    "503": "Not ready, switched off, or overloaded",
    "504": "No answer in time",
}
# A model of documents shows its requests and responses as texts (BYTES), each a JSON document.
_DOCUMENTS: Mapping[str, tuple[TensorSpec, ...]] = {
    "request": (TensorSpec("request", DataType.BYTES, (-1,)),),
    "response": (TensorSpec("response", DataType.BYTES, (-1,)),),
}


class Manifests:
    """The manifests of the artifacts on this node; each is read once, because none ever changes."""

    def __init__(self, home: Home[Path]) -> None:
        self._home = home
        self._known: dict[str, Manifest] = {}

    def of(self, digest: str) -> Manifest | None:
        """None if the artifact is not here (yet)."""
        if digest not in self._known:
            path = self._home.artifact(digest) / MANIFEST
            try:
                self._known[digest] = manifest_from_bytes(path.read_bytes(), str(path))
            except (OSError, FairleadError):
                return None
        return self._known[digest]


def openapi_document(
    table: RoutingTable, manifest_of: Callable[[str], Manifest | None], settings: GatewaySettings
) -> Document:
    """The whole document."""
    schemas: Document = {"Error": _object({"message": {"type": "string"}})}
    schemas["ModelError"] = _object(
        {"detail": {"type": ["string", "array"], "items": {"type": "object"}}}
    )
    schemas["OpenInferenceError"] = _object({"error": {"type": "string"}})
    paths: Document = _of_all()
    for name in sorted(table.services):
        service = table.services[name]
        shown = _shown(service)
        manifest = manifest_of(shown.digest) if shown else None
        if shown is not None and manifest is not None and manifest.engine == _SPEECH:
            paths.update(_speech_paths(service, shown))
            continue
        paths.update(_service_paths(service, manifest, schemas, table.api_version))
    return {
        "openapi": "3.1.0",
        "info": {"title": settings.name, "version": settings.version},
        "paths": paths,
        "components": {
            "schemas": schemas,
            "securitySchemes": {"key": {"type": "apiKey", "in": "header", "name": "X-Api-Key"}},
        },
    }


def _of_all() -> Document:
    """What the Open Inference Protocol tells of every model that a key may read."""

    def operation(what: str, answer: Document) -> Document:
        return {
            "summary": what,
            "tags": ["Open Inference Protocol"],
            "security": _SECURITY,
            "responses": {"200": _content("The answer", answer), **_refusals("OpenInferenceError")},
        }

    index = operation("Every model and its state", {"type": "array", "items": {"type": "object"}})
    asked = {"type": "object", "properties": {"ready": {"type": "boolean"}}}
    index["requestBody"] = {"required": False, **_content("Which models", asked)}
    return {
        "/v2/models/stats": {"get": operation("Every model's statistics", {"type": "object"})},
        "/v2/repository/index": {"post": index},
    }


def _shown(service: ServiceRoute) -> RevisionRoute | None:
    line = service.lines.get(service.pin)
    if line is None or not line.revisions:
        return None
    shares = [share.tag for share in line.traffic if share.percent]
    tags = shares or sorted(line.revisions, key=natural_key)
    return line.revisions[tags[-1]]


def _service_paths(
    service: ServiceRoute, manifest: Manifest | None, schemas: Document, api_version: str
) -> Document:
    name = service.name
    request, response = _project_schemas(name, manifest.signature if manifest else None, schemas)
    infer_request, infer_response = _inference_schemas(name, manifest, schemas)
    root = f"/{api_version}/model" if api_version else "/model"
    parameters = [_version_parameter(service), _sticky_parameter()]

    def operation(what: str, answer: Document, body: Document | None = None) -> Document:
        dialect = "OpenInferenceError" if "OIP" in what else "Error"
        found: Document = {
            "summary": what,
            "tags": [name],
            "parameters": parameters,
            "security": _SECURITY,
            "responses": {"200": _content("The answer", answer), **_refusals(dialect)},
        }
        if body is not None:
            found["requestBody"] = {"required": True, **_content("What to answer", body)}
        return found

    anything: Document = {"type": "object"}
    return {
        f"{root}/{name}/predict": {"post": operation("Predict", response, request)},
        f"{root}/{name}/bio": {"get": operation("What the model says of itself", anything)},
        f"/v2/models/{name}": {"get": operation("Metadata (OIP)", anything)},
        f"/v2/models/{name}/config": {"get": operation("Configuration (OIP)", anything)},
        f"/v2/models/{name}/stats": {"get": operation("Statistics (OIP)", anything)},
        f"/v2/models/{name}/ready": {"get": operation("Is it ready? (OIP)", anything)},
        f"/v2/models/{name}/infer": {
            "post": operation("Infer (OIP)", infer_response, infer_request)
        },
    }


def _speech_paths(service: ServiceRoute, shown: RevisionRoute) -> Document:
    """A speech model has paths of its own only."""
    parameters = [_version_parameter(service), _sticky_parameter()]
    ours = {status: {"description": text} for status, text in _REFUSALS.items()}
    found: Document = {}
    for endpoint in shown.endpoints:
        for path in endpoint.paths:
            found[path] = {
                method: {
                    **operation,
                    "parameters": [*parameters, *operation.get("parameters", [])],
                    "responses": {**ours, **operation["responses"]},
                    "security": _SECURITY,
                }
                for method, operation in operations(path, endpoint.name, service.name).items()
            }
    return found


def _version_parameter(service: ServiceRoute) -> Document:
    return {
        "name": "Accept-Version",
        "in": "header",
        "required": False,
        "description": "a line follows its traffic, a version is exactly that revision",
        "schema": {"type": "string", "enum": [LATEST, *service.versions()]},
    }


def _sticky_parameter() -> Document:
    return {
        "name": "X-Sticky-Key",
        "in": "header",
        "required": False,
        "description": "the same key gets the same revision of a split",
        "schema": {"type": "string"},
    }


def _refusals(dialect: str) -> Document:
    """What the gateway or the model says instead: in the project API each in its own shape."""
    error = _ref(dialect)
    if dialect == "Error":
        error = {"oneOf": [error, _ref("ModelError")]}
    return {status: _content(text, error) for status, text in _REFUSALS.items()}


def _project_schemas(
    service: str, signature: Signature | None, schemas: Document
) -> tuple[Document, Document]:
    """The project API (S3-A 3): the model's own documents, or instances and predictions."""
    if signature is None:
        return {"type": "object"}, {"type": "object"}
    if isinstance(signature, DocumentSignature):
        request = _adopt(f"{service}.request", signature.request, schemas)
        return request, _adopt(f"{service}.response", signature.response, schemas)
    rows = {"instances": signature.inputs, "predictions": signature.outputs}
    request, response = (
        _object({key: {"type": "array", "items": _row(specs), "minItems": 1}})
        for key, specs in rows.items()
    )
    return request, response


def _row(specs: tuple[TensorSpec, ...]) -> Document:
    if len(specs) == 1:
        return _nested(specs[0], specs[0].shape[1:])
    return _object({spec.name: _nested(spec, spec.shape[1:]) for spec in specs})


def _inference_schemas(
    service: str, manifest: Manifest | None, schemas: Document
) -> tuple[Document, Document]:
    """The Open Inference Protocol (S1-G 40)."""
    signature = manifest.signature if manifest else None
    if signature is None:
        return {"type": "object"}, {"type": "object"}
    inputs, outputs = _DOCUMENTS["request"], _DOCUMENTS["response"]
    if not isinstance(signature, DocumentSignature):
        inputs, outputs = signature.inputs, signature.outputs
    schemas[f"{service}.infer"] = _object(
        {"id": {"type": "string"}, "inputs": _tensors(inputs)}, ["inputs"]
    )
    schemas[f"{service}.inferred"] = _object(
        {
            "model_name": {"type": "string"},
            "model_version": {"type": "string"},
            "id": {"type": "string"},
            "outputs": _tensors(outputs),
        },
        ["model_name", "outputs"],
    )
    return _ref(f"{service}.infer"), _ref(f"{service}.inferred")


def _tensors(specs: tuple[TensorSpec, ...]) -> Document:
    tensors = [
        _object(
            {
                "name": {"const": spec.name},
                "datatype": {"const": str(spec.datatype)},
                "shape": {"type": "array", "items": {"type": "integer"}, "example": _shape(spec)},
                "data": {"type": "array", "items": {}},
            }
        )
        for spec in specs
    ]
    items = tensors[0] if len(tensors) == 1 else {"anyOf": tensors}
    return {"type": "array", "items": items, "minItems": 1}


def _shape(spec: TensorSpec) -> list[int]:
    return [size if size > 0 else 1 for size in spec.shape]


def _nested(spec: TensorSpec, shape: tuple[int, ...]) -> Document:
    if not shape:
        return element_schema(spec.datatype)
    size = {"minItems": shape[0], "maxItems": shape[0]} if shape[0] >= 0 else {}
    return {"type": "array", "items": _nested(spec, shape[1:]), **size}


def _adopt(name: str, schema: Mapping[str, Any], schemas: Document) -> Document:
    """Take a schema into the document; its own definitions move along, and so do the references to them."""
    moved = _with_refs(dict(schema), f"#/components/schemas/{name}.")
    for key, definition in moved.pop("$defs", {}).items():
        schemas[f"{name}.{key}"] = definition
    schemas[name] = moved
    return _ref(name)


def _with_refs(value: Any, prefix: str) -> Any:  # noqa: ANN401 - a JSON value
    if isinstance(value, list):
        return [_with_refs(one, prefix) for one in value]
    if not isinstance(value, Mapping):
        return value
    return {
        key: prefix + one.removeprefix("#/$defs/")
        if key == "$ref" and isinstance(one, str) and one.startswith("#/$defs/")
        else _with_refs(one, prefix)
        for key, one in value.items()
    }


def _object(properties: Document, required: list[str] | None = None) -> Document:
    names = list(properties) if required is None else required
    return {"type": "object", "properties": properties, "required": names}


def _ref(name: str) -> Document:
    return {"$ref": f"#/components/schemas/{name}"}


def _content(description: str, schema: Document) -> Document:
    return {"description": description, "content": {"application/json": {"schema": schema}}}
