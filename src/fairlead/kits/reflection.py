"""gRPC server reflection, v1 and v1alpha (which differ only in their name), from bytes to bytes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from google.protobuf import text_format
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message import DecodeError
from grpc_health.v1 import health_pb2  # type: ignore[import-untyped] # it ships no types
from grpc_reflection.v1alpha import (  # type: ignore[import-untyped] # it ships no types
    reflection,
    reflection_pb2,
)

from fairlead.kits.descriptors import pool_of

SERVICES = ("grpc.reflection.v1.ServerReflection", "grpc.reflection.v1alpha.ServerReflection")
METHOD = "ServerReflectionInfo"
_BY_SYMBOL = "file_containing_symbol"


def reflecting(services: Sequence[str], files: Iterable[bytes]) -> Callable[[bytes], bytes]:
    """Answers each request about these services. `files` are serialized descriptors, imports first.

    The answerer raises ValueError for bytes that are no request.
    """
    known = (health_pb2.DESCRIPTOR, reflection_pb2.DESCRIPTOR)
    pool = pool_of((*files, *(one.serialized_pb for one in known), _v1()))
    servicer = reflection.ReflectionServicer([*services, *SERVICES], pool)

    def answer(body: bytes) -> bytes:
        try:
            asked = reflection_pb2.ServerReflectionRequest.FromString(body)
        except DecodeError:
            raise ValueError("the message is not a ServerReflectionRequest") from None
        (answered,) = servicer.ServerReflectionInfo(iter((_findable(pool, asked),)), None)
        answered.original_request.CopyFrom(asked)
        return bytes(answered.SerializeToString())

    return answer


def _findable(pool: DescriptorPool, asked: Any) -> Any:  # noqa: ANN401 - a ServerReflectionRequest
    """The request, asking for a method's service instead of the method: the pool knows no files of methods."""
    if asked.WhichOneof("message_request") != _BY_SYMBOL:
        return asked
    try:
        method = pool.FindMethodByName(asked.file_containing_symbol)
    except KeyError:
        return asked
    return reflection_pb2.ServerReflectionRequest(
        host=asked.host, file_containing_symbol=method.containing_service.full_name
    )


def _v1() -> bytes:
    """The serialized descriptor of v1, which the library does not bring."""
    alpha = FileDescriptorProto.FromString(reflection_pb2.DESCRIPTOR.serialized_pb)
    text = text_format.MessageToString(alpha).replace("v1alpha", "v1")
    return bytes(text_format.Parse(text, FileDescriptorProto()).SerializeToString())
