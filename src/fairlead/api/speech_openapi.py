"""The speech API in OpenAPI's words: what stands at a speech model's own paths."""

from __future__ import annotations

from enum import StrEnum
from typing import Any

from fairlead.api.speech_codes import MOST_CHARACTERS, Code
from fairlead.domain.paths import OPENAI_SPEECH

Document = dict[str, Any]
VALIDATE = "validate"  # the endpoint whose own paths only check, whatever they are called
_SOUNDS = ("audio/mpeg", "audio/ogg", "audio/wav", "audio/pcm")
_REFUSALS = {
    "400": "The text or the speaker is refused: `code` says why",
    "406": "No form of sound that is made here is accepted",
    "500": "The voice failed",
    "503": "Not ready, or the queue is full",
    "504": "No answer in time",
}


class Use(StrEnum):
    """What a path of a speech model is for."""

    SPEAK = "speak"
    CHECK = "check"
    OPENAI = "openai"


def use_of(path: str, endpoint: str) -> Use:
    """A path says by its end what it is for (S0-2 has several that end alike); others by their endpoint."""
    if path.endswith(OPENAI_SPEECH):
        return Use.OPENAI
    if path.endswith("/input_validated") or (endpoint == VALIDATE and not path.endswith("/stream")):
        return Use.CHECK
    return Use.SPEAK


def operations(path: str, endpoint: str, service: str) -> Document:
    """The operations at one path, by method."""
    use = use_of(path, endpoint)
    sound = {"200": {"description": "Sound, while it is made", "content": _sounds()}}
    if use is Use.OPENAI:
        answers = {**sound, **_refusals(_OPENAI_ERROR)}
        body = _json("What to say", _openai(service))
        post: Document = {"tags": [service], "summary": "Say a text (as OpenAI has it)"}
        return {"post": {**post, "requestBody": {"required": True, **body}, "responses": answers}}
    checked = {"200": _json("It can be said", _object({"message": {"const": "OK"}}))}
    about: Document = {
        "tags": [service],
        "summary": "Say a text" if use is Use.SPEAK else "Can this text be said?",
        "responses": {**(sound if use is Use.SPEAK else checked), **_refusals(_ERROR)},
    }
    parameters = [
        {"name": name, "in": "query", "required": True, "schema": schema}
        for name, schema in (("speaker_id", _DIGITS), ("text", _TEXT))
    ]
    body = {"required": True, **_json("Who says what", _object(_ASKED))}
    return {
        "get": {**about, "parameters": parameters},
        "post": {**about, "requestBody": body},
    }


def _openai(service: str) -> Document:
    required = {
        "model": {"const": service},
        "input": {"type": "string", "minLength": 1, "maxLength": 4096},
        "voice": {"type": "string", "description": "a speaker's name, alias or id"},
    }
    forms = {"enum": ["mp3", "opus", "wav", "pcm"], "default": "mp3"}
    speed = {"type": "number", "minimum": 0.25, "maximum": 4.0, "default": 1.0}
    asked = _object(required)
    asked["properties"] |= {"response_format": forms, "speed": speed}
    return asked


def _sounds() -> Document:
    return {kind: {"schema": {"type": "string", "format": "binary"}} for kind in _SOUNDS}


def _refusals(error: Document) -> Document:
    return {status: _json(text, error) for status, text in _REFUSALS.items()}


def _json(description: str, schema: Document) -> Document:
    return {"description": description, "content": {"application/json": {"schema": schema}}}


def _object(properties: Document) -> Document:
    return {"type": "object", "properties": dict(properties), "required": list(properties)}


_DIGITS: Document = {"type": "string", "pattern": "^[0-9]+$"}
_TEXT: Document = {"type": "string", "minLength": 1, "maxLength": MOST_CHARACTERS - 1}
_ASKED: Document = {"speaker_id": {"anyOf": [_DIGITS, {"type": "integer"}]}, "text": _TEXT}
_ERROR = _object({"message": {"type": "string"}, "code": {"enum": [str(one) for one in Code]}})
_OPENAI_ERROR = _object({"error": {"type": "object"}})
