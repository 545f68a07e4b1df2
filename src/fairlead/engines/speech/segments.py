"""A piece of what is to be said."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Segment:
    """A piece of text that is said in one way. A respelling is said instead of the text."""

    text: str
    respelling: str = ""
    loudness: float = 0.0  # decibels, added to the voice's own
    tempo: float = 1.0  # times the voice's own
