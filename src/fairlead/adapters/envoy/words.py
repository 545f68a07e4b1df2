"""What Envoy says of itself, in its own log."""

from __future__ import annotations

import json
from pathlib import Path

_FORMAT = (
    '{"service":"envoy","asctime":"%Y-%m-%dT%T.%eZ","levelname":"%l","name":"%n","message":"%j"}'
)
_MOST = 4_000  # characters that an error quotes


def flags(log: Path) -> list[str]:
    """The arguments that let Envoy write there, a line of JSON each time."""
    return [
        "--log-level",
        "warning",
        # A refused file is logged whole, keys and all: `refusal` finds out why without them.
        "--component-log-level",
        "config:error,misc:error",
        "--log-path",
        str(log),
        "--log-format",
        _FORMAT,
    ]


def words_since(log: Path, seen: int) -> str:
    """What it has written beyond the first `seen` bytes, without the frame of the log's lines."""
    with log.open("rb") as file:
        file.seek(seen)
        lines = file.read().decode(errors="replace").splitlines()
    text = " | ".join(_message(line) for line in lines if line.strip())[-_MOST:]
    return text or "it did not say why"


def _message(line: str) -> str:
    try:
        return str(json.loads(line)["message"])
    except (ValueError, KeyError, TypeError):
        return line
