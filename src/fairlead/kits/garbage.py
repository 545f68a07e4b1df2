"""When Python looks for garbage: hardly ever while a process starts, then as it usually does."""

from __future__ import annotations

import gc

_USUAL = gc.get_threshold()
_SELDOM = (
    200_000  # more than any of our starts makes, and little enough for a command that runs long
)


def seldom() -> None:
    """Until `as_usual`: what is imported is never thrown away, and looking through it costs a fifteenth of a start."""
    gc.set_threshold(_SELDOM, *_USUAL[1:])


def as_usual() -> None:
    """For what runs on and answers people: many short looks, not a few long ones."""
    gc.set_threshold(*_USUAL)
