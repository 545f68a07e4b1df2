"""What the speech dialects and the speech engine tell each other: what to say, and why it cannot be said (S0-30)."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass
from typing import Protocol, TypeGuard

from fairlead.api.inference import InferRequest, InferResponse, Model
from fairlead.api.speech_codes import Code
from fairlead.domain.errors import Kind, Refused

AUDIO = "audio"  # the tensor of a piece of sound: 16-bit samples of one channel


class SpeechRefused(Refused):
    """A text that is not said."""

    def __init__(self, code: Code, message: str, kind: Kind = Kind.INVALID) -> None:
        super().__init__(kind, message)
        self.code = code


@dataclass(frozen=True, slots=True)
class Speech:
    """The document of a speech request. `only_check`: answer whether it could be said, and say nothing.

    `prepared` is the engine's own: what it made of the text when it was checked.
    """

    speaker_id: int
    text: str
    speed: float = 1.0
    only_check: bool = False
    prepared: bytes = b""


class SpeechModel(Model, Protocol):
    """A loaded voice. `infer` answers how long and how loud it would be, or checks; `stream` gives the sound."""

    sample_rate: int
    speaker_names: Mapping[str, int]  # what speakers are called, in small letters, to their ids

    def prepare(self, speech: Speech) -> Speech:
        """The same, checked and prepared; raises SpeechRefused if it cannot be said: S0-30, 5 to 9."""
        ...

    def stream(self, request: InferRequest) -> AsyncGenerator[InferResponse, None]:
        """Pieces of sound (the tensor AUDIO) as they are made; raises SpeechRefused, FairleadError (MODEL)."""
        ...


def speaks(model: Model) -> TypeGuard[SpeechModel]:
    """Is it a voice?"""
    return hasattr(model, "speaker_names")
