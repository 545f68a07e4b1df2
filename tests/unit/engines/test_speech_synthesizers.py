"""espeak-ng and sherpa-onnx themselves: real voices, heard."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from fairlead.api.inference import InferRequest
from fairlead.api.speech import AUDIO, Speech, SpeechRefused
from fairlead.domain.errors import FairleadError
from fairlead.engines.speech.model import SpokenModel
from support.speech import Heard
from support.tiny_vits import LETTER_SAMPLES, RATE, hertz_of, tiny_vits

TEXT = "The harbour is calm this morning, and the ferry leaves at nine."


@contextlib.contextmanager
def loaded(directory: Path) -> Iterator[SpokenModel]:
    model = SpokenModel(directory, "voice.json", 1, 2)
    try:
        yield model
    finally:
        model.close()


@pytest.fixture
def espeak(tmp_path):
    speakers = [
        {"name": "Ada", "voice": "en-us+f3", "language": "en-us"},
        {"name": "Gerd", "voice": "de", "language": "de"},
        {"name": "Low", "voice": "en-us", "settings": {"pitch": 5, "rate": 0.8}},
        {"name": "None", "voice": "en-us+nobody"},
        {"name": "Nor", "voice": "xx"},
    ]
    document = {"synthesizer": "espeak-ng", "speakers": speakers}
    (tmp_path / "voice.json").write_text(json.dumps(document))
    with loaded(tmp_path) as model:
        yield model


async def say(model: SpokenModel, text: str, speaker: int = 0, speed: float = 1.0) -> Heard:
    request = InferRequest(document=Speech(speaker, text, speed))
    pieces = [response.tensors[AUDIO] async for response in model.stream(request)]
    return Heard(np.concatenate(pieces) / 32768, model.sample_rate, "")


async def test_espeak_speaks_at_a_speakers_and_a_callers_rate(espeak):
    plain = await say(espeak, TEXT)
    assert 2.5 < plain.seconds < 4.5
    assert -27 < plain.decibels < -15
    assert (await say(espeak, TEXT, speed=2.0)).seconds < 0.65 * plain.seconds
    assert (await say(espeak, TEXT, 2)).seconds > 1.1 * plain.seconds
    assert (await say(espeak, "Der Hafen ruht.", 1)).seconds > 0.5


async def test_espeak_obeys_the_markup(espeak):
    plain = await say(espeak, TEXT)
    quiet = await say(espeak, f'<loudness value="-12">{TEXT}</loudness>')
    assert plain.decibels - quiet.decibels == pytest.approx(12, abs=1.5)
    slow = await say(espeak, f'<tempo value="0.5">{TEXT}</tempo>')
    assert slow.seconds > 1.6 * plain.seconds


async def test_espeak_says_a_respelling_and_not_its_letters(espeak):
    respelled = await say(espeak, "::suh-SPEL-ing::")
    assert respelled.seconds == pytest.approx((await say(espeak, "suspelling")).seconds, abs=0.15)
    letters = await say(espeak, "saw - SPEL - ing")
    assert abs(letters.seconds - respelled.seconds) > 0.2


async def test_espeaks_own_brackets_are_only_brackets(espeak):
    assert (await say(espeak, "[[h@l'oU]] <b> & </b>")).seconds > 1.0


def test_espeak_lacks_what_is_not_there(espeak):
    for speaker in (3, 4):
        with pytest.raises(SpeechRefused, match="not available"):
            espeak.prepare(Speech(speaker, "fine"))


async def test_the_process_of_espeak_serves_one_after_another(espeak):
    heard = await asyncio.gather(*(say(espeak, "one two three", number % 2) for number in range(6)))
    assert len({round(one.seconds, 1) for one in heard}) == 2  # two languages
    assert len(espeak.pids) == 2


async def test_a_neural_voice_speaks_a_sentence_at_a_time(tmp_path):
    with loaded(tiny_vits(tmp_path)) as model:
        assert model.sample_rate == RATE
        sound = await say(model, "aaaa. bbbb!")
        assert sound.seconds * RATE == pytest.approx(
            len("aaaa. bbbb!") * LETTER_SAMPLES, abs=4 * LETTER_SAMPLES
        )
        start = Heard(sound.samples[: 4 * LETTER_SAMPLES], RATE, "")
        assert start.hertz == pytest.approx(hertz_of("a"), abs=3)
        quiet = await say(model, '<loudness value="-12">aaaa</loudness>')
        assert (await say(model, "aaaa")).decibels - quiet.decibels == pytest.approx(12, abs=0.2)


async def test_a_neural_voice_takes_no_respelling_and_has_its_own_numbers(tmp_path):
    with loaded(tiny_vits(tmp_path)) as model:
        with pytest.raises(SpeechRefused, match="Respellings are for English voices"):
            model.prepare(Speech(0, "::MY::"))
        with pytest.raises(SpeechRefused, match="not available"):
            model.prepare(Speech(1, "fine"))


async def test_one_who_leaves_a_neural_voice_is_rid_of_it(tmp_path):
    with loaded(tiny_vits(tmp_path)) as model:
        sound = model.stream(InferRequest(document=Speech(0, "abc. " * 400)))
        await anext(sound)
        began = asyncio.get_running_loop().time()
        await sound.aclose()
        assert asyncio.get_running_loop().time() - began < 0.15
        assert (await say(model, "next")).seconds > 0.3


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"kind": "vits", "tokens": "tokens.txt"}, "settings.model is missing"),
        ({"kind": "vits", "model": "../model.onnx", "tokens": "tokens.txt"}, "is not in the artifact"),
        ({"kind": "vits", "model": "no.onnx", "tokens": "tokens.txt"}, "is not in the artifact"),
        ({"kind": "vits", "model": "model.onnx", "tokens": "tokens.txt", "x": 1}, "settings.x is not known"),
        ({"kind": "kokoro", "model": "model.onnx", "tokens": "tokens.txt"}, "settings.voices is missing"),
    ],
)  # fmt: skip
def test_a_neural_voice_that_lacks_a_file_says_which(tmp_path, settings, message):
    with (
        pytest.raises(FairleadError, match=message),
        loaded(tiny_vits(tmp_path, settings=settings)),
    ):
        pass
