"""How hard a property test tries: a little each time, twenty times as hard in `make slow`; and how patient tests wait."""

from __future__ import annotations

from typing import Any

from hypothesis import settings

THOROUGH = "thorough"
EXAMPLES = 50  # of a test that says nothing else
TIMES = 20
# A deadline ends a wait for what will never come, and measures nothing: on a machine that does much else at the same
# time everything takes several times as long.
PATIENCE = 4


def effort(examples: int, **more: Any) -> settings:
    """Settings for a test that takes more or fewer examples than others; `more` is Hypothesis's own."""
    times = TIMES if settings.get_current_profile_name() == THOROUGH else 1
    return settings(max_examples=examples * times, **more)
