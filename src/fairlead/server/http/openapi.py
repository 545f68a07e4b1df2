"""The OpenAPI document: the cold routes as FastAPI describes them, the hot ones as the models do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fairlead.api import speech_openapi
from fairlead.api.speech import speaks
from fairlead.api.worker import ServingSettings
from fairlead.domain.signature import (
    DocumentSignature,
    TensorSignature,
    TensorSpec,
    element_schema,
)
from fairlead.server.http import openapi_oip
from fairlead.server.http.routes import ServedRevision

_OPEN_ROUTES = {
    "/livez": "The process runs",
    "/healthz": "Everything that should serve does",
    "/metrics": "Metrics as OpenMetrics text",
    "/v2/health/live": "The process runs",
    "/v2/health/ready": "Every model here has proved itself",
}


_VERSION = {
    "name": "Accept-Version",
    "in": "header",
    "required": False,
    "schema": {"type": "string"},
    "description": "v9, v9.2 or latest",
}


def describe(
    document: dict[str, Any], served: Sequence[ServedRevision], settings: ServingSettings
) -> dict[str, Any]:
    """Add to FastAPI's document what FastAPI does not answer; `served` in the order of `in_order`."""
    paths: dict[str, Any] = document.setdefault("paths", {})
    components: dict[str, Any] = document.setdefault("components", {})
    components["securitySchemes"] = {
        "ApiKey": {
            "type": "apiKey",
            "in": "header",
            "name": "X-Api-Key",
            "description": "The gateway asks for it; a server without a gateway does not.",
        }
    }
    document["security"] = [{}, {"ApiKey": []}]  # this server takes both
    _add_refusals(paths)
    paths.update(openapi_oip.oip_paths(_refusals("4XX", "503"), _VERSION))
    schemas: dict[str, Any] = components.setdefault("schemas", {})
    for one in served:
        _add_model(paths, schemas, one, settings)
    health = dict(_OPEN_ROUTES)
    if settings.add_liveness:
        health[f"{settings.root}/live"] = "The process runs"
    if settings.add_readiness:
        health[f"{settings.root}/ready"] = "Every model here has proved itself"
    for path, summary in health.items():
        paths[path] = {
            "get": {
                "tags": ["health"],
                "summary": summary,
                "responses": {"200": {"description": "yes"}, "503": {"description": "no"}},
            }
        }
    return document


def _add_refusals(paths: Mapping[str, Any]) -> None:
    """FastAPI does not know what our error handler answers for a model that is not here."""
    for path, operations in paths.items():
        if "{" in path:
            for operation in operations.values():
                operation["responses"] |= _refusals("404")


def _refusals(*statuses: str) -> dict[str, Any]:
    texts = {"404": "No such model or version here", "4XX": "What is wrong with the request"}
    content = {"application/json": {"schema": {"oneOf": [_DETAIL, _ERROR]}}}
    return {
        status: {
            "description": texts.get(status, "What is wrong with the server or the model"),
            "content": content,
        }
        for status in statuses
    }


def _add_model(
    paths: dict[str, Any],
    schemas: dict[str, Any],
    served: ServedRevision,
    settings: ServingSettings,
) -> None:
    name = served.revision.service
    signature = served.artifact.model.signature
    if speaks(served.artifact.model):
        for endpoint in served.spec.endpoints:
            for path in endpoint.paths:
                paths[path] = speech_openapi.operations(path, endpoint.name, name)
        return
    if isinstance(signature, TensorSignature):
        request, response = _project_tensors(signature)
    else:
        request, response = _documents(
            signature, f"{name}.{served.revision.served_version}", schemas
        )
    sample = {"example": served.artifact.example} if served.artifact.example is not None else {}
    predict = _operation(name, "project API", f"Ask {name}", (request, response), sample)
    if settings.add_model_predict:
        paths[f"{settings.root}/model/{name}/predict"] = {"post": predict}
    for endpoint in served.spec.endpoints:
        for path in endpoint.paths:
            paths[path] = {"post": {**predict, "operationId": f"{name}{path}"}}
    infer = _operation(
        name,
        "Open Inference Protocol",
        f"Ask {name}",
        (openapi_oip.REQUEST, openapi_oip.RESPONSE),
        {},
    )
    paths[f"/v2/models/{name}/infer"] = {"post": infer}


def _operation(
    name: str,
    tag: str,
    summary: str,
    schemas: tuple[Mapping[str, Any], Mapping[str, Any]],
    sample: Mapping[str, Any],
) -> dict[str, Any]:
    request, response = schemas
    return {
        "tags": [tag],
        "summary": summary,
        "operationId": f"{name} {tag}",
        "parameters": [_VERSION],
        "requestBody": {
            "required": True,
            "content": {"application/json": {"schema": request, **sample}},
        },
        "responses": {
            "200": {
                "description": "The answer",
                "content": {"application/json": {"schema": response}},
            },
            **_refusals("4XX", "5XX"),
        },
    }


def _project_tensors(signature: TensorSignature) -> tuple[dict[str, Any], dict[str, Any]]:
    return (
        _rows("instances", signature.inputs),
        _rows("predictions", signature.outputs),
    )


def _rows(key: str, specs: Sequence[TensorSpec]) -> dict[str, Any]:
    rows = {spec.name: _nested(spec) for spec in specs}
    row = next(iter(rows.values())) if len(rows) == 1 else _object(rows)
    return _object({key: {"type": "array", "items": row, "minItems": 1}})


def _object(properties: Mapping[str, Any]) -> dict[str, Any]:
    return {"type": "object", "properties": dict(properties), "required": list(properties)}


def _nested(spec: TensorSpec) -> dict[str, Any]:
    """One row of a tensor: nested arrays for the dimensions after the first."""
    schema = element_schema(spec.datatype)
    for size in reversed(spec.shape[1:]):
        schema = {"type": "array", "items": schema}
        if size >= 0:
            schema |= {"minItems": size, "maxItems": size}
    return schema


def _documents(
    signature: DocumentSignature, prefix: str, schemas: dict[str, Any]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The models' own schemas, their definitions moved to where OpenAPI looks for them."""
    return (
        _moved(signature.request, f"{prefix}.request", schemas),
        _moved(signature.response, f"{prefix}.response", schemas),
    )


def _moved(schema: Mapping[str, Any], prefix: str, schemas: dict[str, Any]) -> dict[str, Any]:
    for name, definition in schema.get("$defs", {}).items():
        schemas[f"{prefix}.{name}"] = _rewritten(definition, prefix)
    rest = {key: value for key, value in schema.items() if key != "$defs"}
    schemas[prefix] = _rewritten(rest, prefix)
    return {"$ref": f"#/components/schemas/{prefix}"}


def _rewritten(value: Any, prefix: str) -> Any:  # noqa: ANN401 - any part of a JSON schema
    if isinstance(value, Mapping):
        return {
            key: f"#/components/schemas/{prefix}.{item.removeprefix('#/$defs/')}"
            if key == "$ref" and isinstance(item, str)
            else _rewritten(item, prefix)
            for key, item in value.items()
        }
    if isinstance(value, list):
        return [_rewritten(item, prefix) for item in value]
    return value


_DETAIL = _object({"detail": {"type": ["string", "array"], "items": {"type": "object"}}})
_ERROR = _object({"error": {"type": "string"}})
