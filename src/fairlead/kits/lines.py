"""Finding the lines of large files that hold some bytes, without reading the others."""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from pathlib import Path


def lines_with(path: Path, wanted: bytes) -> Iterator[bytes]:
    """Every whole line that holds `wanted`, in order; none if there is no such file.

    A file that others append to meanwhile is read as far as it was when this began.
    """
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as text:
            at = text.find(wanted)
            while at >= 0:
                start, end = text.rfind(b"\n", 0, at) + 1, text.find(b"\n", at)
                if end < 0:
                    return  # it is still being written
                yield text[start:end]
                at = text.find(wanted, end)
    except FileNotFoundError:
        return
    except ValueError:  # an empty file cannot be mapped
        return


def first_line(path: Path) -> bytes:
    """The first line, without its end; empty if there is none."""
    try:
        with path.open("rb") as file:
            return file.readline().rstrip(b"\n")
    except FileNotFoundError:
        return b""
