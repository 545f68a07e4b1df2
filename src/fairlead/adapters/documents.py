"""Documents that people write: JSON, YAML and Jsonnet files, read strictly."""

from __future__ import annotations

import json
from collections.abc import Hashable
from pathlib import Path
from typing import Any

import yaml

from fairlead.adapters import jsonnet
from fairlead.domain.errors import InvalidInput, Problem
from fairlead.domain.reading import JSONNET, NO_VARIABLES, SUFFIXES, Variables

_MOST_BYTES = 1 << 20  # no release file or model description comes near it
_MOST_DIGITS = 100  # of a whole number: none that means anything is longer
_NO_JSON = frozenset({"timestamp", "binary", "set", "omap", "pairs"})  # YAML has them, JSON not
_JSON = ".json"


def read_document(path: Path, variables: Variables = NO_VARIABLES) -> Any:  # noqa: ANN401 - untrusted input has no type yet
    """The content of a `.json`, `.yaml`, `.yml` or `.jsonnet` file; `variables` are for the last.

    Raises InvalidInput that names the file, and the line where the syntax is wrong or a key stands twice.
    """
    source = str(path)
    if not path.exists():
        raise _invalid(source, "is not there", "check the path")
    if path.suffix not in SUFFIXES:
        raise _invalid(
            source, f"ends in {path.suffix or 'nothing'!r}", f"name it *{', *'.join(SUFFIXES)}"
        )
    text = _read(path, source)
    if not text.strip():
        raise _invalid(source, "is empty", "write an object")
    if path.suffix == JSONNET:
        return jsonnet.evaluate(path, variables)
    return _parsed(text, source, json_text=path.suffix == _JSON)


def _parsed(text: str, source: str, *, json_text: bool) -> Any:  # noqa: ANN401 - untrusted input has no type yet
    try:
        return _json(text) if json_text else _one_document(text)
    except json.JSONDecodeError as error:
        raise _invalid(
            source, f"is not JSON (line {error.lineno}: {error.msg})", "mend the syntax"
        ) from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f"line {mark.line + 1}: " if mark else ""
        what = getattr(error, "problem", None) or "not one document"
        raise _invalid(source, f"is not YAML ({place}{what})", "mend the syntax") from None
    except _TwiceError as error:
        raise _invalid(
            source, f"key {error} stands twice in one object", "keep one of the two"
        ) from None
    except ValueError as error:
        raise _invalid(source, str(error), "mend it") from None
    except RecursionError:
        raise _invalid(source, "is nested too deeply", "a release file has four levels") from None


class _TwiceError(ValueError):
    """A key stands twice in one object."""


def _json(text: str) -> Any:  # noqa: ANN401 - untrusted input has no type yet
    """Raises ValueError, its message for the user, for what JSON does not forbid and nobody can write down."""
    document = json.loads(
        text, object_pairs_hook=_unique, parse_constant=_constant, parse_int=_integer
    )
    if "\\u" in text:
        try:
            json.dumps(document, ensure_ascii=False).encode()
        except UnicodeEncodeError:
            raise ValueError("holds half a character (a lone surrogate)") from None
    return document


def _constant(name: str) -> None:
    raise ValueError(f"holds {name}, which is no number")


def _integer(digits: str) -> int:
    if len(digits) > _MOST_DIGITS:
        raise ValueError(f"holds a number of {len(digits)} digits")
    return int(digits)


class _StrictLoader(yaml.SafeLoader):
    """Safe, and refuses what would silently be something else: a key twice, an alias, a date."""

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.events.AliasEvent):
            event = self.peek_event()  # type: ignore[no-untyped-call]
            raise yaml.composer.ComposerError(
                None, None, "aliases are not allowed here", event.start_mark
            )
        return super().compose_node(parent, index)

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:  # noqa: ANN401, FBT001, FBT002 - the library's signature
        kind = str(node.tag).removeprefix("tag:yaml.org,2002:")
        if kind in _NO_JSON:
            raise _wrong_node(f"{kind} is no kind of value here, write a text in quotes", node)
        try:
            return super().construct_object(node, deep)
        except (ValueError, KeyError, OverflowError):  # what the library does with `!!int x`
            raise _wrong_node(f"{str(node.value)[:40]!r} is no {kind}", node) from None

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:  # noqa: FBT001, FBT002 - the library's signature
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        seen = set()
        for index, key in enumerate(keys):
            if not isinstance(key, Hashable):
                continue  # refused by the library
            if key in seen:
                raise _wrong_node(f"key {key!r} stands twice in one object", node.value[index][0])
            seen.add(key)
        return super().construct_mapping(node, deep)


def _wrong_node(problem: str, node: yaml.Node) -> yaml.YAMLError:
    error: yaml.YAMLError = yaml.constructor.ConstructorError(None, None, problem, node.start_mark)
    return error


def _one_document(text: str) -> Any:  # noqa: ANN401 - untrusted input has no type yet
    loader = _StrictLoader(text)
    try:
        return loader.get_single_data()
    finally:
        loader.dispose()


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise _TwiceError(repr(key))
        found[key] = value
    return found


def _read(path: Path, source: str) -> str:
    try:
        with path.open("rb") as file:
            data = file.read(_MOST_BYTES + 1)  # a name may lead to something without an end
    except FileNotFoundError:
        raise _invalid(source, "is not there", "check the path") from None
    except OSError as error:
        raise _invalid(
            source, f"cannot be read ({error.strerror})", "check the path and its permissions"
        ) from None
    if len(data) > _MOST_BYTES:
        raise _invalid(source, f"has more than {_MOST_BYTES} bytes", "write less")
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise _invalid(source, f"is not UTF-8 (byte {error.start})", "save it as UTF-8") from None


def _invalid(source: str, wrong: str, right: str) -> InvalidInput:
    return InvalidInput(source, [Problem("", wrong, right)])
