"""Documents that people write: JSON and YAML files, read strictly."""

from __future__ import annotations

import json
from collections.abc import Hashable
from pathlib import Path
from typing import Any

import yaml

from fairlead.domain.errors import InvalidInput, Problem

_MOST_BYTES = 1 << 20  # no release file or model description comes near it
_JSON = ".json"
_SUFFIXES = (_JSON, ".yaml", ".yml")


def read_document(path: Path) -> Any:  # noqa: ANN401 - untrusted input has no type yet
    """The content of a `.json`, `.yaml` or `.yml` file.

    Raises InvalidInput that names the file, and the line where the syntax is wrong or a key stands twice.
    """
    source = str(path)
    if not path.exists():
        raise _invalid(source, "is not there", "check the path")
    if path.suffix not in _SUFFIXES:
        raise _invalid(
            source, f"ends in {path.suffix or 'nothing'!r}", f"name it *{', *'.join(_SUFFIXES)}"
        )
    text = _read(path, source)
    if not text.strip():
        raise _invalid(source, "is empty", "write an object")
    try:
        if path.suffix == _JSON:
            return json.loads(text, object_pairs_hook=_unique)
        return _one_document(text)
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
    except ValueError as error:  # a number of thousands of digits, a thirteenth month
        raise _invalid(
            source, f"holds a value that is none ({error})", "write it as text"
        ) from None
    except RecursionError:
        raise _invalid(source, "is nested too deeply", "a release file has four levels") from None


class _TwiceError(ValueError):
    """A key stands twice in one object."""


class _StrictLoader(yaml.SafeLoader):
    """Safe, and refuses what would silently be something else: a key twice, an alias."""

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.events.AliasEvent):
            event = self.peek_event()  # type: ignore[no-untyped-call]
            raise yaml.composer.ComposerError(
                None, None, "aliases are not allowed here", event.start_mark
            )
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:  # noqa: FBT001, FBT002 - the library's signature
        seen = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, Hashable):
                continue  # told by the library, with its place
            if key in seen:
                problem = f"key {key!r} stands twice in one object"
                raise yaml.constructor.ConstructorError(None, None, problem, key_node.start_mark)
            seen.add(key)
        return super().construct_mapping(node, deep)


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
