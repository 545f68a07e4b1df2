"""Waiting until a change is live, for commands that a person or a script runs."""

from __future__ import annotations

from collections.abc import Callable

from fairlead.domain.errors import FairleadError, Kind, Refused
from fairlead.domain.superseded import Made, superseded
from fairlead.wiring.homes import Control
from fairlead.wiring.observe import Observer

_LOOK_SECONDS = 0.05


def settle(
    control: Control,
    made: Made,
    timeout_seconds: float,
    tell: Callable[[str], None],
) -> None:
    """Wait until the running gateway does what a command has made of its services, and what the catalog says of all keys.

    Where nothing runs there is nothing to wait for, and that is told. Raises FairleadError(DEADLINE) if it does not in
    time, whichever command waits: a script has to know. Raises Refused(CONFLICT) if somebody takes back what was made
    before it was seen live.
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
        if seen.running is None and seen.gateway is None and not seen.away:
            tell("nothing runs here; it takes effect with the next `fairlead up`")
            return
        seconds = control.clock.monotonic() - started
        problems = seen.unsettled(made.services)
        if not problems:
            tell(f"live after {seconds:.1f} s")
            return
        if seconds > timeout_seconds:
            for problem in problems:
                tell(f"not live: {problem}")
            message = "the change is in the catalog but not live yet; `fairlead status` says why"
            raise FairleadError(message, kind=Kind.DEADLINE)
        if seconds > 1.0 and problems != told:
            told = problems
            for problem in problems:
                tell(f"waiting: {problem}")
        control.clock.pause(_LOOK_SECONDS)
