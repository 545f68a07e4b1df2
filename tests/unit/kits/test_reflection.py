"""What a gRPC client may learn of a server by asking it."""

from __future__ import annotations

import pytest
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2

from fairlead.kits.reflection import SERVICES, reflecting

HEALTH = "grpc.health.v1.Health"


def test_services_are_listed_and_described() -> None:
    answer = reflecting([HEALTH], [])
    asked = reflection_pb2.ServerReflectionRequest(list_services="")
    said = reflection_pb2.ServerReflectionResponse.FromString(answer(asked.SerializeToString()))
    listed = {one.name for one in said.list_services_response.service}
    assert listed == {HEALTH, *SERVICES}
    asked = reflection_pb2.ServerReflectionRequest(file_containing_symbol=HEALTH)
    said = reflection_pb2.ServerReflectionResponse.FromString(answer(asked.SerializeToString()))
    assert said.file_descriptor_response.file_descriptor_proto == [
        health_pb2.DESCRIPTOR.serialized_pb
    ]


def test_bytes_that_are_no_question_are_refused() -> None:
    with pytest.raises(ValueError, match="not a ServerReflectionRequest"):
        reflecting([HEALTH], [])(b"\xff\xff")
