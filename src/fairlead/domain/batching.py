"""What may be said about batching, in a model's own file and, over it, in a release file's endpoint.

A batch is several requests in one run of the model. The words are those of the servers that batch already
(Triton's dynamic batching, TensorFlow Serving's batching parameters), spelled as a release file spells. What
is not said is decided by measurement where the model is served.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fairlead.domain.errors import InvalidInput, Problem
from fairlead.domain.reading import Node, shown
from fairlead.domain.schema import Key

REJECT, DELAY = "reject", "delay"  # what happens to a request whose time in the queue is over
MOST_ROWS = 65_536
_MOST_WAITING = 1_000_000
_MOST_LEVELS = 100
_MOST_MICROSECONDS = 600_000_000  # ten minutes: longer than any request may take
_WORD = re.compile(r"_([a-z])")

PadValue = float | str | bool


@dataclass(frozen=True, slots=True)
class Batching:
    """What was said. None is not said; sizes count rows (what the first dimension of a tensor counts)."""

    enabled: bool | None = None
    max_batch_size: int | None = None
    max_queue_delay_microseconds: int | None = None
    preferred_batch_sizes: tuple[int, ...] | None = None
    allowed_batch_sizes: tuple[int, ...] | None = None
    pad_variable_length_inputs: Mapping[str, PadValue] | None = None
    max_queue_size: int | None = None
    priority_levels: int | None = None
    default_priority_level: int | None = None
    default_timeout_microseconds: int | None = None
    timeout_action: str | None = None

    def __bool__(self) -> bool:
        """Was anything said?"""
        return any(getattr(self, key.field) is not None for key in _KEYS)

    @property
    def pads(self) -> Mapping[str, PadValue]:
        return self.pad_variable_length_inputs or {}

    @property
    def most(self) -> int | None:
        """Rows of the largest batch, if that is said."""
        if self.max_batch_size is None and self.allowed_batch_sizes:
            return self.allowed_batch_sizes[-1]
        return self.max_batch_size

    @property
    def levels(self) -> int:
        return self.priority_levels or 1

    @property
    def default_level(self) -> int:
        """The level of a request that asks for none: the middle one, unless another is named."""
        return self.default_priority_level or (self.levels + 1) // 2

    def over(self, below: Batching) -> Batching:
        """What holds if this is said over `below`, key by key."""
        said = {key.field: getattr(self, key.field) for key in _KEYS}
        return dataclasses.replace(
            below, **{name: value for name, value in said.items() if value is not None}
        )


def _whole(low: int, high: int) -> dict[str, Any]:
    return {"type": "integer", "minimum": low, "maximum": high}


_SIZES = {"type": "array", "items": _whole(1, MOST_ROWS)}


@dataclass(frozen=True, slots=True)
class _Key:
    field: str
    schema: Mapping[str, Any]
    meaning: str

    @property
    def name(self) -> str:
        return _WORD.sub(lambda found: found[1].upper(), self.field)


_KEYS = (
    _Key(
        "enabled",
        {"type": "boolean"},
        "true: batch whether or not it helps; false: never (default: if measuring says that it helps)",
    ),
    _Key(
        "max_batch_size",
        _whole(1, MOST_ROWS),
        "rows that one run is given at most; a request with more runs alone (default: as measured, at most 64)",
    ),
    _Key(
        "max_queue_delay_microseconds",
        _whole(0, _MOST_MICROSECONDS),
        "how long a free engine waits for a fuller batch (default 0: it takes what waits)",
    ),
    _Key(
        "preferred_batch_sizes",
        _SIZES,
        "sizes that are run at once if so many rows wait; rising",
    ),
    _Key(
        "allowed_batch_sizes",
        _SIZES,
        "the only sizes the model is run with: a batch is filled up to the next one; rising, the last is maxBatchSize",
    ),
    _Key(
        "pad_variable_length_inputs",
        {"type": "object", "additionalProperties": {"type": ["number", "string", "boolean"]}},
        "by input: what fills up shorter rows, so that requests of different lengths share a run",
    ),
    _Key(
        "max_queue_size",
        _whole(0, _MOST_WAITING),
        "requests that may wait for a run; more are refused; 0 is no limit (default 0)",
    ),
    _Key(
        "priority_levels",
        _whole(0, _MOST_LEVELS),
        "levels a request may ask for, 1 before all others (default 0: none)",
    ),
    _Key(
        "default_priority_level",
        _whole(1, _MOST_LEVELS),
        "the level of requests that ask for none (default: the middle one)",
    ),
    _Key(
        "default_timeout_microseconds",
        _whole(0, _MOST_MICROSECONDS),
        "how long a request may wait for its run; 0 is as long as its caller waits (default 0)",
    ),
    _Key(
        "timeout_action",
        {"enum": [REJECT, DELAY]},
        "of a request that waited so long: reject answers it at once, delay runs it after all others (default reject)",
    ),
)
BATCHING_KEYS = tuple(Key(key.name, key.schema, key.meaning) for key in _KEYS)


def batching_to_json(batching: Batching) -> dict[str, Any]:
    """What was said, as a file says it; nothing that was not."""
    document: dict[str, Any] = {}
    for key in _KEYS:
        value = getattr(batching, key.field)
        if value is not None:
            plain = list(value) if isinstance(value, tuple) else value
            document[key.name] = dict(plain) if isinstance(plain, Mapping) else plain
    return document


def batching_from_json(node: Node) -> Batching:
    """Read what a file says; mistakes are noted on the node, contradictions are for whoever knows what else was said."""
    if not node.mapping([key.name for key in _KEYS]):
        return Batching()
    return Batching(
        **{key.field: _value(node.child(key.name), key) for key in _KEYS if node.has(key.name)}
    )


def checked(batching: Batching, where: str) -> Batching:
    """The same, unless what two files said together contradicts itself: raises InvalidInput."""
    found = contradictions(batching, "batching")
    if found:
        raise InvalidInput(where, found)
    return batching


def contradictions(
    batching: Batching, path: str, *, timeout_seconds: int = 0, whole: bool = True
) -> list[Problem]:
    """What cannot hold together, with the endpoint's `timeout_seconds` too; 0 is not said.

    Unless it is `whole`, it is said over a model's own file: then only what is wrong whatever that says.
    """
    told = _Told(path, [])
    _sizes_clash(batching, told)
    _levels_clash(batching, told, whole=whole)
    _waits_clash(batching, timeout_seconds, told)
    return told.problems


@dataclass(frozen=True, slots=True)
class _Told:
    path: str
    problems: list[Problem]

    def wrong(self, key: str, what: str, right: str) -> None:
        self.problems.append(Problem(f"{self.path}.{key}" if self.path else key, what, right))


def _sizes_clash(batching: Batching, told: _Told) -> None:
    most = batching.most
    allowed, preferred = batching.allowed_batch_sizes, batching.preferred_batch_sizes
    for key, sizes in (("allowedBatchSizes", allowed), ("preferredBatchSizes", preferred)):
        if sizes is not None and list(sizes) != sorted(set(sizes)):
            told.wrong(key, f"{list(sizes)} does not rise", "each size once, the smallest first")
    if allowed and allowed[-1] != most:
        told.wrong(
            "allowedBatchSizes", f"ends with {allowed[-1]}", f"end with maxBatchSize, {most}"
        )
    for size in preferred or ():
        if most is not None and size > most:
            told.wrong("preferredBatchSizes", f"names {size}", f"at most maxBatchSize, {most}")
        elif allowed and size not in allowed:
            right = f"one of allowedBatchSizes {[*allowed]}"
            told.wrong("preferredBatchSizes", f"names {size}", right)


def _levels_clash(batching: Batching, told: _Told, *, whole: bool) -> None:
    level, levels = batching.default_priority_level, batching.priority_levels
    if level is not None and level > (levels or 0) and (whole or levels is not None):
        right = f"at most priorityLevels, {levels}" if levels else "say priorityLevels too"
        told.wrong("defaultPriorityLevel", f"is {level}", right)
    action, timeout = batching.timeout_action, batching.default_timeout_microseconds
    if action is not None and not timeout and (whole or timeout is not None):
        right = "say defaultTimeoutMicroseconds too"
        told.wrong("timeoutAction", f"is {action}, after no time", right)


def _waits_clash(batching: Batching, seconds: int, told: _Told) -> None:
    """A free engine that waits for a fuller batch must not outwait those it waits with."""
    delay = batching.max_queue_delay_microseconds or 0
    if not delay:
        return
    patience = batching.default_timeout_microseconds or 0
    for limit, name in (
        # Whoever is only put behind the others still has its run.
        (0 if batching.timeout_action == DELAY else patience, "defaultTimeoutMicroseconds"),
        (seconds * 1_000_000, f"the endpoint's timeoutSeconds ({seconds} s)"),
    ):
        if limit and delay >= limit:
            what = f"is {delay}, as long as {name} or longer"
            right = f"write less than {limit}: a request's time would be over before its run"
            told.wrong("maxQueueDelayMicroseconds", what, right)


def _value(node: Node, key: _Key) -> Any:  # noqa: ANN401 - as the key's schema says
    schema = key.schema
    if "enum" in schema:
        return node.one_of(schema["enum"])
    match schema["type"]:
        case "boolean":
            if not isinstance(node.value, bool):
                node.wrong(f"is {shown(node.value)}", "write true or false")
            return bool(node.value)
        case "integer":
            return node.integer(schema["minimum"], schema["maximum"])
        case "array":
            return _sizes(node)
        case _:
            return _pads(node)


def _sizes(node: Node) -> Sequence[int]:
    sizes = tuple(child.integer(1, MOST_ROWS) for child in node.elements())
    if node.value == []:
        node.wrong("is empty", "name at least one size, or leave it out")
    return sizes


def _pads(node: Node) -> Mapping[str, PadValue]:
    if not node.mapping():
        return {}
    for child in map(node.child, node.value):
        if not isinstance(child.value, bool | int | float | str):
            child.wrong(f"is {shown(child.value)}", "write the value that fills up, such as 0")
    return dict(node.value)
