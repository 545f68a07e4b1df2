"""espeak-ng: a formant synthesizer with over a hundred languages, and no weights.

It comes from the package `espeakng-loader` (extra `speech`). The library is under the GPL, one more reason for it to
be in this process and no other. It makes sound a thousand times faster than it is heard.
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

from fairlead.engines.speech.respelling import phonemes_of
from fairlead.engines.speech.synthesizer import Cannot, Emit

_SYNCHRONOUS = 2  # espeak_AUDIO_OUTPUT: the sound goes to our callback, before espeak_Synth returns
_DONT_EXIT = (
    0x8000  # espeakINITIALIZE_DONT_EXIT: say that data are missing instead of ending the process
)
_UTF8, _SSML, _PHONEMES = 0x1, 0x10, 0x100
_RATE, _VOLUME, _PITCH = 1, 2, 3  # espeak_PARAMETER
_OK = 0
_BUFFER_MILLISECONDS = 60
_WORDS_PER_MINUTE = 175  # its own default
_SLOWEST, _FASTEST = 80, 700
_FULL = 100  # volume
_LOUDEST = 200  # beyond it samples are clipped
_MIDDLE, _HIGHEST = 50, 99  # pitch
_Callback = ctypes.CFUNCTYPE(
    ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p
)


class Espeak:
    """One process can have one: its state is global."""

    def __init__(self, order: Mapping[str, Any]) -> None:
        del order
        try:
            import espeakng_loader  # type: ignore[import-untyped] # noqa: PLC0415 - an extra; it ships no types
        except ImportError:
            message = "espeak-ng is not installed here; it comes with the extra: pip install 'fairlead[speech]'"
            raise Cannot(message) from None
        self._library = ctypes.CDLL(espeakng_loader.get_library_path())
        data: str = espeakng_loader.get_data_path()
        self.rate: int = self._library.espeak_Initialize(
            _SYNCHRONOUS, _BUFFER_MILLISECONDS, data.encode(), _DONT_EXIT
        )
        if self.rate <= 0:
            raise Cannot(f"espeak-ng found no data in {data}; install espeakng-loader again")
        self._variants = Path(data) / "voices" / "!v"
        self._emit: Emit | None = None
        self._callback = _Callback(self._made)  # kept: the library holds only its address
        self._library.espeak_SetSynthCallback(self._callback)
        self._voice = ""

    def lacks(self, voices: Sequence[Any]) -> list[Any]:
        return [voice for voice in voices if not self._choose(voice)]

    def say(self, order: Mapping[str, Any], emit: Emit) -> None:
        if not self._choose(order["voice"]):
            raise Cannot(f"espeak-ng has no voice {order['voice']!r}")
        settings = order.get("settings", {})
        speed = order["speed"] * settings.get("rate", 1.0)
        self._set(_RATE, min(_FASTEST, max(_SLOWEST, round(_WORDS_PER_MINUTE * speed))))
        self._set(_PITCH, min(_HIGHEST, max(0, round(settings.get("pitch", _MIDDLE)))))
        self._set(_VOLUME, _FULL)
        text = ssml_of(order["segments"]).encode()
        self._emit = emit
        flags = _UTF8 | _SSML | _PHONEMES
        try:
            told = self._library.espeak_Synth(text, len(text) + 1, 0, 1, 0, flags, None, None)
        finally:
            self._emit = None
        if told != _OK:
            raise Cannot(f"espeak-ng failed with code {told}")

    def _choose(self, voice: object) -> bool:
        """A voice's name, or one with a variant: `en-us`, `en-us+f3`. A variant that is not there is ignored by the library."""
        if not isinstance(voice, str):
            return False
        if voice == self._voice:
            return True
        _, plus, variant = voice.partition("+")
        if plus and ("/" in variant or not (self._variants / variant).is_file()):
            return False
        found: int = self._library.espeak_SetVoiceByName(voice.encode())
        self._voice = voice if found == _OK else ""
        return found == _OK

    def _set(self, parameter: int, value: int) -> None:
        self._library.espeak_SetParameter(parameter, value, 0)

    def _made(self, samples: Any, count: int, _events: int | None) -> int:  # noqa: ANN401 - a pointer, or None
        """0 to go on. What is raised here would be lost in the library."""
        if not samples or not count or self._emit is None:
            return 0
        try:
            return 0 if self._emit(ctypes.string_at(samples, 2 * count)) else 1
        except OSError:  # the worker is gone: the next word to it says so again
            return 1


def ssml_of(segments: Sequence[Mapping[str, Any]]) -> str:
    """What espeak-ng reads: its markup, with phonemes in double brackets; the caller's brackets are only brackets."""
    parts = []
    for segment in segments:
        if segment["respelling"]:
            text = f"[[{phonemes_of(segment['respelling'])}]]"
        else:
            text = escape(segment["text"].replace("[", " [ "))
        how = []
        if segment["tempo"] != 1:
            how.append(f"rate='{round(100 * segment['tempo'])}%'")
        if segment["loudness"]:
            volume = _FULL * math.pow(10, segment["loudness"] / 20)
            how.append(f"volume='{min(_LOUDEST, max(1, round(volume)))}'")
        parts.append(f"<prosody {' '.join(how)}>{text}</prosody>" if how else text)
    return "".join(parts)
