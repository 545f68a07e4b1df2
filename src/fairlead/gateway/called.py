"""gRPC at the front desk: a refusal or a page, said as gRPC says it.

A call that went through the bridge has our marker and is answered with headers that Envoy makes trailers; any
other one still has its frame, and gets an answer that is nothing but trailers.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from starlette.responses import Response

from fairlead.api import grpc_status
from fairlead.api.http_status import ERROR_CODE
from fairlead.domain.errors import FairleadError, Kind, Refused
from fairlead.domain.routing import Forward
from fairlead.kits import compression

if TYPE_CHECKING:
    from collections.abc import Mapping

    from fairlead.dialects.oip_grpc_calls import Answer

_FIRST_ERROR = 400
_STREAM = "ModelStreamInfer"
# Methods that stream and are the desk's own: health's and reflection's.
WATCHES = "Watch"
REFLECTS = "ServerReflectionInfo"
_OF_BODY = frozenset({"content-type", "content-length"})
_ENCODING = "content-encoding"  # of a message; `oip.lua` sets it, from what gRPC says of messages
_BEGINNING_BYTES = 4096  # of a message; as many as `oip.lua` looks at
_MOST_BYTES = 1 << 20  # of a message that the desk reads, once it is unpacked
_NO_WEB = (
    "gRPC-Web is not spoken here; speak gRPC over HTTP/2, or POST JSON to /v2/models/<name>/infer"
)
_DAMAGED = "the message is not what its grpc-encoding says: it cannot be unpacked"


@dataclass(frozen=True, slots=True)
class Visit:
    """One request at the desk. `path` is without its query, nothing decoded; `body` is at most its first megabyte.

    `forward`: who the resolver found, where a page is about a model.
    """

    method: str
    path: str
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""
    forward: Forward | None = None


def streams(headers: Mapping[str, str]) -> bool:
    """May this visit's body have no end?"""
    called = headers.get(grpc_status.MARKER)
    return _framed(headers) or called in (_STREAM, WATCHES, REFLECTS)


def is_ours(headers: Mapping[str, str]) -> bool:
    """Is it one of the desk's own streams?"""
    return headers.get(grpc_status.MARKER) in (WATCHES, REFLECTS)


def unpacked_beginning(visit: Visit) -> Response | None:
    """The answer to `oip.lua`, which cannot unpack and must know which model a message names; None if nobody asks."""
    if visit.headers.get(grpc_status.MARKER) != grpc_status.UNPACKS:
        return None
    try:
        return Response(compression.beginning(visit.body, _encoding(visit), _BEGINNING_BYTES))
    except ValueError:
        return Response(status_code=_FIRST_ERROR)


def _unpacked(visit: Visit) -> bytes:
    """The visit's message; raises Refused (INVALID)."""
    try:
        return compression.whole(visit.body, _encoding(visit), _MOST_BYTES)
    except ValueError:
        raise Refused(Kind.INVALID, _DAMAGED) from None


def _encoding(visit: Visit) -> bytes:
    return visit.headers.get(_ENCODING, "identity").encode()


def _framed(headers: Mapping[str, str]) -> bool:
    return headers.get("content-type", "").startswith("application/grpc")


def _of_web(visit: Visit) -> bool:
    return visit.headers.get("content-type", "").startswith(grpc_status.WEB)


async def answered(visit: Visit, answer: Callable[[Visit], Awaitable[Response]]) -> Response:
    """The answer of the desk, in gRPC's form if the visit is a call."""
    if _framed(visit.headers):
        response = await answer(visit)
        said = _said(visit, "", response)
        kind = visit.headers["content-type"] if _of_web(visit) else "application/grpc"
        return _with(response, {"content-type": kind}, said, "grpc-")
    method = visit.headers.get(grpc_status.MARKER)
    if method is None:
        return await answer(visit)
    from fairlead.dialects import oip_grpc_calls  # noqa: PLC0415 - protobuf only where gRPC is spoken

    if visit.method == "POST" and visit.path.startswith("/v2/repository/"):
        try:
            body = oip_grpc_calls.request_body(method, _unpacked(visit))
        except FairleadError as error:
            said = oip_grpc_calls.refused(error.kind, error.message)
            return _with(Response(), {"content-type": grpc_status.PROTOBUF}, said, "x-grpc-")
        visit = replace(visit, body=body)
    response = await answer(visit)
    said = _said(visit, method, response)
    # A stream's bridge adds nothing to an answer without a body: it has to be gRPC's already.
    prefix = "grpc-" if method == _STREAM else "x-grpc-"
    return _with(response, {"content-type": grpc_status.PROTOBUF}, said, prefix)


def _said(visit: Visit, method: str, response: Response) -> Answer:
    from fairlead.dialects import oip_grpc_calls  # noqa: PLC0415 - as above

    code = response.headers.get(ERROR_CODE)
    translated = visit.path.startswith("/v2")
    if not translated and (response.status_code < _FIRST_ERROR or code == Kind.NOT_FOUND):
        if _of_web(visit):
            return oip_grpc_calls.refused(Kind.METHOD, _NO_WEB)
        if oip_grpc_calls.names_a_model(method):
            return oip_grpc_calls.refused(Kind.INVALID, oip_grpc_calls.NO_NAME)
        return oip_grpc_calls.no_such_method(visit.path)
    return oip_grpc_calls.answer(method, response.status_code, code, bytes(response.body))


def _with(response: Response, headers: Mapping[str, str], said: Answer, prefix: str) -> Response:
    kept = {name: value for name, value in response.headers.items() if name not in _OF_BODY}
    end = {f"{prefix}status": str(said.code), f"{prefix}message": grpc_status.encoded(said.message)}
    # The access log reads the code in one place, whatever the form.
    logged = {grpc_status.STATUS: str(said.code)}
    return Response(said.body, 200, {**kept, **headers, **logged, **end})
