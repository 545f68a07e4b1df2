"""For every test: how many examples a property test tries, how long it may take for them, and who begins first."""

from __future__ import annotations

import gc
import signal
from collections.abc import Generator
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

from support.effort import EXAMPLES, THOROUGH, TIMES
from support.order import seconds

# Whoever runs the tests may ignore Ctrl-C (a shell does for what it starts with `&`), and what they start would inherit that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# No deadlines, nor a look at how long examples take to make: on a busy machine both would fail what is right, and
# each test has its timeout.
_PATIENT: Any = {"deadline": None, "suppress_health_check": [HealthCheck.too_slow]}
settings.register_profile("quick", max_examples=EXAMPLES, **_PATIENT)
settings.register_profile(THOROUGH, max_examples=EXAMPLES * TIMES, **_PATIENT)
settings.load_profile("quick")  # `make slow` asks for the other one by `--hypothesis-profile`


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_collection() -> Generator[None, object, object]:
    """What is made now stays to the end: to look through it again and again takes a third of the time, for nothing."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest modules first, after the shuffle: in a module, and among equals, the order stays random."""
    items.sort(key=lambda item: -seconds(item.path))
    _take_longer(items)


def _take_longer(items: list[pytest.Item]) -> None:
    """Twenty times the examples take twenty times as long, also where a test names its own timeout."""
    if settings.get_current_profile_name() != THOROUGH:
        return
    for item in items:
        own = item.get_closest_marker("timeout")
        if own is not None:
            item.add_marker(pytest.mark.timeout(own.args[0] * TIMES), append=False)
