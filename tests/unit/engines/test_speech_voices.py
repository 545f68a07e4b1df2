"""Voices in processes of their own: they are asked, stopped, held up, and started anew."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import AsyncGenerator

import numpy as np
import psutil
import pytest

from fairlead.api.inference import InferRequest, InferResponse
from fairlead.api.speech import AUDIO, Speech, SpeechRefused
from fairlead.domain.errors import FairleadError, Kind, SchemaMismatch
from fairlead.engines.speech.model import SpokenModel
from fairlead.engines.speech.tone import CRASH, pitch_of
from support.serving import eventually
from support.speech import Heard, hum_folder

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="unix sockets")
LONG = "a long text " * 300


@contextlib.contextmanager
def humming(directory, pace=0, limit=2, **more):
    model = SpokenModel(hum_folder(directory, pace, **more), "voice.json", 1, limit)
    try:
        yield model
    finally:
        model.close()


async def sound_of(model: SpokenModel, text: str, speaker: int = 0) -> Heard:
    request = InferRequest(document=Speech(speaker, text))
    pieces = [response.tensors[AUDIO] async for response in model.stream(request)]
    return Heard(np.concatenate(pieces) / 32768, model.sample_rate, "")


async def rest_of(sound: AsyncGenerator[InferResponse]) -> None:
    async for _ in sound:
        pass


def processes(model: SpokenModel) -> list[int]:
    return model.pids


async def test_each_sound_is_its_texts(tmp_path):
    with humming(tmp_path, limit=4) as model:
        texts = [f"text number {number}" for number in range(8)]
        heard = await asyncio.gather(*(sound_of(model, text) for text in texts))
        for text, sound in zip(texts, heard, strict=True):
            assert sound.hertz == pytest.approx(pitch_of(text), abs=2)
            assert sound.seconds == pytest.approx(0.06 * len(text), abs=0.02)
        assert len(processes(model)) == 4


async def test_the_first_piece_comes_before_the_rest_is_made(tmp_path):
    with humming(tmp_path, pace=2) as model:
        began = asyncio.get_running_loop().time()
        request = InferRequest(document=Speech(0, "a" * 20))  # 1.2 s of sound in 0.6
        times = [asyncio.get_running_loop().time() - began async for _ in model.stream(request)]
        assert times[0] < 0.2 * times[-1]
        assert times[-1] > 0.5


async def test_a_listener_who_leaves_ends_the_synthesis_within_100_ms(tmp_path):
    with humming(tmp_path, limit=1) as model:
        (pid,) = processes(model)
        sound = model.stream(InferRequest(document=Speech(0, LONG)))
        await anext(sound)
        began = asyncio.get_running_loop().time()
        await sound.aclose()
        assert asyncio.get_running_loop().time() - began < 0.1
        heard = await sound_of(model, "next")
        assert heard.hertz == pytest.approx(pitch_of("next"), abs=4)
        assert processes(model) == [pid]  # it obeyed, and nothing of the old text is heard


async def test_a_voice_that_does_not_obey_is_ended_and_replaced(tmp_path):
    with humming(tmp_path, limit=1) as model:
        (pid,) = processes(model)
        sound = model.stream(InferRequest(document=Speech(0, LONG)))
        await anext(sound)
        os.kill(pid, signal.SIGSTOP)
        began = asyncio.get_running_loop().time()
        await sound.aclose()
        assert asyncio.get_running_loop().time() - began < 0.15
        assert (await sound_of(model, "next")).seconds == pytest.approx(0.24, abs=0.02)
        assert processes(model) != [pid]
        assert not psutil.pid_exists(pid)


@pytest.mark.parametrize("how", ["killed", "crashed"])
async def test_a_death_is_the_error_of_one_synthesis(tmp_path, how):
    with humming(tmp_path, limit=1) as model:
        (pid,) = processes(model)
        request = InferRequest(document=Speech(0, f"a {CRASH} {LONG}"))
        sound = model.stream(request)
        await anext(sound)
        if how == "killed":
            os.kill(pid, signal.SIGKILL)
        with pytest.raises(FairleadError) as failed:
            [_ async for _ in sound]
        assert failed.value.kind is Kind.MODEL
        assert (await sound_of(model, "next")).hertz == pytest.approx(pitch_of("next"), abs=4)
        assert processes(model) != [pid]


async def test_one_that_dies_idle_is_replaced_before_anybody_notices(tmp_path):
    with humming(tmp_path, limit=1) as model:
        (pid,) = processes(model)
        os.kill(pid, signal.SIGKILL)
        await eventually(lambda: psutil.Process(pid).status() == psutil.STATUS_ZOMBIE)
        assert (await sound_of(model, "next")).seconds > 0
        assert processes(model) != [pid]


async def test_a_slow_listener_holds_up_the_voice_and_no_memory(tmp_path):
    with humming(tmp_path, limit=1) as model:
        child = psutil.Process(processes(model)[0])
        sound = model.stream(InferRequest(document=Speech(0, "b" * 9999)))  # ten minutes of sound
        await anext(sound)
        spent = [-1.0]

        def held() -> bool:
            spent.append(sum(child.cpu_times()[:2]))
            return len(spent) > 20 and spent[-1] == spent[-15]

        await eventually(held)
        assert spent[-1] < 2.0
        samples = 0
        async for response in sound:
            samples += response.tensors[AUDIO].size
            if samples > 24_000 * 20:
                break
        await sound.aclose()
        assert sum(child.cpu_times()[:2]) > 0


async def test_more_texts_than_processes_wait_for_their_turn(tmp_path):
    with humming(tmp_path, limit=1) as model:
        heard = await asyncio.gather(*(sound_of(model, f"t{number}") for number in range(5)))
        assert [round(one.seconds, 2) for one in heard] == [0.12] * 5
        assert len(processes(model)) == 1


async def test_one_who_leaves_while_waiting_takes_no_turn(tmp_path):
    with humming(tmp_path, limit=1) as model:
        first = model.stream(InferRequest(document=Speech(0, LONG)))
        await anext(first)
        async with asyncio.TaskGroup() as group:
            waiting = group.create_task(sound_of(model, "gone"))
            behind = group.create_task(sound_of(model, "stays"))
            await asyncio.sleep(0)
            waiting.cancel()
            await first.aclose()
            assert (await behind).seconds == pytest.approx(0.3, abs=0.02)


async def test_it_is_measured_as_it_is_said(tmp_path):
    with humming(tmp_path) as model:
        answer = await model.infer(
            InferRequest(document=model.parse_document(b'{"speaker_id": "0", "text": "hm"}'))
        )
        assert answer.document == {"seconds": 0.12, "loudness": -15.257}
        only = InferRequest(document=Speech(0, "hm", only_check=True))
        assert (await model.infer(only)).document == {"message": "OK"}


async def test_a_golden_example_that_is_no_request_is_refused(tmp_path):
    with humming(tmp_path) as model:
        for wrong in (b"{}", b'{"speaker_id": "x", "text": "a"}', b"["):
            with pytest.raises(SchemaMismatch):
                model.parse_document(wrong)
        assert model.dump_document({"seconds": 0.1}) == b'{"seconds":0.1}'


async def test_speakers_are_checked_before_and_after_the_text(tmp_path, caplog):
    with humming(tmp_path) as model:
        assert (
            "speaker 2 (Cleo) is in the table, but the model has no voice 'not there'"
            in caplog.text
        )
        for speaker, text, message in (
            (9, " ", "Speaker ID is invalid."),
            (1, " ", "Text cannot be empty."),
            (1, "fine", "Speaker is not available."),
            (2, "fine", "Speaker is not available."),
        ):
            with pytest.raises(SpeechRefused, match=message):
                model.prepare(Speech(speaker, text))


async def test_respellings_are_for_english_voices(tmp_path):
    with humming(tmp_path) as model:
        model.prepare(Speech(0, "::MY::"))
        with pytest.raises(SpeechRefused, match="Respellings are for English voices"):
            model.prepare(Speech(3, "::MY::"))


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"speakers": [{"name": "Ada", "voice": "none"}]}, "none of the voices"),
        ({"settings": {"pace": -1}}, "settings.pace is negative"),
        ({"synthesizer": "sherpa-onnx", "settings": {"kind": "bark"}}, "settings.kind is 'bark'"),
    ],
)
def test_a_voice_that_cannot_be_loaded_says_why(tmp_path, more, message):
    with pytest.raises(FairleadError, match=message) as failed, humming(tmp_path, **more):
        pass
    assert failed.value.kind is Kind.MODEL


async def test_closing_ends_every_process(tmp_path):
    with humming(tmp_path) as model:
        await asyncio.gather(*(sound_of(model, "a") for _ in range(2)))
        pids = processes(model)
        assert pids
    assert not any(psutil.pid_exists(pid) for pid in pids)


async def test_closing_refuses_whoever_speaks_and_all_who_wait_for_their_turn(tmp_path):
    with humming(tmp_path, limit=1) as model:
        (pid,) = processes(model)
        first = model.stream(InferRequest(document=Speech(0, LONG)))
        await anext(first)
        tasks = [asyncio.ensure_future(rest_of(first))]
        tasks += [asyncio.ensure_future(sound_of(model, f"t{number}")) for number in range(3)]
        await asyncio.sleep(0)
        model.close()
        async with asyncio.timeout(5):
            outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    for outcome in outcomes:
        assert isinstance(outcome, FairleadError)
        assert (outcome.kind, outcome.message) == (Kind.UNAVAILABLE, "the voice is being unloaded")
    assert not psutil.pid_exists(pid)


async def test_a_voice_that_is_closed_refuses_who_asks(tmp_path):
    with humming(tmp_path) as model:
        pass
    with pytest.raises(FairleadError, match="the voice is being unloaded") as refused:
        await sound_of(model, "late")
    assert refused.value.kind is Kind.UNAVAILABLE


async def test_a_voice_that_cannot_be_started_is_the_error_of_who_asks(tmp_path, monkeypatch):
    with humming(tmp_path, limit=1) as model:
        os.kill(processes(model)[0], signal.SIGKILL)
        with monkeypatch.context() as patched:
            patched.setattr(sys, "executable", str(tmp_path / "no python"))
            for _ in range(2):
                with pytest.raises(FairleadError) as failed:
                    await sound_of(model, "now")
                assert failed.value.kind is Kind.MODEL
        assert (await sound_of(model, "then")).seconds == pytest.approx(0.24, abs=0.02)
