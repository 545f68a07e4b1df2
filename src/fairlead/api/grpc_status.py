"""What gRPC calls each kind of error: the one table of the gateway and the model server.

Behind the gateway a gRPC call is an HTTP/1.1 request, marked with `MARKER`, whose body is the bare message. Its
answer is always 200: what gRPC says in trailers stands in the headers `STATUS` and `MESSAGE`, and Envoy moves it.
"""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import quote

from fairlead.domain.errors import Kind

SERVICE = "inference.GRPCInferenceService"
HEALTH = "grpc.health.v1.Health"
MARKER = "x-fairlead-grpc"  # which method was called; callers cannot send it through the gateway
UNPACKS = "/unpack"  # in its place, and no method: the gateway itself asks how a compressed message begins
STATUS = "x-grpc-status"
MESSAGE = "x-grpc-message"
PROTOBUF = "application/x-protobuf"  # the bare message of a unary call
FRAMES = "application/x-grpc-frames"  # the messages of a stream, each with gRPC's own five bytes before it
WEB = "application/grpc-web"  # how the content types of gRPC-Web begin
OK = 0
UNKNOWN = 2
_LONGEST_MESSAGE = 4096  # characters; Envoy and grpcio bound all trailers together to 8 KiB

GRPC_STATUS: Mapping[Kind, int] = {
    Kind.INVALID: 3,  # INVALID_ARGUMENT
    Kind.SCHEMA: 3,
    Kind.UNAUTHENTICATED: 16,
    Kind.FORBIDDEN: 7,  # PERMISSION_DENIED
    Kind.NOT_FOUND: 5,
    Kind.METHOD: 12,  # UNIMPLEMENTED
    Kind.FORMAT: 3,
    Kind.ENCODING: 3,
    Kind.CONFLICT: 9,  # FAILED_PRECONDITION
    Kind.TOO_LARGE: 8,  # RESOURCE_EXHAUSTED
    Kind.OVERLOADED: 8,
    Kind.QUOTA: 8,
    Kind.UNAVAILABLE: 14,
    Kind.DEADLINE: 4,
    Kind.CANCELLED: 1,
    Kind.MODEL: 13,  # INTERNAL
    Kind.INTERNAL: 13,
}


def encoded(message: str) -> str:
    """A message as a header may carry it: percent-encoded as gRPC over HTTP/2 says."""
    # Spaces and what is printable stay; `%` is what starts an escape.
    return quote(message[:_LONGEST_MESSAGE], safe=_PRINTABLE, errors="replace")


_PRINTABLE = "".join(chr(code) for code in range(0x20, 0x7F) if chr(code) != "%")
