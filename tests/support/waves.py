"""Waves of quick requests without connections: each caller keeps its answers, and time passes as it is looked at."""

from __future__ import annotations

from fairlead.kits.clock import FakeClock
from fairlead.server.http.quick import QuickRequest


class Ticks(FakeClock):
    """A second, or another time, passes whenever somebody looks."""

    def __init__(self, seconds: float = 1.0) -> None:
        super().__init__()
        self._seconds = seconds

    def monotonic(self) -> float:
        self.advance(self._seconds)
        return super().monotonic()


class Caller:
    """A connection that keeps its answers. `left`: nobody is there."""

    def __init__(self, *, left: bool = False) -> None:
        self.left = left
        self.answers: list[bytes] = []

    def finish(self, request: QuickRequest, answer: bytes) -> None:
        request.response_complete = True
        self.answers.append(answer)

    def hand_over(self, request: QuickRequest) -> None:
        raise AssertionError(request.target)

    def peer(self) -> None:
        return None
