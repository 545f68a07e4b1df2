"""Which form of sound a caller takes, by its `Accept` (RFC 9110, 12.5.1): MP3 unless it would rather have another."""

from __future__ import annotations

import re
from collections.abc import Sequence

from fairlead.api.speech import SpeechRefused
from fairlead.api.speech_codes import Code
from fairlead.dialects.speech.audio import FORMATS, Format
from fairlead.domain.errors import Kind

# What callers call them, in the order we would choose: the first form that is as welcome as any.
_NAMES = {
    "mp3": ("audio/mpeg", "audio/mp3"),
    "opus": ("audio/ogg", "audio/opus", "application/ogg"),
    "wav": ("audio/wav", "audio/x-wav", "audio/wave", "audio/vnd.wave"),
    "pcm": ("audio/pcm", "audio/l16"),
}
_WEIGHT = re.compile(r"(?:0(?:\.[0-9]{0,3})?|1(?:\.0{0,3})?)")
_MOST_RANGES = 50
_OFFERED = "audio/mpeg, audio/ogg (Opus), audio/wav and audio/pcm"


def chosen(accept: str) -> Format:
    """The form to answer in; raises SpeechRefused (406) if the caller takes none of ours."""
    if not accept.strip():
        return FORMATS["mp3"]
    ranges = [_range(one) for one in accept.split(",")[:_MOST_RANGES]]
    best, most = "", 0.0
    for name, kinds in _NAMES.items():
        weight = _weight(kinds, ranges)
        if weight > most:
            best, most = name, weight
    if not best:
        message = f"The Accept header takes none of the forms there are: {_OFFERED}."
        raise SpeechRefused(Code.NOT_ACCEPTABLE, message, Kind.FORMAT)
    return FORMATS[best]


def _range(text: str) -> tuple[str, float]:
    kind, *parameters = (one.strip().lower() for one in text.split(";"))
    weight = 1.0
    for parameter in parameters:
        name, _, value = parameter.partition("=")
        if name.strip() == "q":
            value = value.strip()
            weight = float(value) if _WEIGHT.fullmatch(value) else 0.0
    return kind, weight


def _weight(kinds: Sequence[str], ranges: list[tuple[str, float]]) -> float:
    """How welcome this form is: the most exact range that holds one of its names says."""
    for wanted in (kinds, ("audio/*",), ("*/*",)):
        found = [weight for one, weight in ranges if one in wanted]
        if found:
            return max(found)
    return 0.0
