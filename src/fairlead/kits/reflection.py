"""gRPC server reflection, v1 and v1alpha (which differ only in their name), from bytes to bytes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from google.protobuf.message import DecodeError
from grpc_health.v1 import health_pb2  # type: ignore[import-untyped] # it ships no types
from grpc_reflection.v1alpha import (  # type: ignore[import-untyped] # it ships no types
    reflection,
    reflection_pb2,
)

from fairlead.kits.descriptors import pool_of

SERVICES = ("grpc.reflection.v1.ServerReflection", "grpc.reflection.v1alpha.ServerReflection")
METHOD = "ServerReflectionInfo"


def reflecting(services: Sequence[str], files: Iterable[bytes]) -> Callable[[bytes], bytes]:
    """Answers each request about these services. `files` are serialized descriptors, imports first.

    The answerer raises ValueError for bytes that are no request.
    """
    known = (health_pb2.DESCRIPTOR, reflection_pb2.DESCRIPTOR)
    pool = pool_of((*files, *(one.serialized_pb for one in known)))
    servicer = reflection.ReflectionServicer([*services, *SERVICES], pool)

    def answer(body: bytes) -> bytes:
        try:
            asked = reflection_pb2.ServerReflectionRequest.FromString(body)
        except DecodeError:
            raise ValueError("the message is not a ServerReflectionRequest") from None
        (answered,) = servicer.ServerReflectionInfo(iter((asked,)), None)
        return bytes(answered.SerializeToString())

    return answer
