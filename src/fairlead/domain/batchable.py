"""Whether a model's tensors allow batches, and whether what was said of batching fits them: seen from its signature."""

from __future__ import annotations

import sys

from fairlead.domain.batching import Batching, PadValue
from fairlead.domain.errors import Problem
from fairlead.domain.reading import shown
from fairlead.domain.signature import Signature, TensorSignature, TensorSpec, element_schema

_DOCUMENTS = "the model takes documents: leave it out"


def rows_problem(signature: TensorSignature) -> str | None:
    """Why no two requests can share a run of this model, in words; None if its tensors allow it."""
    for side, specs in (("input", signature.inputs), ("output", signature.outputs)):
        for spec in specs:
            if not spec.shape:
                return f"{side} {spec.name!r} has no dimension that counts rows"
            if spec.shape[0] != -1:
                return f"the first dimension of {side} {spec.name!r} is always {spec.shape[0]}"
    return None if signature.inputs else "it has no inputs"


def misfits(batching: Batching, signature: Signature, path: str = "batching") -> list[Problem]:
    """What was said that a model of this signature does not have.

    Of one that takes documents, whether its code answers lists is not seen here.
    """
    if isinstance(signature, TensorSignature):
        return _sharing_problems(batching, signature, path) + _padding_problems(
            batching, signature, path
        )
    problems = []
    if batching.pads:
        where = f"{path}.padVariableLengthInputs"
        problems.append(Problem(where, "names tensors", _DOCUMENTS))
    if batching.allowed_batch_sizes:
        where = f"{path}.allowedBatchSizes"
        problems.append(Problem(where, "counts rows of tensors", _DOCUMENTS))
    return problems


def free(spec: TensorSpec) -> list[int]:
    """The dimensions behind the rows that the caller chooses."""
    return [axis for axis, size in enumerate(spec.shape) if axis and size == -1]


def _sharing_problems(batching: Batching, signature: TensorSignature, path: str) -> list[Problem]:
    reason = rows_problem(signature)
    if reason is None:
        return []
    cannot = f"the model cannot be batched: {reason}"
    problems = []
    if batching.enabled:
        problems.append(Problem(f"{path}.enabled", "is true", cannot))
    if batching.allowed_batch_sizes:
        problems.append(Problem(f"{path}.allowedBatchSizes", "names sizes", cannot))
    return problems


def _padding_problems(batching: Batching, signature: TensorSignature, path: str) -> list[Problem]:
    """What is to be padded that the model does not have, or with what it does not take."""
    inputs = {spec.name: spec for spec in signature.inputs}
    problems = []
    for name, value in batching.pads.items():
        where = f"{path}.padVariableLengthInputs.{name}"
        spec = inputs.get(name)
        if spec is None:
            known = f"inputs: {', '.join(inputs)}"
            problems.append(Problem(where, "is no input of the model", known))
        elif not free(spec):
            shape = list(spec.shape)
            right = "only variable lengths are padded"
            problems.append(Problem(where, f"has the shape {shape}", right))
        elif not _fits(spec, value):
            problems.append(
                Problem(where, f"is {shown(value)}", f"write a value of {spec.datatype}")
            )
    return problems


def _fits(spec: TensorSpec, value: PadValue) -> bool:
    if spec.datatype in ("BYTES", "BOOL") or isinstance(value, str | bool):
        wanted = {"BYTES": str, "BOOL": bool}.get(spec.datatype)
        return wanted is not None and isinstance(value, wanted)
    schema = element_schema(spec.datatype)
    largest = sys.float_info.max
    if not schema.get("minimum", -largest) <= value <= schema.get("maximum", largest):
        return False  # NaN too
    return schema["type"] == "number" or value == int(value)
