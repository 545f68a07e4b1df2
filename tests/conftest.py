"""For every test: how many examples a property test tries."""

from __future__ import annotations

from hypothesis import settings

from support.effort import EXAMPLES, THOROUGH, TIMES

# No deadlines: on a busy machine they would fail what is right, and each test has its timeout.
settings.register_profile("quick", max_examples=EXAMPLES, deadline=None)
settings.register_profile(THOROUGH, max_examples=EXAMPLES * TIMES, deadline=None)
settings.load_profile("quick")  # `make slow` asks for the other one by `--hypothesis-profile`
