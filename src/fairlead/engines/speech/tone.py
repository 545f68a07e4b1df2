"""A voice that hums: each text as a tone whose pitch is the text's own, at a pace that can be chosen.

For tests of everything but the voice (whose sound is it, does it come while it is made, what does a slow listener
do), and for trying things out without any synthesizer.
"""

from __future__ import annotations

import array
import math
import sys
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

from fairlead.engines.speech.synthesizer import Cannot, Emit

RATE = 24_000
CHUNK_SECONDS = 0.02
SECONDS_PER_CHARACTER = 0.06
_LOUDNESS = 8000  # of 32,767
_LOWEST_HERTZ = 200
_PITCHES = 40
_STEP_HERTZ = 25
CRASH = "crash!"  # a text with this in it ends the process half-way, one that begins so at once
_CRASHED = 3


def pitch_of(text: str) -> int:
    """The pitch of a text, in hertz."""
    return _LOWEST_HERTZ + _STEP_HERTZ * (zlib.crc32(text.encode()) % _PITCHES)


class Tone:
    """`pace` is how many seconds of sound it makes in a second; 0 is as many as it can."""

    rate = RATE

    def __init__(self, order: Mapping[str, Any]) -> None:
        self._pace = float(order.get("settings", {}).get("pace", 0))
        if self._pace < 0:
            raise Cannot(
                "settings.pace is negative; write how many seconds of sound it makes in a second, or 0"
            )

    def lacks(self, voices: Sequence[Any]) -> list[Any]:
        """It has one voice, `hum`."""
        return [voice for voice in voices if voice != "hum"]

    def say(self, order: Mapping[str, Any], emit: Emit) -> None:
        text = "".join(segment["text"] for segment in order["segments"])
        hertz = pitch_of(text)
        seconds = SECONDS_PER_CHARACTER * len(text) / order["speed"]
        chunks = max(1, round(seconds / CHUNK_SECONDS))
        size = int(RATE * CHUNK_SECONDS)
        for number in range(chunks):
            if text.startswith(CRASH) or (CRASH in text and number > chunks // 2):
                sys.stderr.flush()
                raise SystemExit(_CRASHED)
            start = number * size
            samples = array.array(
                "h",
                (
                    round(_LOUDNESS * math.sin(2 * math.pi * hertz * (start + index) / RATE))
                    for index in range(size)
                ),
            )
            if sys.byteorder == "big":
                samples.byteswap()
            if not emit(samples.tobytes()):
                return
            if self._pace and not emit.wait(CHUNK_SECONDS / self._pace):
                return
