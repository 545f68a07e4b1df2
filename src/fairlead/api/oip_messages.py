"""The Open Inference Protocol's protobuf messages (S1-G 41), by name: `message("ModelInferRequest")`.

They live in a descriptor pool of their own: the protocol's other copies (tritonclient's, kserve's) are
registered under the same names, and one pool takes each name once.
"""

from __future__ import annotations

from functools import cache
from typing import Any

from google.protobuf.descriptor_pool import DescriptorPool

from fairlead.api._generated import descriptors
from fairlead.kits.descriptors import files_of, message_in, pool_of

PACKAGE = "inference"


@cache
def pool() -> DescriptorPool:
    """The protocol's descriptors."""
    return pool_of(files())


def files() -> list[bytes]:
    """The protocol's files as serialized descriptors, imports first."""
    return files_of(descriptors())


@cache
def message(name: str) -> Any:  # noqa: ANN401 - classes made at run time have no type to write
    """The class of one message of the protocol."""
    return message_in(pool(), f"{PACKAGE}.{name}")
