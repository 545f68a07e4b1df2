"""Golden examples: inputs with the outputs a model must give, within a tolerance per output.

They prove a model when it is published and again, through the transport, each time it is loaded.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fairlead.domain.reading import Node, read_json


@dataclass(frozen=True, slots=True)
class Example:
    """What is sent and what must come back.

    For tensors: `{tensor name: nested lists}` both ways, the batch dimension included.
    For documents: the request and the response.
    """

    request: Any
    response: Any


@dataclass(frozen=True, slots=True)
class Golden:
    """The examples of one artifact and the absolute tolerance per output name (0 where none is given)."""

    examples: tuple[Example, ...]
    tolerance: Mapping[str, float]


def golden_from_bytes(data: bytes, source: str = "golden.json") -> Golden:
    """Read `{"tolerance": {output: number}, "examples": [{"request": …, "response": …}]}`."""
    document = read_json(data, source, "write one JSON object", finite=False)
    node = Node(document)
    node.mapping(["tolerance", "examples"], ["examples"])
    tolerance = {name: child.number() for name, child in node.child("tolerance").items()}
    examples = [
        Example(child.child("request").value, child.child("response").value)
        for child in (node.child("examples").elements() if node.has("examples") else [])
        if child.mapping(["request", "response"], ["request", "response"])
    ]
    if not examples and not node.problems:
        node.child("examples").wrong(
            "is empty", "give at least one example: it is what proves the model"
        )
    node.done(source)
    return Golden(tuple(examples), tolerance)


def difference(expected: Any, actual: Any, tolerance: Mapping[str, float]) -> str | None:  # noqa: ANN401 - JSON values
    """Say where two responses differ by more than allowed; None if they agree.

    The tolerance of a top-level key holds for every number below it. NaN equals NaN.
    """
    if not isinstance(expected, Mapping) or not isinstance(actual, Mapping):
        return _difference(expected, actual, tolerance.get("", 0.0), "response")
    missing = [key for key in expected if key not in actual]
    if missing:
        return f"{missing[0]} is missing in the answer"
    surplus = [key for key in actual if key not in expected]
    if surplus:
        return f"{surplus[0]} is in the answer, not in the example"
    for key, value in expected.items():
        found = _difference(value, actual[key], tolerance.get(key, 0.0), str(key))
        if found is not None:
            return found
    return None


def _difference(expected: Any, actual: Any, allowed: float, path: str) -> str | None:  # noqa: ANN401 - one return per JSON type
    if isinstance(expected, Mapping) and isinstance(actual, Mapping):
        if expected.keys() != actual.keys():
            return f"{path}: keys {sorted(map(str, expected))} expected, {sorted(map(str, actual))} answered"
        pairs = [(f"{path}.{key}", value, actual[key]) for key, value in expected.items()]
    elif isinstance(expected, list) and isinstance(actual, list):
        if len(expected) != len(actual):
            return f"{path}: {len(expected)} elements expected, {len(actual)} answered"
        pairs = [(f"{path}[{index}]", value, actual[index]) for index, value in enumerate(expected)]
    elif _is_number(expected) and _is_number(actual):
        near = expected == actual or _both_nan(expected, actual) or _near(expected, actual, allowed)
        return (
            None
            if near
            else f"{path}: {expected!r} expected within {allowed:g}, {actual!r} answered"
        )
    else:
        same = type(expected) is type(actual) and expected == actual
        return None if same else f"{path}: {expected!r} expected, {actual!r} answered"
    for deeper, one, other in pairs:
        found = _difference(one, other, allowed, deeper)
        if found is not None:
            return found
    return None


def _both_nan(one: float, other: float) -> bool:
    return one != one and other != other  # noqa: PLR0124 - only NaN is not itself


def _near(one: float, other: float, allowed: float) -> bool:
    try:
        return abs(one - other) <= allowed
    except OverflowError:  # a whole number beyond every float
        return False


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
