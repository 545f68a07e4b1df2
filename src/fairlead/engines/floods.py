"""Large requests that are wrong in every element.

pydantic lists every mistake of a request, at some 250 bytes each: 64 MiB of wrong elements would fill
gigabytes. Large bodies are therefore checked by a twin of the validator whose lists stop at their first
mistake.
"""

from __future__ import annotations

from typing import Any

from pydantic import TypeAdapter
from pydantic_core import SchemaValidator

LARGE_BYTES = 64 * 1024
_LISTS = ("list", "tuple", "set", "frozenset")
_NOT_SCHEMAS = ("metadata", "default", "serialization")


def stops_early(adapter: TypeAdapter[Any]) -> SchemaValidator:
    """The adapter's validator, with lists that stop at their first mistake."""
    # Without the flag, models inside are validated by their own validators, which list everything.
    return SchemaValidator(_marked(adapter.core_schema), _use_prebuilt=False)


def _marked(schema: Any) -> Any:  # noqa: ANN401 - any part of a core schema
    if isinstance(schema, dict):
        marked = {
            key: value if key in _NOT_SCHEMAS else _marked(value) for key, value in schema.items()
        }
        if marked.get("type") in _LISTS:
            marked["fail_fast"] = True
        return marked
    if isinstance(schema, list):
        return [_marked(item) for item in schema]
    return schema
