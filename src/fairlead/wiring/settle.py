"""Waiting until a change is live, for commands that a person or a script runs."""

from __future__ import annotations

from collections.abc import Callable

from fairlead.domain.errors import Kind, Refused
from fairlead.domain.superseded import Made, superseded
from fairlead.wiring.homes import Control
from fairlead.wiring.observe import Observer

_LOOK_SECONDS = 0.05


def settle(
    control: Control,
    made: Made,
    timeout_seconds: float,
    tell: Callable[[str], None],
) -> bool:
    """Wait until the running gateway does what a command has made of its services, and what the catalog says of all keys.

    False if it does not in time. Where nothing runs there is nothing to wait for: that is told, and True.
    Raises Refused(CONFLICT) if somebody takes back what was made before it was seen live.
    """
    started = control.clock.monotonic()
    told: list[str] = []
    observer = Observer(control)
    while True:
        seen = observer.look()
        if taken_back := superseded(made, seen.catalog):
            raise Refused(
                Kind.CONFLICT,
                f"superseded before it was live: {'; '.join(taken_back)}; `fairlead status` says what stands now",
            )
        if seen.running is None and seen.gateway is None:
            tell("nothing runs here; it takes effect with the next `fairlead up`")
            return True
        seconds = control.clock.monotonic() - started
        problems = seen.unsettled(made.services)
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
