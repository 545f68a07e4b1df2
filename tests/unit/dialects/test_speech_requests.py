"""The checks of S0-30 that need no voice, and OpenAI's words for the same."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, strategies as st

from fairlead.api.speech import Speech, SpeechRefused
from fairlead.api.speech_codes import Code
from fairlead.dialects.speech import openai, requests
from fairlead.domain.errors import FairleadError, Kind, Refused

VOICES = {"ada": 0, "alloy": 0, "edwin": 4}


def refusal(asked: Any) -> tuple[str, str]:
    body = asked if isinstance(asked, bytes) else json.dumps(asked).encode()
    with pytest.raises(SpeechRefused) as refused:
        requests.from_body(body)
    assert refused.value.kind is Kind.INVALID
    assert json.loads(requests.error_body(refused.value)) == {
        "message": refused.value.message,
        "code": refused.value.code,
    }
    return refused.value.code, refused.value.message


MISSING = ("MISSING_ARGUMENT", "Must call with keys `speaker_id` and `text`.")
TYPE = ("INVALID_SPEAKER_ID", "Speaker ID must be either an integer or string.")
DIGITS = ("INVALID_SPEAKER_ID", "Speaker ID string must only consist of the symbols 0 - 9.")
LENGTH = (
    "INVALID_TEXT_LENGTH_EXCEEDED",
    "Text must be a string under 10000 characters and more than 0 characters.",
)


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ({}, MISSING),
        ({"speaker_id": 4}, MISSING),
        ({"text": "a"}, MISSING),
        ({"speaker_id": None, "text": None}, TYPE),
        ({"speaker_id": 4.0, "text": ""}, TYPE),
        ({"speaker_id": True, "text": "a"}, TYPE),
        ({"speaker_id": [4], "text": "a"}, TYPE),
        ({"speaker_id": "", "text": "a"}, DIGITS),
        ({"speaker_id": "4 ", "text": ""}, DIGITS),
        ({"speaker_id": "-4", "text": "a"}, DIGITS),
        ({"speaker_id": "\u0664", "text": "a"}, DIGITS),
        ({"speaker_id": "4", "text": ""}, LENGTH),
        ({"speaker_id": "4", "text": 5}, LENGTH),
        ({"speaker_id": "4", "text": None}, LENGTH),
        ({"speaker_id": "4", "text": "a" * 10_000}, LENGTH),
        ([], ("BAD_REQUEST", requests.NO_OBJECT)),
        (b"", ("BAD_REQUEST", requests.NO_OBJECT)),
        (b"{'text'", ("BAD_REQUEST", requests.NO_OBJECT)),
        (b'{"text": "\xff"}', ("BAD_REQUEST", requests.NO_OBJECT)),
    ],
)
def test_each_check_has_its_code_and_words_in_its_order(asked, expected):
    assert refusal(asked) == expected


@pytest.mark.parametrize(
    ("speaker", "number"),
    [
        (4, 4),
        ("4", 4),
        ("004", 4),
        ("0", 0),
        ("7351920466", 7351920466),
        ("9" * 5000, -1),
        (-3, -3),
    ],
)
def test_a_speaker_is_its_number(speaker, number):
    body = {"speaker_id": speaker, "text": "a" * 9999, "consumerId": "Test"}
    assert requests.from_body(json.dumps(body).encode()) == Speech(number, "a" * 9999)


def test_a_get_says_the_same_in_its_query():
    found = requests.from_query(
        b"speaker_id=4&text=%C3%A9t%C3%A9+is%20open&speaker_id=5&consumerId=x"
    )
    assert found == Speech(4, "été is open")
    with pytest.raises(SpeechRefused) as refused:
        requests.from_query(b"speaker_id=4&text=")
    assert refused.value.code is Code.INVALID_TEXT_LENGTH_EXCEEDED
    with pytest.raises(SpeechRefused) as refused:
        requests.from_query(b"")
    assert refused.value.code is Code.MISSING_ARGUMENT


@given(
    body=st.binary(max_size=300)
    | st.text(max_size=100).map(lambda text: json.dumps({"speaker_id": "1", "text": text}).encode())
)
def test_whatever_is_sent_is_a_speech_or_a_refusal(body):
    try:
        assert isinstance(requests.from_body(body), Speech)
    except SpeechRefused as refused:
        json.loads(requests.error_body(refused))


@given(query=st.binary(max_size=200))
def test_whatever_stands_in_a_query_too(query):
    try:
        assert isinstance(requests.from_query(query), Speech)
    except SpeechRefused as refused:
        json.loads(requests.error_body(refused))


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (Refused(Kind.INTERNAL, "a secret"), "Unknown error."),
        (Refused(Kind.MODEL, "a secret"), "Unknown error."),
        (Refused(Kind.OVERLOADED, "pending request queue full"), "pending request queue full"),
    ],
)
def test_what_is_no_refusal_of_the_text_is_an_unknown_error(error, said):
    body = json.loads(requests.error_body(error))
    assert body == {"message": said, "code": "UNKNOWN_ERROR"}
    assert requests.STATUSES[Kind.INTERNAL] == 400


def asked(**more: Any) -> bytes:
    return json.dumps({"model": "speech", "input": "Hello", "voice": "Ada", **more}).encode()


def test_openai_names_speakers_by_name_alias_and_id():
    for voice, number in (("ADA", 0), ("alloy", 0), ("edwin", 4), ("4", 4), ({"id": "edwin"}, 4)):
        found = openai.from_body(asked(voice=voice), "speech", VOICES)
        assert (found.speech, found.form.name) == (Speech(number, "Hello"), "mp3")


@pytest.mark.parametrize("form", ["mp3", "opus", "wav", "pcm"])
def test_openai_chooses_the_form_in_the_body(form):
    found = openai.from_body(asked(response_format=form, speed=1.5), "speech", VOICES)
    assert (found.form.name, found.speech.speed) == (form, 1.5)


@pytest.mark.parametrize(
    ("more", "param", "code"),
    [
        ({"voice": None}, "voice", "missing_required_parameter"),
        ({"model": None}, "model", "missing_required_parameter"),
        ({"input": ""}, "input", "string_below_min_length"),
        ({"input": "a" * 4097}, "input", "string_above_max_length"),
        ({"input": 4}, "input", "invalid_type"),
        ({"voice": "nobody"}, "voice", "invalid_value"),
        ({"voice": []}, "voice", "invalid_value"),
        ({"voice": "\u0664"}, "voice", "invalid_value"),
        ({"response_format": "flac"}, "response_format", "invalid_value"),
        ({"response_format": []}, "response_format", "invalid_value"),
        ({"stream_format": "sse"}, "stream_format", "unsupported_value"),
        ({"speed": 5}, "speed", "decimal_out_of_range"),
        ({"speed": True}, "speed", "invalid_type"),
        ({"model": "tts-1"}, "model", "model_not_found"),
        ({"model": {}}, "model", "model_not_found"),
    ],
)
def test_openai_is_told_which_parameter_is_wrong(more, param, code):
    with pytest.raises(FairleadError) as refused:
        openai.from_body(asked(**more), "speech", VOICES)
    said = json.loads(openai.error_body(refused.value))["error"]
    assert (said["param"], said["code"], said["type"]) == (param, code, "invalid_request_error")
    assert set(said) == {"message", "type", "param", "code"}


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (Refused(Kind.OVERLOADED, "full"), "rate_limit_exceeded"),
        (Refused(Kind.MODEL, "gone"), "server_error"),
        (Refused(Kind.DEADLINE, "late"), "server_error"),
        (Refused(Kind.FORBIDDEN, "no"), "authentication_error"),
    ],
)
def test_openai_is_told_what_kind_of_error_it_is(error, kind):
    assert json.loads(openai.error_body(error))["error"]["type"] == kind


@pytest.mark.parametrize("body", [b"[]", b"7", b"{", b"\xff"])
def test_openai_is_told_that_the_body_is_no_object(body):
    with pytest.raises(FairleadError) as refused:
        openai.from_body(body, "speech", VOICES)
    said = json.loads(openai.error_body(refused.value))["error"]
    assert (said["param"], said["type"]) == (None, "invalid_request_error")


def test_openai_reads_the_engines_refusals():
    refused = SpeechRefused(Code.INVALID_TEXT, "Text cannot be empty.")
    said = json.loads(openai.error_body(refused))["error"]
    assert (said["param"], said["code"]) == ("input", "invalid_text")
    assert openai.from_body(asked(stream_format="audio"), "speech", VOICES).speech.text == "Hello"


@given(
    body=st.binary(max_size=200)
    | st.dictionaries(
        st.sampled_from(["model", "input", "voice", "speed", "response_format"]),
        st.none()
        | st.booleans()
        | st.floats(allow_nan=False, allow_infinity=False)
        | st.text(max_size=20)
        | st.just("speech")
        | st.lists(st.integers(), max_size=2),
    ).map(lambda one: json.dumps(one).encode())
)
def test_whatever_openais_clients_send_is_a_speech_or_a_refusal(body):
    try:
        openai.from_body(body, "speech", VOICES)
    except FairleadError as refused:
        json.loads(openai.error_body(refused))
