"""Sizes, for people."""

from __future__ import annotations


def mebibytes(size_bytes: int) -> str:
    """Like `1.4 MiB`."""
    return f"{mib(size_bytes)} MiB"


def mib(size_bytes: int) -> str:
    """The number alone, for two sizes in one unit: `1.4 of 20.0 MiB`."""
    return f"{size_bytes / (1 << 20):.1f}"
