"""How long a request waited and how long its model ran, in this process's own time."""

from __future__ import annotations

from collections.abc import Sequence


class Times:
    """Of one request. Moments are the clock's seconds; 0 where something has not happened."""

    __slots__ = ("arrived", "batch", "began", "engine_seconds", "started")

    def __init__(self, started: float) -> None:
        self.started = started  # its headers are here
        self.arrived = 0.0  # and all of its body
        self.began = 0.0  # the first run
        self.engine_seconds = 0.0  # of all its runs; up to now for one that was given up

        self.batch = 1  # requests in its last run

    def ran(self, began: float, seconds: float, batch: int = 1) -> None:
        """Add a run, which `batch` requests shared."""
        self.batch = batch
        if not self.began:
            self.began = began
        self.engine_seconds += seconds

    def ran_together(self, each: Sequence[Times]) -> None:
        """Add the runs of several requests that were made side by side: from their first begin to their last end."""
        ran = [one for one in each if one.began]
        if ran:
            began = min(one.began for one in ran)
            ended = max(one.began + one.engine_seconds for one in ran)
            self.ran(began, ended - began, max(one.batch for one in ran))
