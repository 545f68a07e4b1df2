"""What a gRPC client may learn of a server by asking it."""

from __future__ import annotations

from typing import Any

import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2

from fairlead.api import grpc_status
from fairlead.api.oip_messages import files
from fairlead.kits.descriptors import pool_of
from fairlead.kits.reflection import SERVICES, reflecting

HEALTH = "grpc.health.v1.Health"
PACKAGES = ("inference", "grpc.health.v1", "grpc.reflection.v1", "grpc.reflection.v1alpha")


def asked(files: list[bytes], **what: str) -> Any:
    """The answer about health's service and those of `files`."""
    request = reflection_pb2.ServerReflectionRequest(**what)
    answer = reflecting([HEALTH], files)(request.SerializeToString())
    said = reflection_pb2.ServerReflectionResponse.FromString(answer)
    assert said.original_request == request
    return said


def described(symbol: str) -> list[FileDescriptorProto]:
    """The files that hold a symbol; none if it is not found."""
    said = asked(files(), file_containing_symbol=symbol)
    found = said.file_descriptor_response.file_descriptor_proto
    assert bool(found) != (said.error_response.error_code == 5)
    return [FileDescriptorProto.FromString(one) for one in found]


def test_services_are_listed_and_described() -> None:
    listed = {one.name for one in asked([], list_services="").list_services_response.service}
    assert listed == {HEALTH, *SERVICES}
    said = asked([], file_containing_symbol=HEALTH)
    assert said.file_descriptor_response.file_descriptor_proto == [
        health_pb2.DESCRIPTOR.serialized_pb
    ]


@pytest.mark.parametrize("service", [HEALTH, grpc_status.SERVICE, *SERVICES])
def test_whatever_is_listed_is_described_with_all_it_needs(service: str) -> None:
    file, *imports = described(service)
    package, _, name = service.rpartition(".")
    assert (file.package, [one.name for one in file.service]) == (package, [name])
    method = file.service[0].method[0]
    assert method.input_type.startswith(f".{package}.")
    whole = [one.SerializeToString() for one in (*reversed(imports), file)]
    pool_of(whole).FindServiceByName(service)  # nothing in it names what is not there


@pytest.mark.parametrize(
    "symbol",
    [
        "inference.GRPCInferenceService.ModelInfer",
        "inference.ModelInferRequest",
        "grpc.health.v1.Health.Check",
        "grpc.reflection.v1.ServerReflection.ServerReflectionInfo",
    ],
)
def test_methods_are_found_as_messages_are(symbol: str) -> None:
    package = next(one for one in PACKAGES if symbol.startswith(f"{one}."))
    assert described(symbol)[0].package == package


@pytest.mark.parametrize(
    "symbol", ["grpc.health.v1.Health.Sing", "grpc.health.v1.Nothing", "Nothing", ""]
)
def test_what_is_not_there_is_not_found(symbol: str) -> None:
    assert described(symbol) == []


def test_bytes_that_are_no_question_are_refused() -> None:
    with pytest.raises(ValueError, match="not a ServerReflectionRequest"):
        reflecting([HEALTH], [])(b"\xff\xff")
