"""Reading untrusted documents: every mistake found in one pass, each with its key path.

A `Node` is one value inside a document plus the way to it. Its methods return the value if it
is right and note a `Problem` if it is not, so that a user sees all mistakes at once.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from fairlead.domain.errors import InvalidInput, Problem

JSONNET = ".jsonnet"  # a program that makes the document
SUFFIXES = (".json", ".yaml", ".yml", JSONNET)  # of documents that people write
_SHOWN = 60  # characters of a wrong value that are shown back
_LARGEST = (
    10**_SHOWN
)  # whole numbers beyond it are not shown: Python refuses to write very long ones
_SURROGATE = re.compile("[\ud800-\udfff]")


def read_json(data: bytes, source: str, right: str, *, finite: bool = True) -> Any:  # noqa: ANN401 - untrusted input has no type yet
    """Parse JSON that can be written down again; raises InvalidInput, which says `right`.

    Refused too: halves of characters (lone surrogates), which no file can hold, and, if `finite`, NaN and Infinity,
    which are not JSON.
    """
    try:
        text = data.decode(
            "utf-8-sig"
        )  # strictly: given bytes, the parser lets half a character pass
        document = json.loads(text, parse_constant=_refuse_constant if finite else None)
        if b"\\u" in data:
            json.dumps(document, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise InvalidInput(source, [Problem("", "holds half a character", right)]) from None
    except (ValueError, RecursionError) as error:
        raise InvalidInput(source, [Problem("", f"is not JSON ({error})", right)]) from None
    return document


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no number")


@dataclass(frozen=True, slots=True)
class Variables:
    """What is given to documents that are programs: `texts` as strings, `code` as Jsonnet expressions.

    A file that is a function gets them as its arguments; every file can ask for them with std.extVar.
    """

    texts: Mapping[str, str] = field(default_factory=dict)
    code: Mapping[str, str] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.texts or self.code)


NO_VARIABLES = Variables()


def shown(value: object) -> str:
    """A wrong value as an error may show it: short, and typed where the type is the mistake."""
    if isinstance(value, Mapping):
        return "an object"
    if isinstance(value, list):
        return "a list"
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int) and abs(value) > _LARGEST:
        return "a number of very many digits"
    text = repr(value)
    return text if len(text) <= _SHOWN else text[: _SHOWN - 1] + "…"


def _is_object(value: object) -> bool:
    return type(value) is dict or isinstance(value, Mapping)  # the second takes five times as long


class Node:
    """A value in a document, and where it is."""

    __slots__ = ("_above", "_step", "problems", "value")

    def __init__(self, value: Any, path: str = "") -> None:  # noqa: ANN401 - untrusted input has no type yet
        self.value = value
        self.problems: list[Problem] = []
        self._above: Node | None = None
        self._step: Any = path  # from there: a key, or an index in a tuple

    def _below(self, value: Any, step: Any) -> Node:  # noqa: ANN401 - see above
        made = Node(value)
        made.problems, made._above, made._step = self.problems, self, step
        return made

    @property
    def path(self) -> str:
        """The way to it; put together when it is asked for, which is when something is wrong."""
        if self._above is None:
            return str(self._step)
        before = self._above.path
        if isinstance(self._step, tuple):
            return f"{before}[{self._step[0]}]"
        name = str(self._step)
        name = name if name.isprintable() else repr(self._step)[1:-1]
        return f"{before}.{name}" if before else name

    def wrong(self, wrong: str, right: str) -> None:
        self.problems.append(Problem(self.path, wrong, right))

    def done(self, source: str) -> None:
        """Raise InvalidInput if anything was wrong."""
        if self.problems:
            raise InvalidInput(source, self.problems)

    def child(self, key: str) -> Node:
        return self._below(self.value.get(key) if _is_object(self.value) else None, key)

    def has(self, key: str) -> bool:
        return _is_object(self.value) and self.value.get(key) is not None

    def mapping(self, allowed: Iterable[str] | None = None, required: Iterable[str] = ()) -> bool:
        """Is it an object with these keys? Unknown and missing keys are each a problem."""
        if not _is_object(self.value):
            self.wrong(f"is {shown(self.value)}", "write an object")
            return False
        before = len(self.problems)
        known = None if allowed is None else list(allowed)
        for key in self.value:
            if not isinstance(key, str):
                self.wrong(f"key {shown(key)} is not text", "put it in quotes")
            elif known is not None and key not in known:
                self._unknown(key, known)
        for key in required:
            if not self.has(key):
                self.child(key).wrong("is missing", f"{key!r} must be there")
        return len(self.problems) == before

    def _unknown(self, key: str, known: list[str]) -> None:
        close = difflib.get_close_matches(key[:_SHOWN], known, n=1)
        hint = f"did you mean {close[0]!r}?" if close else f"known keys: {', '.join(known)}"
        name = key if len(key) <= _SHOWN else key[: _SHOWN - 1] + "…"
        self.child(name).wrong("unknown key", hint)

    def items(self) -> list[tuple[str, Node]]:
        if not _is_object(self.value):
            return []
        return [(str(key), self.child(key)) for key in self.value]

    def elements(self) -> list[Node]:
        if not isinstance(self.value, list):
            self.wrong(f"is {shown(self.value)}", "write a list")
            return []
        return [self._below(value, (index,)) for index, value in enumerate(self.value)]

    def text(
        self, pattern: re.Pattern[str] | None = None, right: str = "write a text in quotes"
    ) -> str:
        if not isinstance(self.value, str):
            self.wrong(f"is {shown(self.value)}", right)
            return ""
        if pattern is not None and not pattern.fullmatch(self.value):
            self.wrong(f"is {shown(self.value)}", right)
            return ""
        if _SURROGATE.search(self.value):
            self.wrong(f"is {shown(self.value)}, which holds half a character", "write it whole")
            return ""
        return self.value

    def integer(self, low: int, high: int | None = None) -> int:
        bound = f"a whole number from {low}" + (f" to {high}" if high is not None else " up")
        if isinstance(self.value, bool) or not isinstance(self.value, int):
            self.wrong(f"is {shown(self.value)}", f"write {bound}")
            return low
        if self.value < low or (high is not None and self.value > high):
            self.wrong(f"is {shown(self.value)}", f"write {bound}")
            return low
        return self.value

    def number(self, low: float = 0.0) -> float:
        if (
            isinstance(self.value, bool)
            or not isinstance(self.value, int | float)
            or not self.value >= low
            or (isinstance(self.value, int) and self.value > _LARGEST)  # more than a float may hold
        ):
            self.wrong(f"is {shown(self.value)}", f"write a number from {low:g} up")
            return low
        return float(self.value)

    def one_of(self, choices: Iterable[str]) -> str:
        known = list(choices)
        if self.value not in known:
            self.wrong(f"is {shown(self.value)}", f"write one of {', '.join(known)}")
            return known[0]
        return str(self.value)


Read = TypeVar("Read")

# What was read of a list last time, by name, each with what was written of it.
Kept = dict[tuple[str, ...], tuple[object, Read]]


def read_each(
    node: Node, names: Sequence[str], read: Callable[[Node], Read], kept: Kept[Read] | None
) -> tuple[Read, ...]:
    """The elements of a list; the very one that was read last time, if the same is written of it.

    `names` are the members that name an element. `kept` belongs to whoever reads the same list again and again.
    """
    last = dict(kept or {})
    now: Kept[Read] = {}
    found = []
    for child in node.elements():
        value = child.value if isinstance(child.value, dict) else {}
        key = tuple([str(value.get(name)) for name in names])
        known = last.get(key)
        if known is None or known[0] != child.value:
            wrong = len(child.problems)
            known = (child.value, read(child))
            if len(child.problems) > wrong:
                continue  # refused as a whole, and the next time again
        now[key] = known
        found.append(known[1])
    if kept is not None:
        kept.clear()
        kept.update(now)
    return tuple(found)
