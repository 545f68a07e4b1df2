"""The XML markup of texts: `<loudness value="-6">`, `<tempo value="0.8">`, `<respell value="suh-SPEL-ing">`.

Tags may be nested: loudness adds up, tempo multiplies. A text is markup if one of these tags is in it, or if it is in
`<speak>`; any other text may hold `<` and `&` as it likes. The root stands first in what is parsed, so there is no
place for a document type: no entities of one's own, and no text grows while it is read.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from xml.parsers import expat

from fairlead.api.speech import SpeechRefused
from fairlead.api.speech_codes import Code
from fairlead.engines.speech.segments import Segment

ROOT = "speak"
_MARKED = re.compile(r"</?(?:loudness|tempo|respell)[\s/>]|\s*<speak[\s/>]")
_NUMBER = re.compile(r"[+-]?[0-9]{1,3}(?:\.[0-9]{1,3})?")
_LOUDNESS = (-40.0, 6.0)  # decibels
_TEMPO = (0.25, 4.0)
_MOST_DEPTH = 16


def is_marked(text: str) -> bool:
    """Does it hold a tag of ours?"""
    return _MARKED.search(text) is not None


def parsed(text: str) -> list[Segment]:
    """The text's pieces in order; raises SpeechRefused (INVALID_XML)."""
    reader = _Reader()
    parser = expat.ParserCreate()
    parser.buffer_text = True
    parser.StartElementHandler = reader.start
    parser.EndElementHandler = reader.end
    parser.CharacterDataHandler = reader.characters
    try:
        whole = text if text.lstrip().startswith(f"<{ROOT}") else f"<{ROOT}>{text}</{ROOT}>"
        parser.Parse(whole.encode(), True)  # noqa: FBT003 - the library's signature
    except expat.ExpatError as error:
        why = expat.errors.messages[error.code]
        raise _wrong(f"it is not well-formed: {why}") from None
    except UnicodeEncodeError:
        raise _wrong("it holds a half of a character") from None
    return reader.segments


def _wrong(what: str) -> SpeechRefused:
    return SpeechRefused(Code.INVALID_XML, f"Text markup cannot be read: {what}.")


@dataclass(slots=True)
class _Reader:
    segments: list[Segment] = field(default_factory=list)
    _open: list[Segment] = field(default_factory=list)  # how text is said where we are

    def start(self, tag: str, attributes: dict[str, str]) -> None:
        if len(self._open) == _MOST_DEPTH:
            raise _wrong(f"tags are nested more than {_MOST_DEPTH - 1} deep")
        outer = self._open[-1] if self._open else Segment("")
        if outer.respelling:
            raise _wrong(f"<{tag}> is inside <respell>, which holds text only")
        if tag == ROOT and not self._open:
            self._open.append(outer)
            return
        value = attributes.get("value")
        if tag not in ("loudness", "tempo", "respell"):
            raise _wrong(f"<{tag:.40}> is no tag of ours; there are loudness, tempo and respell")
        if value is None or len(attributes) != 1:
            raise _wrong(f'<{tag}> has one attribute, value="..."')
        if tag == "loudness":
            added = outer.loudness + _number(tag, value, _LOUDNESS)
            self._open.append(replace(outer, loudness=max(_LOUDNESS[0], min(_LOUDNESS[1], added))))
        elif tag == "tempo":
            times = outer.tempo * _number(tag, value, _TEMPO)
            self._open.append(replace(outer, tempo=max(_TEMPO[0], min(_TEMPO[1], times))))
        else:
            self._open.append(replace(outer, respelling=value or "-"))  # "-" is refused in its turn

    def end(self, _tag: str) -> None:
        inner = self._open.pop()
        if inner.respelling:
            self.segments.append(replace(inner, text=""))

    def characters(self, text: str) -> None:
        inner = self._open[-1]
        if not inner.respelling:
            self.segments.append(replace(inner, text=text))


def _number(tag: str, value: str, within: tuple[float, float]) -> float:
    least, most = within
    if not _NUMBER.fullmatch(value) or not least <= float(value) <= most:
        raise _wrong(f"the value of <{tag}> is a number from {least:g} to {most:g}")
    return float(value)
