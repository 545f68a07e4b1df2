"""The JSON of resources of which hardly anything changes: each, and what a map has under a key, is encoded once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from fairlead.adapters.envoy.known import Known

_MAP = "map"  # of a matcher: up to thousands of entries, most of them as they were


class Texts:
    """Encodes again and again."""

    def __init__(self) -> None:
        self._known: Known[Any] = Known()

    def encode(self, version: str, resources: Sequence[Mapping[str, Any]]) -> bytes:
        """`{"version_info": "7", "resources": […]}`."""
        self._known.begin()
        parts = [self._known.of(one, self._part) for one in resources]
        data = msgspec.json.encode({"version_info": version, "resources": parts})
        self._known.end()
        return data

    def _part(self, resource: Mapping[str, Any]) -> Any:  # noqa: ANN401 - text, or JSON with texts in it
        """One that holds a map is made anew whenever something in it changes: its whole text is of no use twice."""
        before = len(self._known)
        outline = self._outline(resource)
        return outline if len(self._known) > before else _text(outline)

    def _outline(self, value: Any) -> Any:  # noqa: ANN401 - any JSON value
        """The same with every map's entries as text."""
        if isinstance(value, Mapping):
            return {
                key: {name: self._known.of(entry, self._entry) for name, entry in one.items()}
                if key == _MAP and isinstance(one, Mapping)
                else self._outline(one)
                for key, one in value.items()
            }
        if isinstance(value, list):
            return [self._outline(one) for one in value]
        return value

    def _entry(self, entry: object) -> msgspec.Raw:
        return _text(self._outline(entry))


def _text(value: object) -> msgspec.Raw:
    return msgspec.Raw(msgspec.json.encode(value))
