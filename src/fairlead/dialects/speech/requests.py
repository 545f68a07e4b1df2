"""The project's speech API (S0-29 to 32): a speaker and a text in JSON or in the query, sound or a refusal out.

The checks of S0-30 that need no voice are made here, in their order; the engine makes the others. Every refusal has
the status 400, a message, and a code; what is no refusal of the text (a full queue, a deadline, a voice that failed)
keeps its own status and says UNKNOWN_ERROR.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import parse_qsl

import msgspec

from fairlead.api.http_status import HTTP_STATUS
from fairlead.api.speech import Speech, SpeechRefused
from fairlead.api.speech_codes import MOST_CHARACTERS, Code
from fairlead.domain.errors import FairleadError, Kind

STATUSES: Mapping[Kind, int] = {**HTTP_STATUS, Kind.INTERNAL: 400}  # S0-30, 10
MISSING = "Must call with keys `speaker_id` and `text`."
NO_ID = "Speaker ID must be either an integer or string."
NO_DIGITS = "Speaker ID string must only consist of the symbols 0 - 9."
LENGTH = f"Text must be a string under {MOST_CHARACTERS} characters and more than 0 characters."
NO_OBJECT = "The body must be a JSON object in UTF-8."
UNKNOWN = "Unknown error."
CHECKED = b'{"message":"OK"}'
NO_CACHE = (
    (b"cache-control", b"no-cache, no-store, must-revalidate"),
    (b"pragma", b"no-cache"),
    (b"expires", b"0"),
)
_DIGITS = re.compile(r"[0-9]+")
_MOST_DIGITS = 18  # more is nobody's id
# What the default code stands for (S0-30): the request itself, before anything of the text was looked at.
_BAD_REQUESTS = (Kind.INVALID, Kind.ENCODING, Kind.TOO_LARGE)

Check = Callable[[Mapping[str, Any]], None]  # raises SpeechRefused


def _unchecked(asked: Mapping[str, Any]) -> None:
    """Whoever may ask was decided elsewhere."""
    del asked


def from_body(body: bytes, check: Check = _unchecked) -> Speech:
    """A POST's JSON; raises SpeechRefused. `check` sees it first. Other keys are nobody's business."""
    try:
        document = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise SpeechRefused(Code.BAD_REQUEST, NO_OBJECT) from None
    if not isinstance(document, dict):
        raise SpeechRefused(Code.BAD_REQUEST, NO_OBJECT)
    check(document)
    return _checked(document)


def from_query(query: bytes, check: Check = _unchecked) -> Speech:
    """The query of a GET; raises SpeechRefused. Of a key that is there twice, the first counts."""
    pairs = parse_qsl(query.decode("latin-1"), keep_blank_values=True, errors="replace")
    found: dict[str, Any] = {}
    for name, value in pairs:
        found.setdefault(name, value)
    check(found)
    return _checked(found)


def _checked(asked: Mapping[str, Any]) -> Speech:
    if "speaker_id" not in asked or "text" not in asked:
        raise SpeechRefused(Code.MISSING_ARGUMENT, MISSING)
    speaker, text = asked["speaker_id"], asked["text"]
    if not isinstance(speaker, int | str) or isinstance(speaker, bool):
        raise SpeechRefused(Code.INVALID_SPEAKER_ID, NO_ID)
    if isinstance(speaker, str) and not _DIGITS.fullmatch(speaker):
        raise SpeechRefused(Code.INVALID_SPEAKER_ID, NO_DIGITS)
    if not isinstance(text, str) or not 0 < len(text) < MOST_CHARACTERS:
        raise SpeechRefused(Code.INVALID_TEXT_LENGTH_EXCEEDED, LENGTH)
    return Speech(_number(speaker), text)


def _number(speaker: int | str) -> int:
    """An id that is longer than any is nobody's."""
    if isinstance(speaker, str):
        digits = speaker.lstrip("0")
        return int(digits or "0") if len(digits) <= _MOST_DIGITS else -1
    return speaker


def error_body(error: FairleadError) -> bytes:
    """A refusal as this API says it."""
    if isinstance(error, SpeechRefused):
        return msgspec.json.encode({"message": error.message, "code": error.code.value})
    message = UNKNOWN if error.kind in (Kind.INTERNAL, Kind.MODEL) else error.message
    code = Code.BAD_REQUEST if error.kind in _BAD_REQUESTS else Code.UNKNOWN_ERROR
    return msgspec.json.encode({"message": message, "code": code.value})
