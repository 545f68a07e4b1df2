"""Protobuf's descriptors in pools of their own.

The process's one pool takes each name once, and other packages register copies of the same files there.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from google.protobuf.descriptor_pb2 import FileDescriptorSet
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass


def files_of(descriptor_set: bytes) -> list[bytes]:
    """The serialized files of a serialized FileDescriptorSet, in its order."""
    found = FileDescriptorSet.FromString(descriptor_set).file
    return [bytes(one.SerializeToString()) for one in found]


def pool_of(files: Iterable[bytes]) -> DescriptorPool:
    """A pool of these serialized files, imports first."""
    made = DescriptorPool()
    for file in files:
        made.AddSerializedFile(file)
    return made


def message_in(pool: DescriptorPool, name: str) -> Any:  # noqa: ANN401 - classes made at run time have no type to write
    """The class of the message of this full name; KeyError if there is none."""
    return GetMessageClass(pool.FindMessageTypeByName(name))
