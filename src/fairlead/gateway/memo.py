"""What was made last time, for inputs that have not changed: of a thousand services one moves at a time."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import TypeVar

T = TypeVar("T")


class Memo:
    """Keeps the results of one pass for the next; what a pass did not ask for is forgotten after it."""

    def __init__(self) -> None:
        self._last: dict[Hashable, tuple[object, object]] = {}
        self._now: dict[Hashable, tuple[object, object]] = {}

    def begin(self) -> None:
        """A new pass."""
        self._last, self._now = self._now, {}

    def of(self, key: Hashable, inputs: object, make: Callable[[], T]) -> T:
        """The result under this name: last pass's if it came of equal inputs. `make` must depend on nothing else."""
        known = self._last.get(key)
        if known is None or known[0] != inputs:
            known = (inputs, make())
        self._now[key] = known
        result: T = known[1]  # type: ignore[assignment] # what stands under this name was made by this maker
        return result
