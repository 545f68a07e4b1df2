"""From what a caller wrote to what is said: markup, normalising, respelling, and which characters a voice knows.

The order is that of S0-30, 6 to 8; every refusal has its code and its words.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import replace

from fairlead.api.speech import SpeechRefused
from fairlead.api.speech_codes import Code
from fairlead.engines.speech import markup
from fairlead.engines.speech.respelling import is_respelling
from fairlead.engines.speech.segments import Segment

EMPTY = "Text cannot be empty."
BAD_RESPELLING = "Please format your respelling correctly (see the respelling guide)"
_MARK = "::"
# By code point, as most of them look like each other: quotes, dashes, and what is not seen at all.
_PLAIN = str.maketrans(
    {
        **dict.fromkeys("\u2018\u2019\u201a\u201b\u2032\u02bc`\u00b4", "'"),
        **dict.fromkeys("\u201c\u201d\u201e\u201f\u2033\u00ab\u00bb", '"'),
        **dict.fromkeys("\u2010\u2011\u2012\u2013\u2212", "-"),
        **dict.fromkeys("\u2014\u2015", " - "),
        **dict.fromkeys("\u200b\u200c\u200d\u2060\ufeff\u00ad", ""),
        "\u2044": "/",
    }
)
_SPACES = re.compile(r"[ \t\r\n\f\v\u2028\u2029]+")
_LAST_LATIN = 0x24F
_SIGNS = frozenset("€£¥¢§°¿¡±\u00d7÷©®¬¶·†‡•")


def understood(text: str, characters: str = "") -> tuple[Segment, ...]:
    """What is to be said; raises SpeechRefused. `characters` are known besides the usual ones."""
    marked = markup.parsed(text) if markup.is_marked(text) else [Segment(text)]
    plain = [replace(one, text=normalised(one.text)) for one in marked]
    if not any(one.text.strip() or one.respelling for one in plain):
        raise SpeechRefused(Code.INVALID_TEXT, EMPTY)
    found = [part for one in plain for part in _respelled(one)]
    _check_characters(found, characters)
    return tuple(one for one in _trimmed(found) if one.text or one.respelling)


def normalised(text: str) -> str:
    """Compatible characters as one, quotes and dashes as a keyboard has them, single spaces."""
    return _SPACES.sub(" ", unicodedata.normalize("NFKC", text.translate(_PLAIN)).translate(_PLAIN))


def _respelled(segment: Segment) -> list[Segment]:
    """The segment cut at its respellings, `::suh-SPEL-ing::`."""
    if segment.respelling:
        if not is_respelling(segment.respelling):
            raise SpeechRefused(Code.INVALID_TEXT, BAD_RESPELLING)
        return [segment]
    parts = segment.text.split(_MARK)
    if len(parts) == 1:
        return [segment]
    if len(parts) % 2 == 0 or not all(is_respelling(one) for one in parts[1::2]):
        raise SpeechRefused(Code.INVALID_TEXT, BAD_RESPELLING)
    return [
        replace(segment, text="", respelling=part) if number % 2 else replace(segment, text=part)
        for number, part in enumerate(parts)
    ]


def _check_characters(segments: Sequence[Segment], characters: str) -> None:
    strangers = {
        one for segment in segments for one in set(segment.text) if not _known(one, characters)
    }
    if strangers:
        listed = ", ".join(_shown(one) for one in sorted(strangers))
        raise SpeechRefused(Code.INVALID_TEXT, f"Text cannot contain these characters: {listed}")


def _known(character: str, characters: str) -> bool:
    code = ord(character)
    if code < 0x7F:  # noqa: PLR2004 - the last printable character of ASCII is before it
        return code >= ord(" ")
    latin = code <= _LAST_LATIN and unicodedata.category(character)[0] in "LM"
    return latin or character in _SIGNS or character in characters


def _shown(character: str) -> str:
    """As it is, or escaped if it cannot be seen."""
    return character if character.isprintable() else ascii(character)[1:-1]


def _trimmed(segments: Sequence[Segment]) -> Sequence[Segment]:
    """Without the space around the whole."""
    found = list(segments)
    if found and not found[0].respelling:
        found[0] = replace(found[0], text=found[0].text.lstrip())
    if found and not found[-1].respelling:
        found[-1] = replace(found[-1], text=found[-1].text.rstrip())
    return found
