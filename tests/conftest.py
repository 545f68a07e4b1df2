"""For every test: how many examples a property test tries, how long it may take for them, and which tests begin first."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

from support.effort import EXAMPLES, THOROUGH, TIMES

# No deadlines, nor a look at how long examples take to make: on a busy machine both would fail what is right, and
# each test has its timeout.
_PATIENT: Any = {"deadline": None, "suppress_health_check": [HealthCheck.too_slow]}
settings.register_profile("quick", max_examples=EXAMPLES, **_PATIENT)
settings.register_profile(THOROUGH, max_examples=EXAMPLES * TIMES, **_PATIENT)
settings.load_profile("quick")  # `make slow` asks for the other one by `--hypothesis-profile`

_FIRST = ("system", "contract")  # the longer ones; whatever is not named here is short
_HERE = Path(__file__).parent


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if settings.get_current_profile_name() == THOROUGH:
        _allow_time(items)
    _long_ones_first(items)


def _allow_time(items: list[pytest.Item]) -> None:
    """Twenty times the examples take twenty times as long, also where a test names its own timeout."""
    for item in items:
        own = item.get_closest_marker("timeout")
        if own is not None:
            item.add_marker(pytest.mark.timeout(own.args[0] * TIMES), append=False)


def _long_ones_first(items: list[pytest.Item]) -> None:
    """The files whose tests take long and wait much begin first, in an order that stays random among them.

    The short ones then fill what the cores have left, and no process sits alone with a long test in the end.
    """
    rooms = [_HERE / room for room in _FIRST]

    def place(item: pytest.Item) -> int:
        return next((at for at, room in enumerate(rooms) if room in item.path.parents), len(rooms))

    items.sort(key=place)
