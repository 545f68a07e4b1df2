"""Why a worker ended, from the last lines of its log."""

from __future__ import annotations

import json
from pathlib import Path

_TAIL_BYTES = 16 * 1024
_SHOWN = 300  # characters a reason may have
_SERIOUS = ("ERROR", "CRITICAL")


def last_words(log: Path) -> str:
    """The last error of a log of JSON lines, or its last line that is none; empty if it says nothing."""
    try:
        with log.open("rb") as file:
            size = file.seek(0, 2)
            file.seek(max(0, size - _TAIL_BYTES))
            lines = file.read().decode(errors="replace").splitlines()
    except OSError:
        return ""
    plain = ""
    for line in reversed(lines):
        text = line.strip()
        try:
            entry = json.loads(text)
        except ValueError:
            plain = plain or text
            continue
        if isinstance(entry, dict) and entry.get("levelname") in _SERIOUS:
            return str(entry.get("message", ""))[:_SHOWN]
    return plain[:_SHOWN]
