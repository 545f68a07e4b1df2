"""What can be set about serving: the keys of S3-5, and limits of our own.

Pure: wiring hands over the environment as a mapping.
"""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Callable, Mapping
from typing import Any

from fairlead.api.worker import ServingSettings
from fairlead.domain.errors import InvalidInput, Problem

__all__ = ["PREFIX", "ServingSettings", "serving_settings_from"]

PREFIX = "FAIRLEAD_SERVING_"
_TRUE = ("true", "1", "yes", "on")
_FALSE = ("false", "0", "no", "off")
_MAX_PORT = 65535


def serving_settings_from(mapping: Mapping[str, str]) -> ServingSettings:
    """Read the settings from an environment; raises InvalidInput naming every wrong or unknown key."""
    fields = {field.name: field for field in dataclasses.fields(ServingSettings)}
    problems: list[Problem] = []
    values: dict[str, Any] = {}
    for name, text in mapping.items():
        if not name.upper().startswith(PREFIX):
            continue
        key = name[len(PREFIX) :].lower()
        if key not in fields:
            close = difflib.get_close_matches(key, fields, n=1)
            right = f"did you mean {PREFIX}{close[0].upper()}?" if close else "remove it"
            problems.append(Problem(name, "unknown setting", right))
            continue
        if key in values:
            problems.append(Problem(name, "is set twice, in another case", "set it once"))
        read, right = _READERS[key] if key in _READERS else _KINDS[type(fields[key].default)]
        value = read(text)
        if value is None:
            problems.append(Problem(name, f"is {text!r}", right))
        else:
            values[key] = value
    if problems:
        raise InvalidInput("environment", problems)
    return ServingSettings(**values)


def _boolean(text: str) -> bool | None:
    word = text.strip().lower()
    if word in _TRUE:
        return True
    return False if word in _FALSE else None


def _number(low: int, high: int | None = None) -> Callable[[str], int | None]:
    def read(text: str) -> int | None:
        digits = text.strip()
        if not digits.isascii() or not digits.isdigit() or len(digits) > 18:  # noqa: PLR2004 - fits 64 bits
            return None
        value = int(digits)
        return value if low <= value and (high is None or value <= high) else None

    return read


def _version(text: str) -> str | None:
    """One part of a path, or nothing (S3-1)."""
    allowed = all(letter.isascii() and (letter.isalnum() or letter in "._-~") for letter in text)
    return text if allowed and text not in (".", "..") else None


_Reader = tuple[Callable[[str], Any], str]
_KINDS: Mapping[type, _Reader] = {
    bool: (_boolean, "write true or false"),
    int: (_number(0), "write a whole number from 0"),
    str: (lambda text: text, ""),
}
_READERS: Mapping[str, _Reader] = {
    "api_version": (_version, "write one part of a path, such as v1, or nothing"),
    "uvicorn_http_port": (_number(0, _MAX_PORT), f"write a port from 0 to {_MAX_PORT}"),
    "grpc_port": (_number(0, _MAX_PORT), f"write a port from 1 to {_MAX_PORT}, or 0 for none"),
    "uvicorn_workers": (_number(1, 256), "write a whole number from 1 to 256"),
    "logconfig_level": (_number(0, 50), "write 10, 20, 30, 40 or 50"),
    "body_limit_bytes": (_number(1), "write a number of bytes from 1"),
    "bodies_limit_bytes": (_number(1), "write a number of bytes from 1"),
}
