"""What is said of a speech request without knowing what speech is made of: its limit and its refusals (S0-30)."""

from __future__ import annotations

from enum import StrEnum

MOST_CHARACTERS = 10_000  # a text has fewer


class Code(StrEnum):
    """What a refusal is called by clients of the speech API."""

    BAD_REQUEST = "BAD_REQUEST"
    MISSING_ARGUMENT = "MISSING_ARGUMENT"
    INVALID_API_KEY = "INVALID_API_KEY"
    INVALID_SPEAKER_ID = "INVALID_SPEAKER_ID"
    INVALID_TEXT_LENGTH_EXCEEDED = "INVALID_TEXT_LENGTH_EXCEEDED"
    INVALID_TEXT = "INVALID_TEXT"
    INVALID_XML = "INVALID_XML"
    NOT_ACCEPTABLE = "NOT_ACCEPTABLE"
    UNKNOWN_ERROR = "UNKNOWN_ERROR"
