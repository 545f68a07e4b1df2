"""The Open Inference Protocol's protobuf messages (S1-G 41), by name: `message("ModelInferRequest")`.

They live in a descriptor pool of their own: the protocol's other copies (tritonclient's, kserve's) are
registered under the same names, and one pool takes each name once.
"""

from __future__ import annotations

from functools import cache
from typing import Any

from google.protobuf.descriptor_pb2 import FileDescriptorSet
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass

from fairlead.api._generated import descriptors

PACKAGE = "inference"


@cache
def pool() -> DescriptorPool:
    """The protocol's descriptors."""
    made = DescriptorPool()
    for file in files():
        made.AddSerializedFile(file)
    return made


def files() -> list[bytes]:
    """The protocol's files as serialized descriptors, imports first."""
    found = FileDescriptorSet.FromString(descriptors()).file
    return [bytes(one.SerializeToString()) for one in found]


@cache
def message(name: str) -> Any:  # noqa: ANN401 - classes made at run time have no type to write
    """The class of one message of the protocol."""
    return GetMessageClass(pool().FindMessageTypeByName(f"{PACKAGE}.{name}"))
