"""Several requests as one, and one answer as several: rows put behind each other, and taken apart again.

Only for models whose every tensor counts rows in its first dimension. That a model treats each row by
itself cannot be seen from its tensors: `engines/together.py` proves it. Nor can it be seen what of an answer is
as long as a padded input: that must be learned (`engines/lengths.py`), and until then nothing is padded.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np

from fairlead.api.bf16 import from_floats
from fairlead.api.inference import NUMPY_TYPES, InferRequest, InferResponse, Model, Tensor
from fairlead.domain.batchable import free
from fairlead.domain.batching import Batching, PadValue
from fairlead.domain.errors import FairleadError, Kind, Refused
from fairlead.domain.signature import TensorSignature, TensorSpec
from fairlead.engines.lengths import Learned, Lengths, learn, lengths_of, stretched


class Rows:
    """Merges and splits the requests of one model as its settings say."""

    def __init__(self, signature: TensorSignature, batching: Batching) -> None:
        self._inputs = [spec.name for spec in signature.inputs]
        self._only = self._inputs[0] if len(self._inputs) == 1 else ""
        self._allowed = batching.allowed_batch_sizes or ()
        self.largest = self._allowed[-1] if self._allowed else None
        self._pads = {
            spec.name: _element(spec, batching.pads[spec.name])
            for spec in signature.inputs
            if spec.name in batching.pads
        }
        self.padded = [
            (spec.name, axis)
            for spec in signature.inputs
            if spec.name in self._pads
            for axis in free(spec)
        ]
        self._as_they_are = not self._pads and not self._allowed
        # Shapes need comparing only where the caller chooses more than the number of rows.
        self._free = [
            (spec.name, axis)
            for spec in signature.inputs
            if spec.name not in self._pads
            for axis in free(spec)
        ]
        # By the sizes of what is not padded: the sizes of an answer may come from those too.
        self._learned: dict[Lengths, Learned] = {}

    def learn(self, model: Model, requests: Sequence[InferRequest]) -> str | None:
        """Learn from golden examples what of an answer answers padding; why that cannot be known, in words.

        Runs the model, in this thread. Requests of different lengths share no run before.
        """
        if not self.padded:
            return None
        alike: dict[Lengths, list[InferRequest]] = {}
        for request in requests:
            alike.setdefault(self._others(request), []).append(request)
        learned = {}
        for others, some in alike.items():
            try:
                found = learn(lambda request: self.run(model, [request])[0], some, self.padded)
            except FairleadError as error:
                return error.message
            if isinstance(found, str):
                return found
            learned[others] = found
        self._learned = learned
        return None

    def longer(self, request: InferRequest) -> list[InferRequest]:
        """It with twice the length: of each input that is padded by itself, and of all."""
        learned = self._learned.get(self._others(request))
        if learned is None:
            return []
        own = self.lengths(request)
        every = tuple(range(len(own)))
        which = [every, *learned.groups] if len(learned.groups) > 1 else [every]
        return [
            stretched(request, self.padded, {place: 2 * own[place] for place in places})
            for places in which
        ]

    def count(self, request: InferRequest) -> int:
        """How many rows it has; 0 if its tensors disagree, or have none: it runs alone then."""
        if self._only:
            return len(request.tensors[self._only])
        counts = {len(request.tensors[name]) for name in self._inputs}
        return counts.pop() if len(counts) == 1 else 0

    def key(self, request: InferRequest) -> Hashable:
        """Requests of the same key may share a run: lengths differ only where they are known to be padded well."""
        if not self._free and not self.padded:
            return request.outputs
        others = self._others(request)
        lengths = self.lengths(request)
        learned = self._learned.get(others)
        padded = learned is not None and learned.covers(lengths)
        return request.outputs, others, None if padded else lengths

    def lengths(self, request: InferRequest) -> Lengths:
        return lengths_of(request, self.padded)

    def _others(self, request: InferRequest) -> Lengths:
        return lengths_of(request, self._free)

    def run_size(self, rows: int) -> int:
        """With how many rows the model is run for `rows`: the next allowed size. Raises Refused (INVALID) if none is.

        Nothing is split: whoever sends too much may rely on one run.
        """
        if not self._allowed:
            return rows
        if not 0 < rows <= self._allowed[-1]:
            sizes = list(self._allowed)
            has = f"it has {rows} rows" if rows else "its tensors have no rows, or not equally many"
            right = f"send 1 to {sizes[-1]} rows at once"
            message = f"{has}; the model is run with allowedBatchSizes {sizes} only: {right}"
            raise Refused(Kind.INVALID, message)
        return next(size for size in self._allowed if size >= rows)

    def merge(self, requests: Sequence[InferRequest]) -> InferRequest:
        """One request of all their rows, in order, padded as the settings say."""
        rows = sum(self.count(request) for request in requests)
        size = self.run_size(rows)
        if len(requests) == 1 and size == rows:
            return requests[0]
        tensors = {name: _joined(self._parts(name, requests), size) for name in self._inputs}
        return InferRequest(tensors, outputs=requests[0].outputs)

    def split(
        self, requests: Sequence[InferRequest], response: InferResponse
    ) -> list[InferResponse]:
        """Each request's part of the answer, without copying; raises Refused (MODEL) if rows are not all there."""
        counts = [self.count(request) for request in requests]
        size = self.run_size(sum(counts))
        for name, tensor in response.tensors.items():
            _check_rows(name, tensor, size)
        if len(requests) == 1 and size == counts[0]:
            return [response]
        lengths = [self.lengths(request) for request in requests]
        longest = tuple(map(max, zip(*lengths, strict=True)))
        learned = None  # nothing was padded
        if any(own != longest for own in lengths):
            learned = self._learned[self._others(requests[0])]
            _check_lengths(response, learned, longest)
        answers, start = [], 0
        for own, count in zip(lengths, counts, strict=True):
            rows = slice(start, start + count)
            answers.append(InferResponse(_own(response, learned, rows, own)))
            start += count
        return answers

    def run(self, model: Model, requests: Sequence[InferRequest]) -> list[InferResponse]:
        """Each request's answer, from one run, also of one only, filled up to an allowed size; raises what the model raises."""
        if self._as_they_are and len(requests) > 1:
            return self._run_as_they_are(model, requests)
        answer = model.infer(self.merge(requests))
        assert isinstance(answer, InferResponse)
        return self.split(requests, answer)

    def _run_as_they_are(
        self, model: Model, requests: Sequence[InferRequest]
    ) -> list[InferResponse]:
        """The same where no row is filled up: a run of microseconds must not be outweighed by its preparation."""
        joined = {
            name: np.concatenate([request.tensors[name] for request in requests])
            for name in self._inputs
        }
        answer = model.infer(InferRequest(joined, outputs=requests[0].outputs))
        assert isinstance(answer, InferResponse)
        size = len(joined[self._inputs[0]])
        for name, tensor in answer.tensors.items():
            _check_rows(name, tensor, size)
        answers, start = [], 0
        first, found = self._inputs[0], list(answer.tensors.items())
        for request in requests:
            end = start + len(request.tensors[first])
            own = {}
            for name, rows in found:  # a comprehension would be one more call for each request
                own[name] = rows[start:end]
            answers.append(InferResponse(own))
            start = end
        return answers

    def _parts(self, name: str, requests: Sequence[InferRequest]) -> list[Tensor]:
        tensors = [request.tensors[name] for request in requests]
        if name not in self._pads:
            return tensors
        inner = tuple(map(max, zip(*(tensor.shape[1:] for tensor in tensors), strict=True)))
        return [_padded(tensor, inner, self._pads[name]) for tensor in tensors]


def _own(
    response: InferResponse, learned: Learned | None, rows: slice, lengths: Lengths
) -> dict[str, Tensor]:
    """A request's rows, and of each only what answers its own values, not what answers padding."""
    if learned is None:
        return {name: tensor[rows] for name, tensor in response.tensors.items()}
    return {
        name: tensor[rows, *map(slice, learned.shape(name, lengths))]
        for name, tensor in response.tensors.items()
    }


def _check_lengths(response: InferResponse, learned: Learned, longest: Lengths) -> None:
    """Nothing is cut off an answer of other sizes than were learned: alone, its requests are answered as they are."""
    for name, tensor in response.tensors.items():
        expected = learned.shape(name, longest)
        if tensor.shape[1:] != expected:
            shape = list(tensor.shape)
            message = f"output {name} has the shape {shape} for padded requests, not rows of {list(expected)}"
            raise Refused(Kind.MODEL, message)


def _check_rows(name: str, tensor: Tensor, size: int) -> None:
    if tensor.ndim == 0 or len(tensor) != size:
        shape = list(tensor.shape)
        message = (
            f"output {name} has the shape {shape} for a batch of {size} rows: not a row for each"
        )
        raise Refused(Kind.MODEL, message)


def _element(spec: TensorSpec, value: PadValue) -> Any:  # noqa: ANN401 - an element
    if spec.datatype == "BYTES":
        return value
    if spec.datatype == "BF16":
        return from_floats(np.array([value], np.float64))[0]
    return NUMPY_TYPES[spec.datatype].type(value)


def _padded(tensor: Tensor, inner: tuple[int, ...], value: Any) -> Tensor:  # noqa: ANN401 - an element
    if tensor.shape[1:] == inner:
        return tensor
    filled = np.full((len(tensor), *inner), value, dtype=tensor.dtype)
    filled[tuple(slice(0, size) for size in tensor.shape)] = tensor
    return filled


def _joined(tensors: Sequence[Tensor], size: int) -> Tensor:
    """All rows behind each other; up to `size`, the last one again: any other might not be the model's to answer."""
    rows = sum(map(len, tensors))
    if rows == size:
        return np.concatenate(tensors)
    joined = np.empty((size, *tensors[0].shape[1:]), dtype=tensors[0].dtype)
    np.concatenate(tensors, out=joined[:rows])
    joined[rows:] = joined[rows - 1]
    return joined
