"""What all dialects share about JSON bodies: reading hostile ones, and saying where they are wrong."""

from __future__ import annotations

import re
from typing import TypeVar

import msgspec

from fairlead.domain.errors import FieldError

T = TypeVar("T")

_PLACE = re.compile(r" - at `\$(?P<path>.*)`$", re.DOTALL)
_STEP = re.compile(r"\[(?P<index>\d+)\]|\[\.\.\.\]|\.(?P<key>[^.\[]+)")
_FIELD = re.compile(
    r"Object (?P<what>missing required|contains unknown) field `(?P<name>.*)`", re.DOTALL
)
_GOT = re.compile(r"Expected `(?P<wanted>[a-z |]+)`, got `")
_BYTE = re.compile(r" ?\(byte (?P<at>\d+)\)$")
_TYPES = {
    "float": "float_type",
    "int": "int_type",
    "bool": "bool_type",
    "str": "string_type",
    "array": "list_type",
    "object": "dict_type",
}


class NotJson(Exception):
    """The body is not JSON: at which byte, and why."""

    def __init__(self, at: int, why: str) -> None:
        super().__init__(why)
        self.at = at
        self.why = why


def read(decoder: msgspec.json.Decoder[T], body: bytes | memoryview | msgspec.Raw) -> T:
    """Decode a body; raises NotJson, or msgspec.ValidationError for JSON of another shape."""
    try:
        return decoder.decode(body)
    except msgspec.ValidationError:
        raise
    except msgspec.DecodeError as error:
        text = str(error).removeprefix("JSON is malformed: ")
        at = _BYTE.search(text)
        where = int(at["at"]) if at else len(memoryview(body))
        raise NotJson(where, _BYTE.sub("", text)) from None
    except UnicodeDecodeError:
        raise NotJson(_not_utf8(bytes(body)), "a text is not UTF-8") from None
    except RecursionError:
        raise NotJson(0, "it is nested too deeply") from None


def place(error: msgspec.ValidationError) -> tuple[str, tuple[str | int, ...]]:
    """What is wrong, and the keys and indexes that lead to it."""
    text = str(error)
    found = _PLACE.search(text)
    if found is None:
        return text, ()
    steps: list[str | int] = []
    for step in _STEP.finditer(found["path"]):
        if step["index"] is not None:
            steps.append(int(step["index"]))
        elif step["key"] is not None:  # pragma: no branch - a step is an index or a key
            steps.append(step["key"])
    return text[: found.start()], tuple(steps)


def field_error(error: msgspec.ValidationError) -> FieldError:
    """The error in the words FastAPI's clients know, such as `missing` or `float_type`."""
    text, loc = place(error)
    field = _FIELD.match(text)
    if field is not None:
        if field["what"].startswith("missing"):
            return FieldError((*loc, field["name"]), "Field required", "missing")
        return FieldError(
            (*loc, field["name"]), "Extra inputs are not permitted", "extra_forbidden"
        )
    got = _GOT.match(text)
    kind = _TYPES.get(got["wanted"], "value_error") if got else "value_error"
    return FieldError(loc, text.replace("`", "'"), kind)


def _not_utf8(body: bytes) -> int:
    """Msgspec's own error counts from the start of the text that is wrong."""
    try:
        body.decode()
    except UnicodeDecodeError as error:
        return error.start
    return 0  # pragma: no cover - what made msgspec complain makes Python complain
