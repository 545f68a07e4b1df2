"""A key of a document people write: for its reader, its JSON Schema and its reference page at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Key:
    """One key: its JSON Schema and, in words, what it means."""

    name: str
    schema: Mapping[str, Any]
    meaning: str
    required: bool = False


def object_schema(keys: Sequence[Key]) -> dict[str, Any]:
    """JSON Schema of an object with these keys and no others."""
    return {
        "type": "object",
        "additionalProperties": False,
        "properties": {key.name: dict(key.schema) | {"description": key.meaning} for key in keys},
    }
