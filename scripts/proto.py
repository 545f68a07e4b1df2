"""Read `proto/` with protoc and keep what it says as one descriptor set (`make proto`).

Descriptors, not generated classes: they go into a pool of our own, so that nothing clashes with another
copy of the protocol in a user's process, and they ask for no certain version of protobuf.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from grpc_tools import protoc

ROOT = Path(__file__).parents[1]
PROTO = ROOT / "proto"
TARGET = ROOT / "src" / "fairlead" / "api" / "_generated" / "oip.binpb"
FILES = ("grpc_service.proto",)


def descriptor_set() -> bytes:
    """What protoc makes of the files, imports included."""
    with tempfile.TemporaryDirectory() as directory:
        out = Path(directory) / "set"
        code = protoc.main(
            ["protoc", f"-I{PROTO}", "--include_imports", f"--descriptor_set_out={out}", *FILES]
        )
        if code:
            sys.exit(code)
        return out.read_bytes()


if __name__ == "__main__":
    TARGET.parent.mkdir(exist_ok=True)
    TARGET.write_bytes(descriptor_set())
