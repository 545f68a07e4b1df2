"""The ears of the benchmark of speech: a sound is its own text's and whole, or it says what is wrong."""

from __future__ import annotations

from typing import Any

from bench import speech
from bench.bars import Bounded, verdicts
from bench.figures import Fact, Results
from bench.speaking import Stream, texts, wrong
from bench.subject import Failed
from bench.suites import SPEECH

from fairlead.engines.speech.tone import Tone, pitch_of


class Kept:
    """What a voice says."""

    def __init__(self) -> None:
        self.sound = b""

    def __call__(self, samples: bytes) -> bool:
        self.sound += samples
        return True

    def wait(self, seconds: float) -> bool:
        raise AssertionError(f"it has no pace, and waits {seconds} s")


def said(text: str) -> bytes:
    order: dict[str, Any] = {"segments": [{"text": text}], "speed": 1.0}
    kept = Kept()
    Tone({}).say(order, kept)
    return kept.sound


def test_each_text_is_known_by_its_sound() -> None:
    found = texts(12, 30)
    assert len({pitch_of(one) for one in found}) == len({len(one) for one in found}) == 12
    assert [wrong(one, said(one)) for one in found] == [""] * 12


def test_what_is_another_text_s_or_not_whole_is_wrong() -> None:
    one, other = texts(2, 40)
    longer = one + "a"
    assert "samples instead of" in wrong(one, said(longer))
    assert "samples instead of" in wrong(one, said(one)[:-960])
    assert wrong(one, said(other[: len(one)])).endswith(f"Hz instead of {pitch_of(one)}")
    assert "samples instead of" in wrong(one, b"")


def test_gaps_are_between_pieces() -> None:
    assert Stream(b"", (1.0, 1.5, 4.0), "v1.1").gaps == [0.5, 2.5]
    assert speech.p99([float(one) for one in range(100)]) == 99.0
    assert speech.p99([3.0, 1.0]) == 3.0


def test_what_fails_is_not_measured_and_the_others_are_judged() -> None:
    found = Results({})
    notes = speech.Notes(found, lambda _: None, quick=True)

    def fails() -> None:
        raise Failed("status 503: no")

    notes.try_((speech.ZERO, speech.BURST), fails)
    for bar in SPEECH.bars:
        assert isinstance(bar, Bounded)
        if bar.subject not in (speech.ZERO, speech.BURST):
            found.facts.append(Fact("speech", bar.subject, bar.what, bar.limit))
    states = [one.state for one in verdicts(found, SPEECH.bars)]
    assert states.count("not measured") == 3
    assert states.count("reached") == len(SPEECH.bars) - 3
    found.facts.append(Fact("speech", speech.RELEASES, "cut or mixed", 3.0))
    assert verdicts(found, SPEECH.bars)[-1].state == "MISSED"
