"""The protocol's methods that run no model, over gRPC: translated from and to what HTTP asks and answers.

Each has an HTTP request that asks the same (the gateway's `oip.lua` makes its path), so what is answered is
written once, as JSON; here that becomes the method's message, and an error its code.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from google.protobuf.json_format import MessageToDict, ParseDict, ParseError
from google.protobuf.message import DecodeError

from fairlead.api.grpc_status import GRPC_STATUS, OK, SERVICE
from fairlead.api.http_status import HTTP_STATUS
from fairlead.api.oip_messages import message, pool
from fairlead.domain.errors import Kind, Refused

_FIRST_ERROR = 400
# The one field of an answer that HTTP gives bare.
_WRAPPED: Mapping[str, str] = {"ModelConfig": "config", "RepositoryIndex": "models"}
# grpc.health.v1.Health: the messages, whose one field is the status.
CHECK = "Check"
SERVING, NOT_SERVING = b"\x08\x01", b"\x08\x02"
# Methods that ask yes or no: what HTTP says by its status, too, is an answer here.
_YES_OR_NO: Mapping[str, str] = {
    "ServerLive": "live",
    "ServerReady": "ready",
    "ModelReady": "ready",
    CHECK: "ready",
}
_METHODS = frozenset(pool().FindServiceByName(SERVICE).methods_by_name)
_BY_STATUS: Mapping[int, Kind] = {status: kind for kind, status in HTTP_STATUS.items()}


@dataclass(frozen=True, slots=True)
class Answer:
    """How a call ended: gRPC's code and message, and the message's bytes if it is OK."""

    code: int
    message: str
    body: bytes = b""


def request_body(method: str, body: bytes) -> bytes:
    """The JSON body of the HTTP request that asks the same; raises Refused (INVALID).

    Names of models are in its path.
    """
    try:
        asked = message(f"{method}Request").FromString(body)
    except DecodeError:
        raise Refused(Kind.INVALID, f"the message is not a {method}Request") from None
    document: dict[str, Any] = MessageToDict(asked, preserving_proto_field_name=True)
    parameters = {
        name: next(iter(value.values()), None)
        for name, value in document.pop("parameters", {}).items()
    }
    if parameters:
        document["parameters"] = parameters
    return json.dumps(document).encode()


def answer(method: str, status: int, error_code: str | None, body: bytes) -> Answer:
    """What an HTTP answer is to the caller of a method. `error_code`: the header of that name."""
    document = _document(body)
    if method in _YES_OR_NO:
        said = _yes_or_no(_YES_OR_NO[method], status, document)
        if said is not None:
            return _ok(method, {_YES_OR_NO[method]: said})
    if status >= _FIRST_ERROR:
        return refused(_kind(status, error_code), _text(document, status))
    field = _WRAPPED.get(method)
    try:
        return _ok(method, {field: document} if field else document)
    except ParseError as error:
        return refused(Kind.INTERNAL, f"the answer is not what gRPC can say: {error}")


def refused(kind: Kind, text: str) -> Answer:
    """An error."""
    return Answer(GRPC_STATUS[kind], text)


def names_a_model(method: str) -> bool:
    """Is it one of the protocol's methods, which the gateway finds a path for if the message names a model?"""
    return method in _METHODS or method == CHECK


def no_such_method(path: str) -> Answer:
    """A method, or a service, that nobody here answers."""
    return refused(Kind.METHOD, f"nothing answers {path:.200}")


def _ok(method: str, document: Any) -> Answer:  # noqa: ANN401 - a JSON value
    if method == CHECK:
        return Answer(OK, "", SERVING if document["ready"] else NOT_SERVING)
    answered = message(f"{method}Response")()
    ParseDict(document, answered, ignore_unknown_fields=True)
    return Answer(OK, "", answered.SerializeToString())


def _yes_or_no(name: str, status: int, document: Any) -> bool | None:  # noqa: ANN401 - a JSON value
    if isinstance(document, Mapping) and isinstance(document.get(name), bool):
        return bool(document[name])
    return False if status == HTTP_STATUS[Kind.UNAVAILABLE] else None


def _kind(status: int, error_code: str | None) -> Kind:
    try:
        return Kind(error_code or "")
    except ValueError:
        return _BY_STATUS.get(status, Kind.INTERNAL)


def _text(document: Any, status: int) -> str:  # noqa: ANN401 - a JSON value
    """The one key's text of an error's body."""
    if isinstance(document, Mapping):
        for key in ("error", "message", "detail"):
            if key in document:
                return str(document[key])
    return f"HTTP {status}"


def _document(body: bytes) -> Any:  # noqa: ANN401 - a JSON value
    try:
        return json.loads(body) if body else {}
    except ValueError:
        return {}
