"""From what is written to what is said: normalising, respelling, markup, characters, and espeak-ng's own markup."""

from __future__ import annotations

from xml.etree import ElementTree as ET

import pytest
from hypothesis import given, strategies as st

from fairlead.api.speech import SpeechRefused
from fairlead.api.speech_codes import Code
from fairlead.engines.speech.espeak import ssml_of
from fairlead.engines.speech.respelling import is_respelling, phonemes_of
from fairlead.engines.speech.segments import Segment
from fairlead.engines.speech.text import normalised, understood

RESPELLING = "Please format your respelling correctly (see the respelling guide)"


def refusal(text: str, characters: str = "") -> tuple[str, str]:
    with pytest.raises(SpeechRefused) as refused:
        understood(text, characters)
    return refused.value.code, refused.value.message


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("  a \n\t b\u00a0c ", "a b c"),
        ("\u201cquoted\u201d \u2018it\u2019s\u2019", "\"quoted\" 'it's'"),
        ("1990\u20131995", "1990-1995"),
        ("yes\u2014no", "yes - no"),
        ("wait\u2026", "wait..."),
        ("\uff21\uff22\ufb01", "ABfi"),
        ("cafe\u0301", "café"),
        ("soft\u00adware\u200b", "software"),
        ("\u00bd", "1/2"),
        ("a < b & c", "a < b & c"),
        ("€5, 20 °C", "€5, 20 °C"),
    ],
)
def test_text_is_normalised(text, said):
    assert understood(text) == (Segment(said),)


@pytest.mark.parametrize("text", [" ", "\n\t", "\u200b", "\u00a0", "<speak> </speak>"])
def test_nothing_to_say_is_refused(text):
    assert refusal(text) == ("INVALID_TEXT", "Text cannot be empty.")


def test_respellings_are_cut_out():
    assert understood("Say ::suh-SPEL-ing::, please.") == (
        Segment("Say "),
        Segment("", "suh-SPEL-ing"),
        Segment(", please."),
    )
    assert understood("::FAIR-leed::") == (Segment("", "FAIR-leed"),)


@pytest.mark.parametrize(
    "text",
    [
        "a :: b",
        "::",
        "::::",
        "::a b::",
        "::a-::",
        "::-a::",
        "::a--b::",
        "::Spel-ing::",
        "::sp3l::",
        "::a:: ::",
        "::é::",
    ],
)
def test_a_respelling_that_is_not_well_formed_is_refused(text):
    assert refusal(text) == ("INVALID_TEXT", RESPELLING)


def test_a_colon_is_only_a_colon():
    assert understood("at 10:30: now") == (Segment("at 10:30: now"),)


@pytest.mark.parametrize(
    ("text", "listed"),
    [
        ("ok \u4f60 \u4f60 \u597d", "\u4f60, \u597d"),
        ("b\x07\x00a", "\\x00, \\x07"),
        ("\ud800", "\\ud800"),
        ("\U0001f600!", "\U0001f600"),
        ("\u202eabc", "\\u202e"),
        ("::a-B:: \u03b1", "\u03b1"),
    ],
)
def test_characters_that_no_voice_knows_are_listed_once_and_in_order(text, listed):
    message = f"Text cannot contain these characters: {listed}"
    assert refusal(text) == ("INVALID_TEXT", message)


def test_a_voice_may_know_more_characters():
    assert understood("\u03b1\u03b2", "\u03b1\u03b2") == (Segment("\u03b1\u03b2"),)


def test_the_order_is_empty_then_respelling_then_characters():
    assert refusal("::a b:: \u4f60")[1] == RESPELLING
    assert refusal("<tempo value='2'> </tempo>") == ("INVALID_TEXT", "Text cannot be empty.")


def test_markup_says_how():
    text = 'One <loudness value="-6">two <tempo value="0.5">three</tempo></loudness> <respell value="FOR">4</respell>'
    assert understood(text) == (
        Segment("One "),
        Segment("two ", loudness=-6.0),
        Segment("three", loudness=-6.0, tempo=0.5),
        Segment(" "),
        Segment("", "FOR"),
    )


def test_markup_is_nested_by_adding_and_multiplying_within_bounds():
    quiet = "<loudness value='-30'><loudness value='-30'>a</loudness></loudness>"
    assert understood(quiet) == (Segment("a", loudness=-40.0),)
    slow = "<tempo value='0.5'><tempo value='0.4'>a</tempo></tempo>"
    assert understood(slow) == (Segment("a", tempo=0.25),)
    assert understood("<speak>a &lt; b &amp; c</speak>") == (Segment("a < b & c"),)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("<tempo value='2'>a", "not well-formed"),
        ("a</tempo>", "not well-formed"),
        ("<tempo>a</tempo>", "one attribute"),
        ("<tempo value='2' more='1'>a</tempo>", "one attribute"),
        ("<tempo value='fast'>a</tempo>", "a number from 0.25 to 4"),
        ("<tempo value='5'>a</tempo>", "a number from 0.25 to 4"),
        ("<loudness value='7'>a</loudness>", "a number from -40 to 6"),
        ("<loudness value='nan'>a</loudness>", "a number from -40 to 6"),
        ("<speak><b>a</b></speak>", "<b> is no tag of ours"),
        ("<respell value='a'><tempo value='2'>a</tempo></respell>", "inside <respell>"),
        ("<speak>a</speak><tempo value='1'/>", "not well-formed"),
        ("<tempo value='1'>" * 17 + "a" + "</tempo>" * 17, "nested"),
        ("<tempo value='1'>a &lol; b</tempo>", "not well-formed"),
        ("<tempo value='1'>\ud800</tempo>", "half of a character"),
        ("<tempo value='1'><!DOCTYPE a [<!ENTITY b 'c'>]></tempo>", "not well-formed"),
        ("<speak/><!DOCTYPE a>", "not well-formed"),
        ("<!DOCTYPE a [<!ENTITY b 'c'>]><speak>&b;</speak><tempo value='1'/>", "not well-formed"),
    ],
)
def test_markup_that_is_wrong_is_refused(text, why):
    code, message = refusal(text)
    assert code == "INVALID_XML"
    assert why in message


def test_a_respelling_in_markup_is_held_to_the_same_rules():
    assert refusal("<respell value='a b'>x</respell>")[1] == RESPELLING
    assert refusal("<respell value=''>x</respell>")[1] == RESPELLING


@given(text=st.text(max_size=200) | st.text(alphabet="<>/=\"' :tempovalurs-&;1", max_size=80))
def test_whatever_is_written_is_understood_or_refused(text):
    try:
        segments = understood(text)
    except SpeechRefused as refused:
        assert refused.code in (Code.INVALID_TEXT, Code.INVALID_XML)
    else:
        assert any(one.text.strip() or one.respelling for one in segments)


@given(text=st.text(max_size=200))
def test_normalising_twice_is_normalising_once(text):
    assert normalised(normalised(text)) == normalised(text)


@pytest.mark.parametrize(
    ("respelling", "phonemes"),
    [
        ("suh-SPEL-ing", "s@sp'ElIN"),
        ("FAIR-leed", "f'e@li:d"),
        ("ih-NUHF", "In'Vf"),
        ("THUH-roh", "T'VroU"),
        ("dhoh", "D'oU"),
        ("YES", "j'Es"),
        ("my", "m'aI"),
        ("JUHJ", "dZ'VdZ"),
        ("MEH-zhur", "m'EZ3:"),
        ("wotch", "w'0tS"),
        ("BUHT-tur", "b'Vtt3:"),
        ("app-ull", "apVl"),
    ],
)
def test_a_respelling_becomes_phonemes(respelling, phonemes):
    assert is_respelling(respelling)
    assert phonemes_of(respelling) == phonemes


@given(respelling=st.from_regex(r"[a-z]{1,12}(-[A-Z]{1,8}){0,3}", fullmatch=True))
def test_every_well_formed_respelling_has_phonemes(respelling):
    assert is_respelling(respelling)
    found = phonemes_of(respelling)
    assert found
    assert "]]" not in found


def order(*segments: Segment) -> list[dict[str, object]]:
    return [
        {
            "text": one.text,
            "respelling": one.respelling,
            "loudness": one.loudness,
            "tempo": one.tempo,
        }
        for one in segments
    ]


def test_espeak_is_told_in_its_own_markup():
    segments = (Segment("a & b "), Segment("", "MY"), Segment(" c", loudness=-6.0, tempo=1.5))
    assert ssml_of(order(*segments)) == (
        "a &amp; b [[m'aI]]<prosody rate='150%' volume='50'> c</prosody>"
    )


@given(
    text=st.text(
        alphabet=st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"]), max_size=60
    ),
    loud=st.floats(-40, 6),
    tempo=st.floats(0.25, 4),
)
def test_no_text_breaks_the_markup_or_brings_phonemes_of_its_own(text, loud, tempo):
    told = ssml_of(order(Segment(text, loudness=loud, tempo=tempo)))
    assert "".join(ET.fromstring(f"<s>{told}</s>").itertext()) == text.replace("[", " [ ")
    assert "[[" not in told
