"""The protocol's methods that run no model, over gRPC: translated from and to what HTTP asks and answers.

Each has an HTTP request that asks the same (the gateway's `oip.lua` makes its path), so what is answered is
written once, as JSON; here that becomes the method's message, and an error its code.
"""

from __future__ import annotations

import json
import re
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
SERVING, NOT_SERVING, SERVICE_UNKNOWN = b"\x08\x01", b"\x08\x02", b"\x08\x03"
_MODEL_READY = "ModelReady"
_STATISTICS = "ModelStatistics"
_METADATA = "ModelMetadata"
_EVERYBODYS = (
    "model_stats"  # what the path says that would be the metadata of a model called `stats`
)
# Methods that ask yes or no: what HTTP says by its status, too, is an answer here.
_YES_OR_NO: Mapping[str, str] = {
    "ServerLive": "live",
    "ServerReady": "ready",
    _MODEL_READY: "ready",
    CHECK: "ready",
}
_METHODS = frozenset(pool().FindServiceByName(SERVICE).methods_by_name)
_BY_STATUS: Mapping[int, Kind] = {status: kind for kind, status in HTTP_STATUS.items()}


# The HTTP request that asks the same, as the gateway's `oip.lua` has it too: of a model (the number of the field
# that names it, the method, the end of the path), of the server, of the repository.
_OF_MODELS: Mapping[str, tuple[str, str]] = {
    "ModelInfer": ("POST", "/infer"),
    _MODEL_READY: ("GET", "/ready"),
    _METADATA: ("GET", ""),
    "ModelConfig": ("GET", "/config"),
    _STATISTICS: ("GET", "/stats"),  # without a name those of all models
}
_OF_SERVER: Mapping[str, str] = {
    "ServerLive": "/v2/health/live",
    "ServerReady": "/v2/health/ready",
    "ServerMetadata": "/v2",
}
_OF_REPOSITORY: Mapping[str, str] = {
    "RepositoryModelLoad": "load",
    "RepositoryModelUnload": "unload",
}
METHODS = (*_OF_MODELS, *_OF_SERVER, *_OF_REPOSITORY, "RepositoryIndex")
_SERVERS_NAMES = ("", SERVICE, "grpc.health.v1.Health")
_PLAIN = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,127}")
NO_NAME = "the message's first fields do not name a model; set its name, in lower-case letters, digits and dashes"


@dataclass(frozen=True, slots=True)
class Answer:
    """How a call ended: gRPC's code and message, and the message's bytes if it is OK."""

    code: int
    message: str
    body: bytes = b""


def asks(method: str, body: bytes) -> tuple[str, str]:
    """The HTTP method and path that ask what this call asks; raises Refused (INVALID)."""
    if method in _OF_SERVER:
        return "GET", _OF_SERVER[method]
    if method == "RepositoryIndex":
        return "POST", "/v2/repository/index"
    if method == CHECK:
        name = _checked(body)
        ready = "/v2/health" if name in _SERVERS_NAMES else f"/v2/models/{_plain(name)}"
        return "GET", f"{ready}/ready"
    asked = _read(method, body)
    if method in _OF_REPOSITORY:
        name = _plain(asked.model_name)
        return "POST", f"/v2/repository/models/{name}/{_OF_REPOSITORY[method]}"
    name, version = (
        (asked.model_name, asked.model_version)
        if method == "ModelInfer"
        else (asked.name, asked.version)
    )
    if method == _STATISTICS and not name:
        return "GET", "/v2/models/stats"
    verb, end = _OF_MODELS[method]
    of_version = f"/versions/{_plain(version)}" if version else ""
    return verb, f"/v2/models/{_plain(name)}{of_version}{end}"


def _plain(name: str) -> str:
    """A name that can stand in a path and means nothing else there."""
    if not _PLAIN.fullmatch(name):
        raise Refused(Kind.INVALID, NO_NAME)
    return name


def _checked(body: bytes) -> str:
    """Field 1 of a HealthCheckRequest, which has no other; ModelReadyRequest starts with the same."""
    return str(_read(_MODEL_READY, body).name)


def _read(method: str, body: bytes) -> Any:  # noqa: ANN401 - a message's class is made at run time
    try:
        return message(f"{method}Request").FromString(body)
    except DecodeError:
        raise Refused(Kind.INVALID, f"the message is not a {method}Request") from None


def request_body(method: str, body: bytes) -> bytes:
    """The JSON body of the HTTP request that asks the same; raises Refused (INVALID).

    Names of models are in its path.
    """
    if method not in _METHODS:
        raise Refused(Kind.METHOD, f"there is no method {method!r:.80}")
    asked = _read(method, body)
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
        said = _yes_or_no(method, status, document)
        if said is not None:
            return _ok(method, {_YES_OR_NO[method]: said})
    if status >= _FIRST_ERROR:
        return refused(_kind(status, error_code), _text(document, status))
    if not names_a_model(method):
        return refused(Kind.METHOD, f"there is no method {method!r:.80}")
    if method == _METADATA and isinstance(document, Mapping) and _EVERYBODYS in document:
        return refused(Kind.NOT_FOUND, "Request for unknown model: 'stats' is not found")
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


def _yes_or_no(method: str, status: int, document: Any) -> bool | None:  # noqa: ANN401 - a JSON value
    name = _YES_OR_NO[method]
    if isinstance(document, Mapping) and isinstance(document.get(name), bool):
        return bool(document[name])
    # Who waits for a model asks until it is ready, beginning before it is known. Health has a code for that.
    unknown = method == _MODEL_READY and status == HTTP_STATUS[Kind.NOT_FOUND]
    return False if unknown or status == HTTP_STATUS[Kind.UNAVAILABLE] else None


def _kind(status: int, error_code: str | None) -> Kind:
    try:
        return Kind(error_code or "")
    except ValueError:
        return _BY_STATUS.get(status, Kind.INTERNAL)


def _text(document: Any, status: int) -> str:  # noqa: ANN401 - a JSON value
    """The one key's text of an error's body."""
    if isinstance(document, Mapping):
        said = [document[key] for key in ("error", "message", "detail") if key in document]
        if said:
            return str(said[0])
    return f"HTTP {status}"


def _document(body: bytes) -> Any:  # noqa: ANN401 - a JSON value
    try:
        return json.loads(body) if body else {}
    except ValueError:
        return {}
