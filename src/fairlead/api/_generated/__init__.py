"""What `make proto` writes, and how to read it; the rest is not written by hand."""

from functools import cache
from pathlib import Path


@cache
def descriptors() -> bytes:
    """The files of `proto/` as a FileDescriptorSet."""
    return Path(__file__).with_name("oip.binpb").read_bytes()
