"""Waiting until a change is live, for commands that a person or a script runs."""

from __future__ import annotations

from collections.abc import Callable, Collection

from fairlead.wiring.homes import Control
from fairlead.wiring.observe import Observer

_LOOK_SECONDS = 0.05


def settle(
    control: Control,
    services: Collection[str],
    timeout_seconds: float,
    tell: Callable[[str], None],
) -> bool:
    """Wait until the running gateway does what the catalog says of these services and of all keys.

    False if it does not in time. Where nothing runs there is nothing to wait for: that is told, and True.
    """
    started = control.clock.monotonic()
    told: list[str] = []
    observer = Observer(control)
    while True:
        seen = observer.look()
        if seen.running is None and seen.gateway is None:
            tell("nothing runs here; it takes effect with the next `fairlead up`")
            return True
        seconds = control.clock.monotonic() - started
        problems = seen.unsettled(services)
        if not problems:
            tell(f"live after {seconds:.1f} s")
            return True
        if seconds > timeout_seconds:
            for problem in problems:
                tell(f"not live: {problem}")
            return False
        if seconds > 1.0 and problems != told:
            told = problems
            for problem in problems:
                tell(f"waiting: {problem}")
        control.clock.pause(_LOOK_SECONDS)
