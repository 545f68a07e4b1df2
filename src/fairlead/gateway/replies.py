"""How the gateway words its own answers: texts, shapes, statuses (S0-26).

`{"error": text}` under `/v2`, `{"message": text}` everywhere else. Envoy's local replies and the front
desk's refusals come from the tables here, so a caller cannot tell which of the two answered.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from fairlead.api.grpc_status import GRPC_STATUS, MARKER
from fairlead.api.http_status import ERROR_CODE
from fairlead.domain.errors import Kind
from fairlead.domain.routing import BAD_KEY, NO_KEY

RATE_EXCEEDED = "API rate limit exceeded"
CONCURRENCY_EXCEEDED = "API concurrency limit exceeded"
SWITCHED_OFF = (
    "This endpoint is switched off after too many failures; it is tried again within {seconds} s"
)
# What finds a stream's first message says what was wrong only in Envoy's details of the reply.
_NAMING_FAILED = "grpc_field_extraction_{status}{{{why}}}"
_NO_MESSAGE = _NAMING_FAILED.format(status="INVALID_ARGUMENT", why="REQUEST_OUT_OF_DATA")
_NO_FRAME = _NAMING_FAILED.format(status="INVALID_ARGUMENT", why="REQUEST_BUFFER_CONVERSION_FAIL")
_TOO_LONG = _NAMING_FAILED.format(
    status="FAILED_PRECONDITION", why="REQUEST_BUFFER_CONVERSION_FAIL"
)
# And so does the bridge of unary calls, of one that has no whole frame.
_NO_CALL = "grpc_bridge_data_too_small"
NO_MESSAGE = "the call has no message"
UNNAMED = "a stream whose messages are compressed names its model in the metadata x-model-name"
NOT_WHOLE = "the stream's first message is not whole, or not framed as gRPC has it"
TOO_LONG = (
    "the stream's first message is too large to be looked at; "
    "name the stream's model in the metadata x-model-name, or send less at once"
)
GATEWAY_TEXTS: Mapping[int, str] = {
    400: "Bad request",
    404: "Not found",
    405: "Method not allowed",
    408: "Request timeout",
    411: "Length required",
    413: "Payload too large",
    414: "URI too long",
    417: "Expectation failed",
    429: RATE_EXCEEDED,
    431: "Request header or cookie too large",  # Kong's own number for it is 494
    500: "An unexpected error occurred",
    502: "An invalid response was received from the upstream server",
    503: "The upstream server is currently unavailable",
    504: "The upstream server is timing out",
}

GATEWAY_KINDS: Mapping[int, Kind] = {
    400: Kind.INVALID,
    401: Kind.UNAUTHENTICATED,
    404: Kind.NOT_FOUND,
    405: Kind.METHOD,
    408: Kind.DEADLINE,
    411: Kind.INVALID,
    413: Kind.TOO_LARGE,
    414: Kind.TOO_LARGE,
    417: Kind.INVALID,
    429: Kind.QUOTA,
    431: Kind.TOO_LARGE,
    500: Kind.INTERNAL,
    502: Kind.INTERNAL,
    503: Kind.UNAVAILABLE,
    504: Kind.DEADLINE,
}

QUOTA_HEADER = "x-fairlead-quota"  # whose gate a request goes through; see quotas.py
PEER_HEADER = "x-fairlead-peer"  # and where it came from
CHALLENGE = 'Key realm="kong"'
_UNAUTHORIZED = 401
_TOO_MANY = 429
_UNAVAILABLE = 503
_GRPC = "grpc"  # instead of a body's key: the text is gRPC's message, and the code comes with it
_OPEN_INFERENCE = "^/v2([/?].*)?$"

Document = dict[str, Any]


def body_key(path: str) -> str:
    """The one key of an error's body for this path."""
    return "error" if path.partition("?")[0] == "/v2" or path.startswith("/v2/") else "message"


def local_reply_config(off_seconds: float) -> Document:
    """What Envoy's own answers look like; the first mapper that fits words it.

    `off_seconds`: how long the kill switch stays open.
    """
    mappers = _calls_without_a_message()
    shapes = ((_GRPC, _grpc_filter()), ("error", _path_filter(_OPEN_INFERENCE)), ("message", None))
    for key, path in shapes:
        mappers += [
            _unauthorized(key, path, NO_KEY, sent=False),
            _unauthorized(key, path, BAD_KEY, sent=True),
            _too_many_at_once(key, path),
            _switched_off(key, path, off_seconds),
            *(
                _mapper(key, [path, _status_filter(status)], text, status)
                for status, text in GATEWAY_TEXTS.items()
            ),
        ]
    rest = [
        _mapper(key, [where, _status_filter(0, "GE")], None)
        for key, where in shapes
        if where is not None
    ]
    return {"mappers": [*mappers, *rest], "body_format": _body_format("message")}


def _unauthorized(key: str, path: Document | None, text: str, *, sent: bool) -> Document:
    present = {
        "header_filter": {
            "header": {"name": "x-api-key", "present_match": True, "invert_match": not sent}
        }
    }
    mapper = _mapper(key, [path, _status_filter(_UNAUTHORIZED), present], text, _UNAUTHORIZED)
    mapper["headers_to_add"].append(_header("www-authenticate", CHALLENGE))
    return mapper


def _calls_without_a_message() -> list[Document]:
    """What has no message, or a stream whose first one was not found.

    A stream that was opened and closed ends well, as with every server.
    """
    packed = {"header_filter": {"header": {"name": "grpc-encoding", "present_match": True}}}
    found = []
    for details, also, text, status in (
        (_NO_MESSAGE, _expression("request.size == 0"), "", 0),
        (_NO_MESSAGE, None, NOT_WHOLE, 400),
        (_NO_FRAME, packed, UNNAMED, 400),
        (_NO_FRAME, None, NOT_WHOLE, 400),
        (_TOO_LONG, None, TOO_LONG, 413),
        (_NO_CALL, None, NO_MESSAGE, 400),
    ):
        which = _expression(f"response.code_details == '{details}'")
        found.append(_mapper(_GRPC, [_grpc_filter(), which, also], text, status))
    found[0]["headers_to_add"] = [_header("grpc-status", "0")]
    return found


def _too_many_at_once(key: str, path: Document | None) -> Document:
    """The circuit breaker of a key's gate, the only one that ever opens by a count of requests."""
    gate = {"header_filter": {"header": {"name": QUOTA_HEADER, "present_match": True}}}
    full = {"response_flag_filter": {"flags": ["UO"]}}
    mapper = _mapper(key, [path, full, gate], CONCURRENCY_EXCEEDED, _TOO_MANY)
    mapper["status_code"] = _TOO_MANY
    # How long requests take nobody knows; a place may be free at any time.
    mapper["headers_to_add"].append(_header("retry-after", "1"))
    return mapper


def _switched_off(key: str, path: Document | None, seconds: float) -> Document:
    """The kill switch of an endpoint is open: Envoy has no worker left that it may ask."""
    off = {"response_flag_filter": {"flags": ["UH"]}}
    wait = str(math.ceil(seconds))
    mapper = _mapper(key, [path, off], SWITCHED_OFF.format(seconds=wait), _UNAVAILABLE)
    mapper["headers_to_add"].append(_header("retry-after", wait))
    return mapper


def _mapper(
    key: str, filters: list[Document | None], text: str | None, status: int = 0
) -> Document:
    wanted = [one for one in filters if one is not None]
    mapper: Document = {
        "filter": wanted[0] if len(wanted) == 1 else {"and_filter": {"filters": wanted}},
        "body_format_override": _body_format(key),
    }
    if text is not None:
        mapper["body"] = {"inline_string": text}
    if status in GATEWAY_KINDS:
        kind = GATEWAY_KINDS[status]
        mapper["headers_to_add"] = [_header(ERROR_CODE, kind)]
        if key == _GRPC:
            mapper["headers_to_add"].append(_header("grpc-status", str(GRPC_STATUS[kind])))
    return mapper


def _header(name: str, value: str) -> Document:
    return {
        "header": {"key": name, "value": str(value)},
        "append_action": "OVERWRITE_IF_EXISTS_OR_ADD",
    }


def _body_format(key: str) -> Document:
    if key == _GRPC:
        return {"text_format_source": {"inline_string": "%LOCAL_REPLY_BODY%"}}
    return {"json_format": {key: "%LOCAL_REPLY_BODY%"}}


def _status_filter(status: int, operator: str = "EQ") -> Document:
    value = {"default_value": status, "runtime_key": "fairlead.none"}
    return {"status_code_filter": {"comparison": {"op": operator, "value": value}}}


def _expression(text: str) -> Document:
    kind = "type.googleapis.com/envoy.extensions.access_loggers.filters.cel.v3.ExpressionFilter"
    config = {"@type": kind, "expression": text}
    name = "envoy.access_loggers.extension_filters.cel"
    return {"extension_filter": {"name": name, "typed_config": config}}


def _grpc_filter() -> Document:
    """gRPC, also once it has been through the bridge."""
    frames = {"name": "content-type", "string_match": {"prefix": "application/grpc"}}
    bridged = {"name": MARKER, "present_match": True}
    either: list[Document] = [{"header_filter": {"header": one}} for one in (frames, bridged)]
    return {"or_filter": {"filters": either}}


def _path_filter(regex: str) -> Document:
    match = {"safe_regex": {"regex": regex}}
    return {"header_filter": {"header": {"name": ":path", "string_match": match}}}
