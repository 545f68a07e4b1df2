"""OpenAI's `POST /v1/audio/speech`: `model` is the service, `voice` a speaker by name, alias or id.

`instructions` are for models that understand them; this one does not, and as with OpenAI's own older models they
change nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from fairlead.api.http_status import HTTP_STATUS
from fairlead.api.speech import Speech, SpeechRefused
from fairlead.api.speech_codes import Code
from fairlead.dialects.speech.audio import FORMATS, Format
from fairlead.domain.errors import FairleadError, Kind, Refused

STATUSES: Mapping[Kind, int] = {**HTTP_STATUS, Kind.SCHEMA: 400}
MOST_CHARACTERS = 4096
_SLOWEST, _FASTEST = 0.25, 4.0
_PARAMS: Mapping[Code, str | None] = {Code.INVALID_SPEAKER_ID: "voice", Code.INVALID_API_KEY: None}


class Wrong(Refused):
    """A request that is refused; `param` is what of it is wrong, `code` what OpenAI calls it."""

    def __init__(self, message: str, param: str | None, code: str | None = None) -> None:
        super().__init__(Kind.INVALID, message)
        self.param = param
        self.code = code


class NoModel(Refused):
    """A model that is not here."""

    def __init__(self, name: str) -> None:
        super().__init__(Kind.NOT_FOUND, f"The model '{name:.80}' does not exist here.")


@dataclass(frozen=True, slots=True)
class Asked:
    """What is to be said, and in which form."""

    speech: Speech
    form: Format


def from_body(body: bytes, service: str, voices: Mapping[str, int]) -> Asked:
    """Raises Wrong, NoModel. `voices` are the speakers' ids by name."""
    try:
        document = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise Wrong("The body must be a JSON object in UTF-8.", None) from None
    if not isinstance(document, dict):
        raise Wrong("The body must be a JSON object in UTF-8.", None)
    for name in ("model", "input", "voice"):
        if document.get(name) is None:
            raise Wrong(
                f"Missing required parameter: '{name}'.", name, "missing_required_parameter"
            )
    if document["model"] != service:
        raise NoModel(str(document["model"]))
    text = _text(document["input"])
    form = _form(document)
    speed = _speed(document.get("speed"))
    return Asked(Speech(_speaker(document["voice"], voices), text, speed), form)


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise Wrong("'input' must be a string.", "input", "invalid_type")
    if not value:
        raise Wrong("'input' must hold at least 1 character.", "input", "string_below_min_length")
    if len(value) > MOST_CHARACTERS:
        message = f"'input' must hold at most {MOST_CHARACTERS} characters; it has {len(value)}."
        raise Wrong(message, "input", "string_above_max_length")
    return value


def _form(document: Mapping[str, Any]) -> Format:
    if document.get("stream_format") not in (None, "audio"):
        raise Wrong("'stream_format' must be 'audio' here.", "stream_format", "unsupported_value")
    name = document.get("response_format")
    form = (
        FORMATS.get(name if name is not None else "mp3") if isinstance(name, str | None) else None
    )
    if form is None:
        listed = ", ".join(f"'{one}'" for one in FORMATS)
        raise Wrong(
            f"'response_format' must be one of {listed}.", "response_format", "invalid_value"
        )
    return form


def _speed(value: object) -> float:
    if value is None:
        return 1.0
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise Wrong("'speed' must be a number.", "speed", "invalid_type")
    if not _SLOWEST <= value <= _FASTEST:
        raise Wrong(
            f"'speed' must be from {_SLOWEST} to {_FASTEST}.", "speed", "decimal_out_of_range"
        )
    return float(value)


def _speaker(value: object, voices: Mapping[str, int]) -> int:
    if isinstance(value, dict):  # {"id": "..."}, as custom voices are named
        value = value.get("id")
    if (
        isinstance(value, str)
        and value.isascii()
        and value.isdigit()
        and len(value) < len("1" * 19)
    ):
        return int(value)
    speaker = voices.get(value.lower()) if isinstance(value, str) else None
    if speaker is None:
        listed = ", ".join(sorted(voices)[:20])
        raise Wrong(
            f"'voice' must be a speaker: {listed}; or a speaker's id.", "voice", "invalid_value"
        )
    return speaker


def error_body(error: FairleadError) -> bytes:
    """A refusal in OpenAI's shape."""
    param: str | None = None
    code: str | None = None
    if isinstance(error, Wrong):
        param, code = error.param, error.code
    elif isinstance(error, NoModel):
        param, code = "model", "model_not_found"
    elif isinstance(error, SpeechRefused):
        param = _PARAMS.get(error.code, "input")
        code = error.code.value.lower()
    said = {"message": error.message, "type": _type(error), "param": param, "code": code}
    return msgspec.json.encode({"error": said})


def _type(error: FairleadError) -> str:
    match error.kind:
        case Kind.OVERLOADED | Kind.QUOTA:
            return "rate_limit_exceeded"
        case Kind.UNAUTHENTICATED | Kind.FORBIDDEN:
            return "authentication_error"
        case kind if STATUSES[kind] >= 500:  # noqa: PLR2004 - HTTP's server errors
            return "server_error"
        case _:
            return "invalid_request_error"
