"""How long a request waited and how long its model ran, in this process's own time."""

from __future__ import annotations


class Times:
    """Of one request. Moments are the clock's seconds; 0 where something has not happened."""

    __slots__ = ("arrived", "began", "engine_seconds", "started")

    def __init__(self, started: float) -> None:
        self.started = started  # its headers are here
        self.arrived = 0.0  # and all of its body
        self.began = 0.0  # the first run
        self.engine_seconds = 0.0  # of all its runs; up to now for one that was given up

    def ran(self, began: float, seconds: float) -> None:
        """Add a run."""
        if not self.began:
            self.began = began
        self.engine_seconds += seconds
