"""Sound as it goes over the wire, decoded again by FFmpeg's libraries."""

from __future__ import annotations

import itertools
import sys

import numpy as np
import pytest
from hypothesis import given, strategies as st

from fairlead.api.speech import SpeechRefused
from fairlead.api.speech_codes import Code
from fairlead.dialects.speech import accept
from fairlead.dialects.speech.audio import FORMATS, MP3_KILOBITS, RATE, warm
from fairlead.domain.errors import Kind, Refused
from support.effort import effort
from support.speech import Heard, heard, heard_samples

CODECS = {"mp3": ("mp3float", "mp3"), "wav": ("pcm_s16le",), "opus": ("opus", "libopus")}


def sine(hertz: float, seconds: float, rate: int, loudness: int = 8000) -> np.ndarray:
    return (np.sin(2 * np.pi * hertz * np.arange(int(seconds * rate)) / rate) * loudness).astype(
        np.int16
    )


def encoded(name: str, samples: np.ndarray, rate: int, step: int = 1200) -> list[bytes]:
    encoder = FORMATS[name].encoder(rate)
    pieces = [encoder.encode(samples[at : at + step]) for at in range(0, len(samples), step)]
    return [*pieces, encoder.finish()]


def listened(name: str, data: bytes) -> Heard:
    return heard_samples(data) if name == "pcm" else heard(data)


@pytest.mark.parametrize(
    ("name", "rate"), list(itertools.product(FORMATS, (22_050, 24_000, 16_000)))
)
def test_every_form_decodes_to_the_same_sound(name, rate):
    found = listened(name, b"".join(encoded(name, sine(440, 2.0, rate), rate)))
    assert found.seconds == pytest.approx(2.0, abs=0.1)
    assert found.hertz == pytest.approx(440, abs=3)
    assert found.decibels == pytest.approx(-15.3, abs=0.7)
    assert name == "pcm" or found.codec in CODECS[name]


@pytest.mark.parametrize("name", FORMATS)
def test_bytes_come_while_the_sound_goes_on(name):
    pieces = encoded(name, sine(440, 3.0, RATE), RATE)
    half = sum(map(len, pieces[: len(pieces) // 2]))
    assert pieces[0] or pieces[1] or pieces[2]
    assert half > 0.4 * sum(map(len, pieces))


def test_a_form_whose_library_is_not_installed_says_so(monkeypatch):
    monkeypatch.setitem(sys.modules, "lameenc", None)
    with pytest.raises(Refused, match="mp3 ") as caught:
        FORMATS["mp3"].encoder(RATE)
    assert caught.value.kind is Kind.UNAVAILABLE


@pytest.mark.parametrize("name", FORMATS)
def test_no_sound_at_all_is_no_error(name):
    encoder = FORMATS[name].encoder(RATE)
    assert isinstance(encoder.encode(np.zeros(0, np.int16)) + encoder.finish(), bytes)


def test_mp3_has_the_highest_rate_of_bits_that_the_format_knows_at_24_khz():
    data = b"".join(encoded("mp3", sine(440, 10.0, RATE), RATE))
    assert len(data) * 8 / 10 == pytest.approx(MP3_KILOBITS * 1000, rel=0.02)
    assert heard(data).rate == RATE


@effort(20)
@given(sizes=st.lists(st.integers(0, 5000), min_size=1, max_size=12))
def test_how_sound_is_cut_into_pieces_does_not_change_it(sizes):
    samples = sine(300, sum(sizes) / RATE, RATE)
    encoder = FORMATS["pcm"].encoder(RATE)
    bounds = list(itertools.accumulate([0, *sizes]))
    cut = b"".join(encoder.encode(samples[a:b]) for a, b in itertools.pairwise(bounds))
    assert cut + encoder.finish() == samples.astype("<i2").tobytes()


@pytest.mark.parametrize(
    ("header", "name"),
    [
        ("", "mp3"),
        ("*/*", "mp3"),
        ("audio/*", "mp3"),
        ("audio/mpeg", "mp3"),
        ("audio/wav", "wav"),
        ("audio/x-wav;q=0.9, text/html", "wav"),
        ("audio/ogg; codecs=opus", "opus"),
        ("AUDIO/OGG", "opus"),
        ("audio/ogg;q=0.5, audio/wav;q=0.8", "wav"),
        ("audio/mpeg;q=0, */*", "opus"),
        ("text/html, application/xhtml+xml, */*;q=0.8", "mp3"),
        ("audio/*;q=0.2, audio/pcm", "pcm"),
    ],
)
def test_accept_chooses_the_form(header, name):
    assert accept.chosen(header).name == name


@pytest.mark.parametrize("header", ["text/html", "audio/flac", "*/*;q=0", "audio/mpeg;q=x"])
def test_nothing_that_is_accepted_is_refused_with_406(header):
    with pytest.raises(SpeechRefused) as refused:
        accept.chosen(header)
    assert (refused.value.code, refused.value.kind) == (Code.NOT_ACCEPTABLE, Kind.FORMAT)


@given(header=st.text(max_size=200))
def test_no_accept_header_is_an_accident(header):
    try:
        assert accept.chosen(header).name in FORMATS
    except SpeechRefused as refused:
        assert refused.kind is Kind.FORMAT


@pytest.mark.parametrize(("name", "library"), [("mp3", "lameenc"), ("opus", "av"), ("wav", "av")])
def test_a_form_whose_library_is_not_installed_says_which_extra_has_it(name, library, monkeypatch):
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(Refused, match=r"pip install 'fairlead\[speech\]'") as refused:
        FORMATS[name].encoder(RATE)
    assert refused.value.kind is Kind.UNAVAILABLE


def test_the_libraries_can_be_loaded_before_anybody_waits_for_them():
    warm()
    assert {"av", "lameenc"} <= set(sys.modules)
