"""What a voice's process asks of a synthesizer, and what a synthesizer gets of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol


class Cannot(Exception):
    """A synthesizer cannot be loaded, or not say this; in words."""


class Emit(Protocol):
    """Hands over sound; False says that nobody listens any more."""

    def __call__(self, samples: bytes) -> bool: ...

    def wait(self, seconds: float) -> bool:
        """Wait, unless nobody listens any more (False)."""
        ...


class Synthesizer(Protocol):
    """One way to make sound of text. `rate` is its samples a second."""

    rate: int

    def lacks(self, voices: Sequence[Any]) -> list[Any]:
        """Which of these voices it does not have."""
        ...

    def say(self, order: Mapping[str, Any], emit: Emit) -> None:
        """Say `order["segments"]` as `order["voice"]`; raises Cannot."""
        ...
