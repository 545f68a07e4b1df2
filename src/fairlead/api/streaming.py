"""Models that answer a little at a time: `stream` besides `infer`."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Protocol, TypeGuard, runtime_checkable

from fairlead.api.inference import InferRequest, InferResponse, Model


@runtime_checkable
class Streaming(Protocol):
    """Closing the generator ends the work at once; nothing of it goes on behind the caller's back."""

    def stream(self, request: InferRequest) -> AsyncGenerator[InferResponse, None]:
        """Raises FairleadError before the first answer, or later; then what came before was not all."""
        ...


def streams(model: Model) -> TypeGuard[Streaming]:
    """Does this model answer a little at a time?"""
    return isinstance(model, Streaming)
