"""The JSON of resources of which hardly anything changes: each, and what a map has under a key, is encoded once.

Whoever renders them hands in the same objects again for what did not change (see `encoding`, which does the same
for protobuf), so an entry is known by its identity.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

_MAP = "map"  # of a matcher: up to thousands of entries, most of them as they were


class Texts:
    """Encodes again and again."""

    def __init__(self) -> None:
        self._last: dict[int, tuple[object, msgspec.Raw]] = {}
        self._now: dict[int, tuple[object, msgspec.Raw]] = {}

    def encode(self, version: str, resources: Sequence[Mapping[str, Any]]) -> bytes:
        """`{"version_info": "7", "resources": […]}`."""
        self._now = {}
        texts = [self._text(one) for one in resources]
        data = msgspec.json.encode({"version_info": version, "resources": texts})
        self._last = self._now
        return data

    def _outline(self, value: Any) -> Any:  # noqa: ANN401 - any JSON value
        """The same with every map's entries as text."""
        if isinstance(value, Mapping):
            return {
                key: {name: self._text(entry) for name, entry in one.items()}
                if key == _MAP and isinstance(one, Mapping)
                else self._outline(one)
                for key, one in value.items()
            }
        if isinstance(value, list):
            return [self._outline(one) for one in value]
        return value

    def _text(self, entry: object) -> msgspec.Raw:
        known = self._last.get(id(entry)) or self._now.get(id(entry))
        if known is None or known[0] is not entry:
            known = (entry, msgspec.Raw(msgspec.json.encode(self._outline(entry))))
        self._now[id(entry)] = known
        return known[1]
