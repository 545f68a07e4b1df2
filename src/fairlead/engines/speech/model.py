"""A loaded voice: what may be said, how long it would take, and its sound."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import AsyncGenerator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from fairlead.api.inference import InferRequest, InferResponse
from fairlead.api.speech import AUDIO, Speech, SpeechRefused
from fairlead.api.speech_codes import MOST_CHARACTERS, Code
from fairlead.domain.errors import FieldError, Kind, Refused, SchemaMismatch
from fairlead.domain.signature import DocumentSignature, Signature
from fairlead.engines.speech.segments import Segment
from fairlead.engines.speech.speakers import Speaker, VoiceFile, voice_file
from fairlead.engines.speech.text import understood
from fairlead.engines.speech.voices import Voices
from fairlead.kits import memory

_log = logging.getLogger(__name__)
_FULL_SCALE = 32768.0
_SILENCE_DECIBELS = -120.0
_DIGITS = 3  # of seconds and decibels: more would only be noise
UNKNOWN_SPEAKER = "Speaker ID is invalid."
NOT_AVAILABLE = "Speaker is not available."
NO_RESPELLING = "Respellings are for English voices of espeak-ng; write the word as it is."


class _Asked(msgspec.Struct):
    speaker_id: int | str
    text: str
    speed: float = 1.0


_REQUEST = {
    "type": "object",
    "required": ["speaker_id", "text"],
    "properties": {
        "speaker_id": {"anyOf": [{"type": "integer"}, {"type": "string", "pattern": "^[0-9]+$"}]},
        "text": {"type": "string", "minLength": 1, "maxLength": MOST_CHARACTERS - 1},
        "speed": {"type": "number", "default": 1.0},
    },
}
_RESPONSE = {
    "type": "object",
    "properties": {
        "seconds": {"type": "number", "description": "how long the sound is"},
        "loudness": {"type": "number", "description": "decibels below full scale, as one mean"},
    },
}


class SpokenModel:
    """One artifact: its speakers, and the processes that speak for them."""

    concurrent = True

    def __init__(self, directory: Path, entry: str, threads: int, limit: int) -> None:
        # Streams are encoded in threads that take turns: with a heap for each, a worker grew by a kilobyte a stream.
        memory.stay_small()
        path = directory / entry
        self._file = voice_file(path.read_bytes(), str(path))
        self.signature: Signature = DocumentSignature(_REQUEST, _RESPONSE)
        self.speaker_names = self._file.names()
        self._voices = Voices(_loading(self._file, directory, threads), limit)
        self.sample_rate = self._voices.rate
        self._absent = self._missing()

    async def infer(self, request: InferRequest) -> InferResponse:
        speech: Speech = request.document
        if speech.only_check:
            self.prepare(speech)
            return InferResponse(document={"message": "OK"})
        samples, squares = 0, 0.0
        async for response in self.stream(request):
            sound = response.tensors[AUDIO].astype(np.float64) / _FULL_SCALE
            samples += sound.size
            squares += float(np.square(sound).sum())
        loudness = 10 * math.log10(squares / samples) if squares else _SILENCE_DECIBELS
        found = {"seconds": samples / self.sample_rate, "loudness": loudness}
        return InferResponse(
            document={name: round(value, _DIGITS) for name, value in found.items()}
        )

    async def stream(self, request: InferRequest) -> AsyncGenerator[InferResponse, None]:
        """Pieces of sound as they are made: one tensor, 16-bit samples of one channel."""
        speech: Speech = request.document
        async with self._voices.saying(self.prepare(speech).prepared) as sound:
            async for piece in sound:
                yield InferResponse({AUDIO: np.frombuffer(piece, "<i2")})

    def prepare(self, speech: Speech) -> Speech:
        if speech.prepared:
            return speech
        return replace(speech, prepared=_order_of(speech, *self._checked(speech)))

    def parse_document(self, data: bytes) -> Speech:
        try:
            asked = msgspec.json.decode(data, type=_Asked)
            return Speech(int(asked.speaker_id), asked.text, asked.speed)
        except (msgspec.MsgspecError, ValueError) as error:
            raise SchemaMismatch([FieldError(("body",), str(error), "value_error")]) from None

    def dump_document(self, document: Mapping[str, Any]) -> bytes:
        return msgspec.json.encode(document)

    @property
    def pids(self) -> list[int]:
        """Of the processes that speak."""
        return self._voices.pids

    def close(self) -> None:
        self._voices.close()

    def _checked(self, speech: Speech) -> tuple[Speaker, tuple[Segment, ...]]:
        """S0-30, 5 to 9; raises SpeechRefused."""
        speaker = self._file.speakers.get(speech.speaker_id)
        if speaker is None:
            raise SpeechRefused(Code.INVALID_SPEAKER_ID, UNKNOWN_SPEAKER)
        segments = understood(speech.text, self._file.characters)
        respelled = any(one.respelling for one in segments)
        if respelled and not (
            self._file.synthesizer != "sherpa-onnx" and speaker.language.startswith("en")
        ):
            raise SpeechRefused(Code.INVALID_TEXT, NO_RESPELLING)
        if speaker.withdrawn or speech.speaker_id in self._absent:
            raise SpeechRefused(Code.INVALID_SPEAKER_ID, NOT_AVAILABLE)
        return speaker, segments

    def _missing(self) -> frozenset[int]:
        """Speakers of the table that the model lacks (S0-33); raises Refused (MODEL) if those are all."""
        lacks = self._voices.lacks
        there = {number: one for number, one in self._file.speakers.items() if not one.withdrawn}
        absent = {number: one for number, one in there.items() if one.voice in lacks}
        for number, one in absent.items():
            _log.warning(
                "speaker %d (%s) is in the table, but the model has no voice %r",
                number,
                one.name,
                one.voice,
            )
        if len(absent) == len(there):
            self.close()
            message = "the model has none of the voices of its speakers: " + ", ".join(
                sorted({repr(one.voice) for one in absent.values()})
            )
            raise Refused(Kind.MODEL, message)
        return frozenset(absent)


def _loading(file: VoiceFile, directory: Path, threads: int) -> Mapping[str, Any]:
    voices = {one.voice: None for one in file.speakers.values() if not one.withdrawn}
    return {
        "synthesizer": file.synthesizer,
        "settings": dict(file.settings),
        "directory": str(directory.resolve()),
        "threads": threads,
        "voices": list(voices),
    }


def _order_of(speech: Speech, speaker: Speaker, segments: tuple[Segment, ...]) -> bytes:
    order = {
        "voice": speaker.voice,
        "settings": dict(speaker.settings),
        "speed": speech.speed,
        "segments": [
            {
                "text": one.text,
                "respelling": one.respelling,
                "loudness": one.loudness,
                "tempo": one.tempo,
            }
            for one in segments
        ],
    }
    return json.dumps(order).encode()
