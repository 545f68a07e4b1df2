"""How often the agent looks at everything it knows: at once when something happens, and never for most of a core.

With a thousand replicas one look takes 40 ms, and a release wants half a dozen of them one right after the other.
"""

from __future__ import annotations

from fairlead.kits.clock import Clock

# What a second of looking costs in seconds of rest: a third of a core while much happens, a twentieth while nothing does.
_BUSY, _IDLE = 2.0, 20.0
_CREDIT_SECONDS = 1.0  # of rest that may be owed
_LONGEST_SECONDS = 0.5


class Pace:
    """Keeps account of the looks and the rests between them."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._owed = 0.0
        self._looked_at = clock.monotonic()

    def rest(self, took: float) -> float:
        """How long to rest after a look that has just ended and took so many seconds, whatever happens."""
        now = self._clock.monotonic()
        rested = now - took - self._looked_at
        owed = max(0.0, self._owed - rested) + _BUSY * took
        self._owed = min(owed, _CREDIT_SECONDS + _LONGEST_SECONDS)
        self._looked_at = now
        return max(0.0, self._owed - _CREDIT_SECONDS)

    def idle(self, took: float, least: float) -> float:
        """How long to rest on if nothing happens: at least so long, where looking is quick."""
        return min(_LONGEST_SECONDS, max(least, _IDLE * took))
