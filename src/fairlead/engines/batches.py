"""Several requests as one, and one answer as several: rows put behind each other, and taken apart again.

Only for models whose every tensor counts rows in its first dimension. That a model treats each row by
itself cannot be seen from its tensors: `engines/together.py` proves it.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np

from fairlead.api.inference import NUMPY_TYPES, InferRequest, InferResponse, Model, Tensor
from fairlead.domain.batching import Batching, PadValue
from fairlead.domain.errors import Kind, Problem, Refused
from fairlead.domain.signature import TensorSignature, TensorSpec

Lengths = tuple[
    int, ...
]  # of one request: the sizes of the dimensions that may be padded, in order


class Rows:
    """Merges and splits the requests of one model as its settings say."""

    def __init__(self, signature: TensorSignature, batching: Batching) -> None:
        self._inputs = [spec.name for spec in signature.inputs]
        self._only = self._inputs[0] if len(self._inputs) == 1 else ""
        self._outputs = {spec.name: spec for spec in signature.outputs}
        self._allowed = batching.allowed_batch_sizes or ()
        self._pads = {
            spec.name: NUMPY_TYPES[spec.datatype].type(batching.pads[spec.name])
            if spec.datatype != "BYTES"
            else batching.pads[spec.name]
            for spec in signature.inputs
            if spec.name in batching.pads
        }
        self.padded = [
            (spec.name, axis)
            for spec in signature.inputs
            if spec.name in self._pads
            for axis in _free(spec)
        ]
        self._as_they_are = not self._pads and not self._allowed
        # Shapes need comparing only where the caller chooses more than the number of rows.
        self._free = [
            (spec.name, axis)
            for spec in signature.inputs
            if spec.name not in self._pads
            for axis in _free(spec)
        ]

    def count(self, request: InferRequest) -> int:
        """How many rows it has; 0 if its tensors disagree, or have none: it runs alone then."""
        if self._only:
            return len(request.tensors[self._only])
        counts = {len(request.tensors[name]) for name in self._inputs}
        return counts.pop() if len(counts) == 1 else 0

    def key(self, request: InferRequest) -> Hashable:
        """Requests of the same key may share a run."""
        if not self._free:
            return request.outputs
        return request.outputs, tuple(
            request.tensors[name].shape[axis] for name, axis in self._free
        )

    def lengths(self, request: InferRequest) -> Lengths:
        return tuple(request.tensors[name].shape[axis] for name, axis in self.padded)

    def run_size(self, rows: int) -> int:
        """With how many rows the model is run for `rows`: the next allowed size."""
        return next((size for size in self._allowed if size >= rows), rows)

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
        longest = self._longest(requests)
        answers, start = [], 0
        for request, count in zip(requests, counts, strict=True):
            own = slice(start, start + count)
            cuts = [] if not longest else list(zip(longest, self.lengths(request), strict=True))
            answers.append(
                InferResponse(
                    {
                        name: self._cut(name, tensor[own], cuts)
                        for name, tensor in response.tensors.items()
                    }
                )
            )
            start += count
        return answers

    def run(self, model: Model, requests: Sequence[InferRequest]) -> list[InferResponse]:
        """Each request's answer, from one run; raises what the model raises."""
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

    def _longest(self, requests: Sequence[InferRequest]) -> Lengths:
        return tuple(map(max, zip(*map(self.lengths, requests), strict=True)))

    def _parts(self, name: str, requests: Sequence[InferRequest]) -> list[Tensor]:
        tensors = [request.tensors[name] for request in requests]
        if name not in self._pads:
            return tensors
        inner = tuple(map(max, zip(*(tensor.shape[1:] for tensor in tensors), strict=True)))
        return [_padded(tensor, inner, self._pads[name]) for tensor in tensors]

    def _cut(self, name: str, tensor: Tensor, cuts: list[tuple[int, int]]) -> Tensor:
        """An output's own part of a dimension that is as long as its padded input: what follows answers padding."""
        for axis in _free(self._outputs[name]):
            for longest, own in cuts:
                if tensor.shape[axis] == longest:
                    index = [slice(None)] * axis + [slice(0, own)]
                    tensor = tensor[tuple(index)]
                    break
        return tensor


def _check_rows(name: str, tensor: Tensor, size: int) -> None:
    if tensor.ndim == 0 or len(tensor) != size:
        shape = list(tensor.shape)
        message = (
            f"output {name} has the shape {shape} for a batch of {size} rows: not a row for each"
        )
        raise Refused(Kind.MODEL, message)


def rows_problem(signature: TensorSignature) -> str | None:
    """Why no two requests can share a run of this model, in words; None if its tensors allow it."""
    for side, specs in (("input", signature.inputs), ("output", signature.outputs)):
        for spec in specs:
            if not spec.shape:
                return f"{side} {spec.name!r} has no dimension that counts rows"
            if spec.shape[0] != -1:
                return f"the first dimension of {side} {spec.name!r} is always {spec.shape[0]}"
    return None if signature.inputs else "it has no inputs"


def padding_problems(batching: Batching, signature: TensorSignature) -> list[Problem]:
    """What is to be padded that the model does not have, or with what it does not take."""
    inputs = {spec.name: spec for spec in signature.inputs}
    problems = []
    for name, value in batching.pads.items():
        where = f"batching.padVariableLengthInputs.{name}"
        spec = inputs.get(name)
        if spec is None:
            problems.append(
                Problem(where, "is no input of the model", f"inputs: {', '.join(inputs)}")
            )
        elif not _free(spec):
            shape = list(spec.shape)
            problems.append(
                Problem(where, f"has the shape {shape}", "only variable lengths are padded")
            )
        elif not _fits(spec, value):
            problems.append(Problem(where, f"is {value!r}", f"write a value of {spec.datatype}"))
    return problems


def _fits(spec: TensorSpec, value: PadValue) -> bool:
    if spec.datatype in ("BYTES", "BOOL") or isinstance(value, str | bool):
        wanted = {"BYTES": str, "BOOL": bool}.get(spec.datatype)
        return wanted is not None and isinstance(value, wanted)
    try:
        cast = np.array(value).astype(NUMPY_TYPES[spec.datatype])
    except (OverflowError, ValueError):
        return False
    kind: str = cast.dtype.kind
    return bool(np.isfinite(cast)) if kind == "f" else bool(cast == value)


def _free(spec: TensorSpec) -> list[int]:
    """The dimensions behind the rows that the caller chooses."""
    return [axis for axis, size in enumerate(spec.shape) if axis and size == -1]


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
