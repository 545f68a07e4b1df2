"""Version words and their order: `v9` < `v10`, `v9.2` < `v9.10`."""

from __future__ import annotations

import re

_PARTS = re.compile(r"([0-9]+)")

_DIGITS = frozenset("0123456789")

NaturalKey = tuple[tuple[int, int, str], ...]


def natural_key(word: str) -> NaturalKey:
    """Sort key that compares runs of digits as numbers: `v9` before `v10`, `2` before `10`.

    Total over all strings: words that differ never compare equal (`v01` and `v1` differ by their text).
    """
    parts = _PARTS.split(word)
    key = [_digits(part) if part[0] in _DIGITS else (1, 0, part) for part in parts if part]
    return (*key, (-1, 0, word))


def _digits(part: str) -> tuple[int, int, str]:
    """Ordered as the number, whatever its length: Python does not read very long ones."""
    significant = part.lstrip("0")
    return 0, len(significant), significant


def version_key(version: str) -> tuple[NaturalKey, NaturalKey]:
    """Sort key of a served version: by line, then by revision; `v9` sorts before `v9.1`."""
    line, _, revision = version.partition(".")
    return natural_key(line), natural_key(revision) if revision else ()


def split_version(version: str) -> tuple[str, str | None]:
    """`v9` is a line; `v9.2` a revision of it: what follows the first dot (S0-7)."""
    line, dot, revision = version.partition(".")
    return line, revision if dot else None
