"""What an endpoint counts of the answers it streams."""

from __future__ import annotations

import threading
from bisect import bisect_left

from fairlead.domain.errors import Kind
from fairlead.server.stats import BUCKETS


class StreamCounts:
    """First bytes, streams that broke, and how much was said. `said` may be called from any thread."""

    def __init__(self) -> None:
        self.first_buckets = [0] * (len(BUCKETS) + 1)
        self.first_seconds = 0.0
        self.broken: dict[Kind, int] = {}
        self.sound_seconds = 0.0
        self.characters = 0
        self._lock = threading.Lock()

    def begun(self, seconds: float) -> None:
        """The first byte of an answer, so long after its request."""
        self.first_seconds += seconds
        self.first_buckets[bisect_left(BUCKETS, seconds)] += 1

    def broke(self, kind: Kind) -> None:
        """An answer that was begun and not ended."""
        self.broken[kind] = self.broken.get(kind, 0) + 1

    def said(self, seconds: float, characters: int = 0) -> None:
        with self._lock:
            self.sound_seconds += seconds
            self.characters += characters
