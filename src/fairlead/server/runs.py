"""One run of a model in a thread: how long it took, and how to tell it that nobody waits."""

from __future__ import annotations

from fairlead.api.cancellation import Cancellation, running
from fairlead.api.inference import InferRequest, InferResponse
from fairlead.engines.sharing import Infer
from fairlead.kits.clock import Clock


class Run:
    """Call it in the thread; raises FairleadError as the model does."""

    def __init__(self, infer: Infer, request: InferRequest, clock: Clock) -> None:
        self.cancellation = Cancellation()
        self.began = 0.0  # when the thread took it up; 0 before that
        self.seconds = 0.0  # of the run itself, known when it has ended
        self._infer = infer
        self._request = request
        self._now = clock.monotonic

    def __call__(self) -> InferResponse:
        start = self.began = self._now()
        try:
            with running(self.cancellation):
                answer = self._infer(self._request)
        finally:
            self.seconds = self._now() - start
        assert isinstance(answer, InferResponse)
        return answer
