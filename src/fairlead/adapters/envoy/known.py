"""What was made of objects that come again: known by their identity, for they are large and compared often.

Whoever renders resources hands in the same objects again for what did not change. They are held here, so no
identity is ever another object's.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, TypeVar

Made = TypeVar("Made")


class Known(Generic[Made]):
    """Of this pass and the last whole one; what a whole pass did not ask for is forgotten after it."""

    def __init__(self) -> None:
        self._last: dict[int, tuple[object, Made]] = {}
        self._now: dict[int, tuple[object, Made]] = {}

    def __len__(self) -> int:
        """How many were asked for in this pass."""
        return len(self._now)

    def begin(self) -> None:
        """A new pass; of one that was not ended nothing stays."""
        self._now = {}

    def end(self) -> None:
        """The pass is whole."""
        self._last = self._now

    def of(self, thing: Any, make: Callable[[Any], Made]) -> Made:  # noqa: ANN401 - any object
        """What was made of this very object before, or now."""
        known = self._last.get(id(thing)) or self._now.get(id(thing))
        if known is None or known[0] is not thing:
            known = (thing, make(thing))
        self._now[id(thing)] = known
        return known[1]
