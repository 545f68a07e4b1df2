"""gRPC through the one listener: calls become HTTP requests, and go the way of all requests.

A unary call gets the path of the HTTP request that asks the same (`oip.lua`), a bridge takes the frame off and
puts one around the answer, and what the answer says of its end in two headers becomes trailers. So the route
tree, the keys, splits, quotas, kill switches and the access log know nothing of gRPC.

The filters are off; only gRPC's own routes switch them on, so that no other request pays for them.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fairlead.api import grpc_status
from fairlead.api._generated import descriptors
from fairlead.api.grpc_status import FRAMES, HEALTH, MESSAGE, PROTOBUF, SERVICE, STATUS

Document = dict[str, Any]

_REFLECTION = ("grpc.reflection.v1.ServerReflection", "grpc.reflection.v1alpha.ServerReflection")
MOST_BYTES = 64 << 20  # of one message that names its model inside; as much as a worker takes
_NAMING, _ROUTING, _TRAILERS, _BRIDGE, _ANSWERS = (
    "grpc_naming",
    "grpc_routing",
    "grpc_trailers",
    "grpc_bridge",
    "grpc_answers",
)
_ENDS, _STREAMS = "grpc_ends", "grpc_streams"
_UNARY = (_ROUTING, _TRAILERS, _BRIDGE, _ANSWERS)
_NAMED_STREAM = (_ENDS, _ROUTING, _TRAILERS, _STREAMS, _ANSWERS)
_STREAM = (_ENDS, _NAMING, *_NAMED_STREAM[1:])
_ENDLESS = ("/Watch", "/ServerReflectionInfo")  # what the front desk streams
_STREAM_METHOD = "ModelStreamInfer"
_STREAM_PATH = f"/{SERVICE}/{_STREAM_METHOD}"
_LUA, _ENDS_LUA = (
    Path(__file__).with_name(name).read_text(encoding="utf-8") for name in ("oip.lua", "ends.lua")
)
# What a route matches first, before a call is translated.
_FRAMED: Document = {"name": "content-type", "string_match": {"prefix": "application/grpc"}}
# gRPC-Web has other frames and no trailers: the front desk says that it is not spoken here.
_NOT_WEB: Document = {
    "name": "content-type",
    "string_match": {"prefix": grpc_status.WEB},
    "invert_match": True,
}
_NAMED: Document = {"name": "x-model-name", "present_match": True}
_KEYLESS: Document = {"name": "x-api-key", "present_match": True, "invert_match": True}


def _exactly(service: str, method: str, *headers: Document) -> Document:
    return {"path": f"/{service}/{method}", "headers": [_FRAMED, _NOT_WEB, *headers]}


# By the prefix they are found under: what needs no key, and what does. Health tells everybody of the server, and of a
# service whoever may use that.
CALLS: Mapping[str, tuple[tuple[Document, ...], tuple[Document, ...]]] = {
    f"/{SERVICE}/": (
        tuple(_exactly(SERVICE, one) for one in ("ServerLive", "ServerReady", "ServerMetadata")),
        (
            _exactly(SERVICE, _STREAM_METHOD, _NAMED),
            _exactly(SERVICE, _STREAM_METHOD),
            {"prefix": f"/{SERVICE}/", "headers": [_FRAMED, _NOT_WEB]},
        ),
    ),
    f"/{HEALTH}/": (
        tuple(_exactly(HEALTH, one, _KEYLESS) for one in ("Check", "Watch")),
        tuple(_exactly(HEALTH, one) for one in ("Check", "Watch")),
    ),
    **{f"/{name}/": ((_exactly(name, "ServerReflectionInfo"),), ()) for name in _REFLECTION},
}
_FILTERS = "type.googleapis.com/envoy.extensions.filters.http"


def filters() -> list[Document]:
    """In order, between the key and the router."""
    return [
        _off(_ENDS, _lua(_ENDS_LUA)),
        _off(
            _NAMING,
            {
                "@type": f"{_FILTERS}.grpc_field_extraction.v3.GrpcFieldExtractionConfig",
                "descriptor_set": {"inline_bytes": base64.b64encode(descriptors()).decode()},
                "extractions_by_method": {
                    f"{SERVICE}.{_STREAM_METHOD}": {
                        "request_field_extractions": {"model_name": {}, "model_version": {}}
                    }
                },
            },
        ),
        _off(_ROUTING, _lua(_LUA)),
        _off(_TRAILERS, _mutations(response_trailers_mutations=_trailers())),
        _off(
            _BRIDGE,
            {
                "@type": f"{_FILTERS}.grpc_http1_reverse_bridge.v3.FilterConfig",
                "content_type": PROTOBUF,
                "withhold_grpc_frames": True,
                # The answer's length is known, so that it need not be held back to be counted.
                "response_size_header": "content-length",
            },
        ),
        _off(
            _STREAMS,
            {
                "@type": f"{_FILTERS}.grpc_http1_reverse_bridge.v3.FilterConfig",
                "content_type": FRAMES,
            },
        ),
        _off(_ANSWERS, _mutations(response_mutations=_answers())),
    ]


def calls(route: Document) -> Document:
    """The route with the filters of calls switched on: of streams, or of unary calls."""
    on = {"@type": "type.googleapis.com/envoy.config.route.v3.FilterConfig", "config": {}}
    names: tuple[str, ...] = _UNARY
    path = route["match"].get("path", "")
    if path == _STREAM_PATH:
        # Who names the model in metadata need not have sent a message before the stream begins.
        names = _NAMED_STREAM if _NAMED in route["match"]["headers"] else _STREAM
    elif path.endswith(_ENDLESS):
        names = _NAMED_STREAM
        route = {**route, "route": {**route["route"], "timeout": "0s", "idle_timeout": "0s"}}
    own = {**route.get("typed_per_filter_config", {}), **dict.fromkeys(names, on)}
    return {**route, "typed_per_filter_config": own, "request_body_buffer_limit": MOST_BYTES}


def _off(name: str, config: Document) -> Document:
    return {"name": name, "typed_config": config, "disabled": True}


def _lua(source: str) -> Document:
    return {
        "@type": f"{_FILTERS}.lua.v3.Lua",
        "default_source_code": {"inline_string": source},
    }


def _mutations(**mutations: list[Document]) -> Document:
    return {"@type": f"{_FILTERS}.header_mutation.v3.HeaderMutation", "mutations": mutations}


def _trailers() -> list[Document]:
    """What the answer's headers say of its end. The bridge says OK to whatever has the status 200."""
    return [
        _set("grpc-status", f"%RESPONSE_HEADER({STATUS})%", "OVERWRITE_IF_EXISTS"),
        _set("grpc-message", f"%RESPONSE_HEADER({MESSAGE})%", "OVERWRITE_IF_EXISTS_OR_ADD"),
    ]


def _answers() -> list[Document]:
    """Envoy's own answers are gRPC already, which the bridge would refuse; they look like a worker's then."""
    return [
        _set(STATUS, "%RESPONSE_HEADER(grpc-status)%", "ADD_IF_ABSENT"),
        _set(MESSAGE, "%RESPONSE_HEADER(grpc-message)%", "ADD_IF_ABSENT"),
        # The request has this type once it has been through the bridge; before, gRPC's own.
        _set("content-type", "%REQ(content-type)%", "OVERWRITE_IF_EXISTS_OR_ADD"),
        _set("content-length", "0", "ADD_IF_ABSENT"),
    ]


def _set(name: str, value: str, how: str) -> Document:
    return {"append": {"header": {"key": name, "value": value}, "append_action": how}}
