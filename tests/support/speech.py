"""Voices for tests, and ears: what a decoded sound is, how long, how loud and at which pitch."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
import numpy as np
import numpy.typing as npt

from fairlead.api.worker import ServedEndpoint, WorkerSpec
from fairlead.domain.ids import ArtifactRef, RevisionId
from support.models import Artifact, example, make_artifact

STREAM = "/api/text_to_speech/stream"
VALIDATE = "/api/text_to_speech/input_validated"
OPENAI = "/openai/v1/audio/speech"
SPEAKERS = [
    {"name": "Ada", "voice": "hum", "language": "en-us", "aliases": ["alloy"]},
    {"name": "Ben", "voice": "hum", "withdrawn": True},
    {"name": "Cleo", "voice": "not there"},
    {"name": "Gerd", "voice": "hum", "language": "de"},
]


def humming(pace: float = 0, **more: Any) -> dict[str, Any]:
    """A `voice.json` of the voice that hums."""
    settings = {"pace": pace} if pace else {}
    return {"synthesizer": "tone", "settings": settings, "speakers": SPEAKERS, **more}


def hum_folder(directory: Path, pace: float = 0, **more: Any) -> Path:
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "voice.json").write_text(json.dumps(humming(pace, **more)))
    return directory


def hum_artifact(directory: Path, pace: float = 0, **more: Any) -> Artifact:
    """It says `hm` for its proof: 0.12 s, a sine of 8,000."""
    proof = example({"speaker_id": 0, "text": "hm"}, {"seconds": 0.12, "loudness": -15.257})
    contents: Mapping[str, str] = {"voice.json": json.dumps(humming(pace, **more))}
    return make_artifact(directory, contents, [proof], ArtifactRef("speech", 1))


def speech_spec(made: Artifact, concurrency: int = 1, **more: Any) -> WorkerSpec:
    """A worker of the two endpoints of S0."""
    endpoints = (
        ServedEndpoint("stream", concurrency, (STREAM, OPENAI)),
        ServedEndpoint("validate", 4, (VALIDATE,)),
    )
    return made.spec(RevisionId("speech", "v1", "1"), endpoints=endpoints, **more)


@dataclass(frozen=True)
class Heard:
    """A decoded sound: its samples from -1 to 1, of one channel."""

    samples: npt.NDArray[np.float64]
    rate: int
    codec: str

    @property
    def seconds(self) -> float:
        return len(self.samples) / self.rate

    @property
    def decibels(self) -> float:
        return float(10 * np.log10(np.mean(np.square(self.samples)) + 1e-12))

    @property
    def hertz(self) -> float:
        """The loudest pitch."""
        spectrum = np.abs(np.fft.rfft(self.samples * np.hanning(len(self.samples))))
        return float(np.argmax(spectrum) * self.rate / len(self.samples))


def heard(data: bytes) -> Heard:
    """Decode MP3, WAV or Ogg by what it holds."""
    with av.open(io.BytesIO(data)) as container:
        stream = container.streams.audio[0]
        frames = list(container.decode(stream))
        resampler = av.AudioResampler(format="s16", layout="mono", rate=frames[0].sample_rate)
        pieces = [
            out.to_ndarray()[0] for frame in [*frames, None] for out in resampler.resample(frame)
        ]
        assert stream.codec_context.channels == 1
        return Heard(
            np.concatenate(pieces) / 32768, frames[0].sample_rate, stream.codec_context.name
        )


def heard_samples(data: bytes, rate: int = 24_000) -> Heard:
    """Bare samples."""
    return Heard(np.frombuffer(data, "<i2") / 32768, rate, "pcm")
