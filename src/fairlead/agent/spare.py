"""A worker process that waits ready for whoever is asked for first: for a while after something has gone cold."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from fairlead.agent.ports import Launcher
from fairlead.domain.scale_units import ScaleUnit
from fairlead.domain.status import State


class Spare:
    """Keeps one while it is wanted.

    A start from it spares its caller Python and its imports. But what nobody has asked for in `seconds` is to
    cost nothing, so the spare process goes too, until something comes up or goes cold again.
    """

    def __init__(self, seconds: float, launcher: Launcher, life_fd: int | None) -> None:
        self._seconds = seconds
        self._launcher = launcher
        self._life_fd = life_fd
        self._cold: frozenset[ScaleUnit] = frozenset()
        self._since = 0.0  # when what is cold last changed

    def keep(self, cold: Collection[ScaleUnit], states: Mapping[State, int], now: float) -> None:
        """Look again, at a steady time. A start that is under way has the processor to itself."""
        wanted = self._wanted(cold, now)
        busy = states.get(State.STARTING, 0) + states.get(State.PROVING, 0) > 0
        if not busy or not wanted:
            self._launcher.keep_spare(self._life_fd, wanted=wanted)

    def end(self) -> None:
        """It goes now."""
        self._launcher.keep_spare(self._life_fd, wanted=False)

    def _wanted(self, cold: Collection[ScaleUnit], now: float) -> bool:
        if (found := frozenset(cold)) != self._cold:
            self._cold, self._since = found, now
        return bool(self._cold) and now < self._since + self._seconds
