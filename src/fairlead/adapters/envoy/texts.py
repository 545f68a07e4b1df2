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
        parts = [self._part(one) for one in resources]
        data = msgspec.json.encode({"version_info": version, "resources": parts})
        self._last = self._now
        return data

    def _part(self, resource: Mapping[str, Any]) -> Any:  # noqa: ANN401 - text, or JSON with texts in it
        """One that holds a map is made anew whenever something in it changes: its own text is of no use twice."""
        if self._known(resource) is None:
            before = len(self._now)
            outline = self._outline(resource)
            if len(self._now) > before:
                return outline
        return self._text(resource)

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
        text = self._known(entry) or msgspec.Raw(msgspec.json.encode(self._outline(entry)))
        self._now[id(entry)] = (entry, text)
        return text

    def _known(self, entry: object) -> msgspec.Raw | None:
        known = self._last.get(id(entry)) or self._now.get(id(entry))
        return known[1] if known is not None and known[0] is entry else None
