"""The proof that rows do not notice each other: golden answers must be the same in company as alone.

A model that normalises over its batch, or counts it, answers otherwise as soon as others share its run.
So each golden example is run between neighbours that differ from it (other examples, examples turned
around, longer ones where lengths are padded), and all of them must answer as they do alone. Before, it is
learned what of an answer is as long as what is padded.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from fairlead.api.inference import InferRequest, InferResponse, Model, Tensor
from fairlead.domain.errors import FairleadError
from fairlead.domain.golden import Golden, difference
from fairlead.domain.signature import DocumentSignature
from fairlead.engines.proof import request_of
from fairlead.engines.sharing import Sharing

_MOST_EXAMPLES = 8  # of the golden ones: each is run twice more
_DEFAULT_ROWS = 64


@dataclass(frozen=True, slots=True)
class _Company:
    """One request of a batch, what it must answer there, and its name in an error.

    `again` makes it anew: code may change the document that it is given.
    """

    request: InferRequest
    again: Callable[[], InferRequest]
    expected: Any
    name: str


def mixes(model: Model, golden: Golden, sharing: Sharing, most: int | None) -> str | None:
    """How answers differ in a batch of at most `most` rows; None if they do not. Runs the model, in this thread."""
    requests = [request_of(model, example) for example in golden.examples[:_MOST_EXAMPLES]]
    unknown = sharing.learn(model, [request for request in requests if sharing.count(request)])
    if unknown is not None:
        return unknown
    groups: dict[Hashable, list[_Company]] = {}
    for one in _company(model, golden, requests, sharing):
        groups.setdefault(sharing.key(one.request), []).append(one)
    if not groups:
        if sharing.largest is not None:
            return f"no two requests made of golden examples fit into {sharing.largest} rows, the largest of allowedBatchSizes"
        return "no golden example has rows"
    for group in groups.values():
        for batch in _batches(group, sharing, most or _DEFAULT_ROWS):
            problem = _differs(model, batch, golden.tolerance, sharing)
            if problem is not None:
                return problem
    return None


def _company(
    model: Model, golden: Golden, requests: Sequence[InferRequest], sharing: Sharing
) -> Iterator[_Company]:
    """Neighbours first, so that no example has the first row to itself."""
    for request in requests:
        neighbours = [*_turned(request), *sharing.longer(request)]
        if sharing.count(request) > 1 and sharing.largest is not None:
            # Those that fill a run by themselves say nothing of those that are filled up.
            neighbours += [row for one in (request, *neighbours) for row in _rows(one)]
        for neighbour in neighbours:
            if not _has_room(neighbour, sharing):
                continue
            try:
                (answer,) = sharing.run(model, [neighbour])
            except FairleadError:
                continue  # nobody said that the model can answer it
            again = partial(_same, neighbour)  # tensors are only read
            yield _Company(neighbour, again, _lists(answer), "a request made of one")
    for number, (request, example) in enumerate(zip(requests, golden.examples, strict=False), 1):
        if _has_room(request, sharing):
            again = partial(request_of, model, example)
            yield _Company(request, again, example.response, f"golden example {number}")


def _has_room(request: InferRequest, sharing: Sharing) -> bool:
    """Do two like it fit into a run?"""
    count = sharing.count(request)
    return count > 0 and (sharing.largest is None or 2 * count <= sharing.largest)


def _rows(request: InferRequest) -> list[InferRequest]:
    """Its first rows, each by itself."""
    count = len(next(iter(request.tensors.values())))
    return [
        InferRequest({name: tensor[row : row + 1] for name, tensor in request.tensors.items()})
        for row in range(min(count, _MOST_EXAMPLES))
    ]


def _same(request: InferRequest) -> InferRequest:
    return request


def _batches(group: list[_Company], sharing: Sharing, most: int) -> Iterator[list[_Company]]:
    """All of them, in batches of two requests or more."""
    if len(group) == 1:
        group = group * 2
    batch: list[_Company] = []
    for one in group:
        total = sum(sharing.count(other.request) for other in batch)
        if len(batch) > 1 and total + sharing.count(one.request) > most:
            yield batch
            batch = batch[-1:]  # nobody is left to run alone
        batch.append(one)
    yield batch


def _differs(
    model: Model, batch: list[_Company], tolerance: Mapping[str, float], sharing: Sharing
) -> str | None:
    where = f"in a batch of {len(batch)}"
    if isinstance(model.signature, DocumentSignature):
        where += " (predict_batch)"
    try:
        answers = sharing.run(model, [one.again() for one in batch])
        # Code may give anything: whether it can be written as an answer is seen only when that is tried.
        every = [
            _given(model, answer, one.expected) for one, answer in zip(batch, answers, strict=True)
        ]
    except FairleadError as error:
        return f"{where}: {error.message}"
    for one, given in zip(batch, every, strict=True):
        problem = difference(one.expected, given, tolerance)
        if problem is not None:
            return f"{one.name} is answered otherwise {where}: {problem}"
    return None


def _given(model: Model, answer: InferResponse, expected: Any) -> Any:  # noqa: ANN401 - JSON values
    """The answer as the example has it, which may name only the outputs it is about."""
    if isinstance(model.signature, DocumentSignature):
        return json.loads(model.dump_document(answer.document))
    wanted = expected if isinstance(expected, dict) else {}
    return {name: value for name, value in _lists(answer).items() if name in wanted}


def _lists(answer: InferResponse) -> dict[str, Any]:
    return {name: tensor.tolist() for name, tensor in answer.tensors.items()}


def _turned(request: InferRequest) -> list[InferRequest]:
    """The same values in another order within each row; nothing if a row has one value only."""
    turned = {name: _flipped(tensor) for name, tensor in request.tensors.items()}
    same = all(np.array_equal(turned[name], tensor) for name, tensor in request.tensors.items())
    return [] if same else [InferRequest(turned)]


def _flipped(tensor: Tensor) -> Tensor:
    axes = tuple(range(1, tensor.ndim))
    return np.ascontiguousarray(np.flip(tensor, axes)) if axes else tensor
