"""The Open Inference Protocol's part of the OpenAPI document."""

from __future__ import annotations

from typing import Any

_TAG = "Open Inference Protocol"
_READ = {
    "": "A model's tensors",
    "/config": "A model's configuration",
    "/stats": "What a model has answered, and how long it took",
    "/ready": "Is a model ready?",
}


def oip_paths(refusals: dict[str, Any], versions: dict[str, Any]) -> dict[str, Any]:
    """Every path of the protocol but inference. `refusals`: the answers that are errors; `versions`: the header."""
    paths: dict[str, Any] = {
        "/v2": {"get": _operation("The server and its extensions", refusals)},
        "/v2/models/stats": {"get": _operation("Every model's statistics", refusals)},
        "/v2/repository/index": {
            "post": _operation(
                "Every model and its state",
                refusals,
                body={
                    "type": "object",
                    "properties": {"ready": {"type": "boolean", "description": "only those"}},
                },
                answer={"type": "array", "items": {"type": "object"}},
            )
        },
    }
    for action in ("load", "unload"):
        operation = _operation(
            f"{action.capitalize()} a model (one process without a gateway only)",
            refusals,
            body={"type": "object", "properties": {"parameters": {"type": "object"}}},
        )
        operation["parameters"] = [_in_path("m")]
        paths[f"/v2/repository/models/{{m}}/{action}"] = {"post": operation}
    for base, names in (("/v2/models/{m}", "m"), ("/v2/models/{m}/versions/{v}", "mv")):
        for action, summary in _READ.items():
            operation = _operation(summary, refusals)
            operation["parameters"] = [*map(_in_path, names), versions]
            paths[f"{base}{action}"] = {"get": operation}
    return paths


def _operation(
    summary: str,
    refusals: dict[str, Any],
    body: dict[str, Any] | None = None,
    answer: dict[str, Any] | None = None,
) -> dict[str, Any]:
    content = {"application/json": {"schema": answer or {"type": "object"}}}
    operation: dict[str, Any] = {
        "tags": [_TAG],
        "summary": summary,
        "responses": {"200": {"description": "The answer", "content": content}, **refusals},
    }
    if body is not None:
        operation["requestBody"] = {"content": {"application/json": {"schema": body}}}
    return operation


def _in_path(name: str) -> dict[str, Any]:
    return {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}


def _object(properties: dict[str, Any]) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": list(properties)}


_TENSOR = _object(
    {
        "name": {"type": "string"},
        "shape": {"type": "array", "items": {"type": "integer"}},
        "datatype": {"type": "string"},
        "data": {"type": "array", "items": {}},
    }
)
REQUEST = {
    "type": "object",
    "required": ["inputs"],
    "properties": {
        "id": {"type": "string"},
        "parameters": {"type": "object"},
        "inputs": {"type": "array", "items": _TENSOR},
        "outputs": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["name"],
                "properties": {
                    "name": {"type": "string"},
                    "parameters": {
                        "type": "object",
                        "properties": {
                            "binary_data": {"type": "boolean"},
                            "classification": {"type": "integer", "minimum": 0},
                        },
                    },
                },
            },
        },
    },
}
RESPONSE = {
    "type": "object",
    "required": ["model_name", "outputs"],
    "properties": {
        "model_name": {"type": "string"},
        "model_version": {"type": "string"},
        "id": {"type": "string"},
        "outputs": {"type": "array", "items": _TENSOR},
    },
}
