"""How the requests of one model share a run: as rows of its tensors, or as a list its own code is given."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Hashable, Sequence
from typing import Any, Protocol

import msgspec

from fairlead.api.inference import InferRequest, InferResponse, Model
from fairlead.domain import batchable
from fairlead.domain.batchable import rows_problem
from fairlead.domain.batching import Batching
from fairlead.domain.errors import Problem
from fairlead.domain.signature import DocumentSignature, Signature, TensorSignature
from fairlead.engines.batches import Rows

Infer = Callable[[InferRequest], InferResponse | Awaitable[InferResponse]]


class Sharing(Protocol):
    """What a batch is made of, and how it runs."""

    @property
    def padded(self) -> Sequence[tuple[str, int]]:
        """Inputs and their dimensions that are filled up."""
        ...

    @property
    def largest(self) -> int | None:
        """How much one run takes at most; None if there is no such limit."""
        ...

    def learn(self, model: Model, requests: Sequence[InferRequest]) -> str | None:
        """Learn from golden examples what sharing needs to know; why that cannot be known, in words."""
        ...

    def longer(self, request: InferRequest) -> list[InferRequest]:
        """It with more values wherever requests are filled up, once that was learned."""
        ...

    def count(self, request: InferRequest) -> int:
        """How much of a batch it is; 0 if it cannot be in one."""
        ...

    def key(self, request: InferRequest) -> Hashable:
        """Requests of the same key may share a run."""
        ...

    def run(self, model: Model, requests: Sequence[InferRequest]) -> list[InferResponse]:
        """Each request's answer, from one run; raises what the model raises."""
        ...


class _AsTheyAre:
    """The part of those that are run as they are asked: nothing is filled up, nothing needs to be known of lengths."""

    padded: Sequence[tuple[str, int]] = ()
    largest: int | None = None

    def learn(self, model: Model, requests: Sequence[InferRequest]) -> str | None:
        del model, requests
        return None

    def longer(self, request: InferRequest) -> list[InferRequest]:
        del request
        return []

    def key(self, request: InferRequest) -> Hashable:
        del request
        return None


class Documents(_AsTheyAre):
    """Requests of code that answers a list of them: `predict_batch`."""

    def count(self, request: InferRequest) -> int:
        del request
        return 1

    def run(self, model: Model, requests: Sequence[InferRequest]) -> list[InferResponse]:
        together: Any = model
        answers: list[InferResponse] = together.infer_together(requests)
        return answers


class Alone(_AsTheyAre):
    """Requests that run one by one, whatever they are; `infer` is how one does (`infer_of`)."""

    def __init__(self, signature: Signature, infer: Infer) -> None:
        self._batched = batched_input(signature)
        self._infer = infer

    def count(self, request: InferRequest) -> int:
        return rows_of(request, self._batched)

    def run(self, model: Model, requests: Sequence[InferRequest]) -> list[InferResponse]:
        del model
        (request,) = requests
        answer = self._infer(request)
        assert isinstance(answer, InferResponse)
        return [answer]


def batched_input(signature: Signature) -> str:
    """The first input with a batch dimension; empty if there is none."""
    if isinstance(signature, DocumentSignature):
        return ""
    batched = (spec.name for spec in signature.inputs if spec.shape and spec.shape[0] == -1)
    return next(batched, "")


def rows_of(request: InferRequest, batched: str) -> int:
    """How many items a request brings: the size of the batch dimension of `batched_input`, 1 where there is none."""
    tensor = request.tensors.get(batched)
    return 1 if tensor is None else len(tensor)


def once_more(model: Model, request: InferRequest) -> InferRequest:
    """As it was asked, for one more run: code may change the document that it is given. Tensors are only read.

    Raises what `parse_document` raises.
    """
    if request.text is None:
        return request
    return msgspec.structs.replace(request, document=model.parse_document(request.text))


def cannot_share(model: Model) -> str | None:
    """Why no two requests can share a run of this model, in words; None if nothing is known against it."""
    if isinstance(model.signature, TensorSignature):
        return rows_problem(model.signature)
    if getattr(model, "answers_lists", False):
        return None
    return "it takes documents and has no predict_batch"


def sharing_of(model: Model, batching: Batching) -> Sharing:
    """Of a model that can."""
    if isinstance(model.signature, TensorSignature):
        return Rows(model.signature, batching)
    return Documents()


def infer_of(model: Model, batching: Batching) -> Infer:
    """How the model answers one request: as `model.infer`, filled up where only some sizes are allowed."""
    rows = _sized(model, batching)
    if rows is None:
        return model.infer
    return lambda request: rows.run(model, [request])[0]


def filled(model: Model, batching: Batching, request: InferRequest) -> InferRequest:
    """One request as the model may be given it; raises Refused (INVALID) if it has more rows than any allowed size."""
    rows = _sized(model, batching)
    return request if rows is None else rows.merge([request])


def _sized(model: Model, batching: Batching) -> Rows | None:
    if not batching.allowed_batch_sizes or not isinstance(model.signature, TensorSignature):
        return None
    return Rows(model.signature, batching) if rows_problem(model.signature) is None else None


def misfits(batching: Batching, model: Model) -> list[Problem]:
    """What the settings say that the model does not have."""
    if batching.enabled and isinstance(model.signature, DocumentSignature):
        reason = cannot_share(model)
        if reason is not None:
            cannot = f"the model cannot be batched: {reason}"
            return [Problem("batching.enabled", "is true", cannot)]
    return batchable.misfits(batching, model.signature)
