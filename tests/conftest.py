"""For every test: how many examples a property test tries."""

from __future__ import annotations

from typing import Any

from hypothesis import HealthCheck, settings

from support.effort import EXAMPLES, THOROUGH, TIMES

# No deadlines, nor a look at how long examples take to make: on a busy machine both would fail what is right, and
# each test has its timeout.
_PATIENT: Any = {"deadline": None, "suppress_health_check": [HealthCheck.too_slow]}
settings.register_profile("quick", max_examples=EXAMPLES, **_PATIENT)
settings.register_profile(THOROUGH, max_examples=EXAMPLES * TIMES, **_PATIENT)
settings.load_profile("quick")  # `make slow` asks for the other one by `--hypothesis-profile`
