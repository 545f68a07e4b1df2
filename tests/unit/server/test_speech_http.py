"""The speech API on a worker's own server: every check in its order, headers, forms, and OpenAI's words."""

from __future__ import annotations

import gzip
import json
import zlib
from typing import Any

import pytest
import pytest_asyncio

from fairlead.api.worker import ServingSettings
from fairlead.domain.ids import RevisionId
from fairlead.engines.speech.tone import pitch_of
from support.serving import in_process
from support.speech import OPENAI, STREAM, VALIDATE, heard, heard_samples, hum_artifact, speech_spec

WAV = {"accept": "audio/wav"}
TEXT = "The harbour is calm this morning."


# A server remembers nothing of a request but what it counts; a voice is a process, and takes a while to start.
pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def server(tmp_path_factory):
    made = hum_artifact(tmp_path_factory.mktemp("server") / "voice")
    async with in_process(speech_spec(made)) as running:
        yield running


@pytest.mark.parametrize("path", [STREAM, VALIDATE])
@pytest.mark.parametrize(
    ("body", "code", "message"),
    [
        ({"text": "a"}, "MISSING_ARGUMENT", "Must call with keys `speaker_id` and `text`."),
        ({"speaker_id": 1.5, "text": ""}, "INVALID_SPEAKER_ID", "Speaker ID must be either an integer or string."),
        ({"speaker_id": "a", "text": ""}, "INVALID_SPEAKER_ID", "Speaker ID string must only consist of the symbols 0 - 9."),
        ({"speaker_id": 99, "text": ""}, "INVALID_TEXT_LENGTH_EXCEEDED", "Text must be a string under 10000 characters and more than 0 characters."),
        ({"speaker_id": 99, "text": " "}, "INVALID_SPEAKER_ID", "Speaker ID is invalid."),
        ({"speaker_id": 1, "text": " "}, "INVALID_TEXT", "Text cannot be empty."),
        ({"speaker_id": 1, "text": "::a b:: \u4f60"}, "INVALID_TEXT", "Please format your respelling correctly (see the respelling guide)"),
        ({"speaker_id": 1, "text": "\u4f60\x07"}, "INVALID_TEXT", "Text cannot contain these characters: \\x07, \u4f60"),
        ({"speaker_id": 1, "text": "fine"}, "INVALID_SPEAKER_ID", "Speaker is not available."),
        ({"speaker_id": 0, "text": "<tempo>"}, "INVALID_XML", 'Text markup cannot be read: <tempo> has one attribute, value="...".'),
    ],
)  # fmt: skip
async def test_every_check_has_its_place(server, path, body, code, message):
    answer = await server.client.post(path, json=body)
    assert answer.status_code == 400
    assert answer.json() == {"message": message, "code": code}
    assert answer.headers["x-error-code"] == "invalid"


async def test_a_text_that_can_be_said_is_ok(server):
    for answer in (
        await server.client.post(
            VALIDATE, json={"speaker_id": "0", "text": TEXT, "consumerId": "x"}
        ),
        await server.client.get(VALIDATE, params={"speaker_id": "0", "text": TEXT}),
    ):
        assert (answer.status_code, answer.json()) == (200, {"message": "OK"})
        assert answer.headers["x-served-version"] == "v1.1"


async def test_sound_comes_with_its_headers(server):
    answer = await server.client.post(STREAM, json={"speaker_id": 0, "text": TEXT})
    assert answer.status_code == 200
    expected = {
        "content-type": "audio/mpeg",
        "cache-control": "no-cache, no-store, must-revalidate",
        "pragma": "no-cache",
        "expires": "0",
        "x-text-length": str(len(TEXT)),
        "x-served-version": "v1.1",
    }
    assert {name: answer.headers[name] for name in expected} == expected
    assert answer.headers["x-artifact-digest"].startswith("sha256:")
    assert "content-length" not in answer.headers
    sound = heard(answer.content)
    assert sound.seconds == pytest.approx(0.06 * len(TEXT), abs=0.15)
    assert sound.hertz == pytest.approx(pitch_of(TEXT), abs=3)
    assert sound.rate == 24_000


@pytest.mark.parametrize(
    ("accept", "content_type"),
    [
        ("audio/wav", "audio/wav"),
        ("audio/ogg", "audio/ogg; codecs=opus"),
        ("audio/pcm", "audio/pcm; rate=24000"),
    ],
)
async def test_accept_chooses_another_form(server, accept, content_type):
    asked = {"speaker_id": "0", "text": TEXT}
    answer = await server.client.get(STREAM, params=asked, headers={"accept": accept})
    assert answer.headers["content-type"] == content_type
    sound = heard_samples(answer.content) if "pcm" in accept else heard(answer.content)
    assert sound.hertz == pytest.approx(pitch_of(TEXT), abs=3)


async def test_a_form_that_is_not_there_is_406(server):
    asked: dict[str, Any] = {"speaker_id": 0, "text": TEXT}
    answer = await server.client.post(STREAM, json=asked, headers={"accept": "audio/flac"})
    assert (answer.status_code, answer.json()["code"]) == (406, "NOT_ACCEPTABLE")
    assert answer.headers["x-error-code"] == "format"
    wrong = await server.client.post(
        STREAM, json={**asked, "speaker_id": 99}, headers={"accept": "audio/flac"}
    )
    assert wrong.json()["code"] == "INVALID_SPEAKER_ID"


async def test_other_methods_are_refused(server):
    for method in ("PUT", "DELETE", "HEAD"):
        answer = await server.client.request(method, STREAM)
        assert (answer.status_code, answer.headers["allow"]) == (405, "GET, POST")
    assert (await server.client.get(OPENAI)).headers["allow"] == "POST"


async def test_healthy_says_ok(server):
    answer = await server.client.get("/healthy")
    assert (answer.status_code, answer.text) == (200, "ok")


async def test_openais_clients_are_answered_on_the_same_voice(server):
    body = {
        "model": "speech",
        "voice": "alloy",
        "input": TEXT,
        "speed": 2,
        "response_format": "wav",
    }
    answer = await server.client.post(OPENAI, json=body)
    assert answer.headers["content-type"] == "audio/wav"
    sound = heard(answer.content)
    assert sound.seconds == pytest.approx(0.03 * len(TEXT), abs=0.05)
    assert sound.hertz == pytest.approx(pitch_of(TEXT), abs=3)
    for wrong, status, code in (
        ({**body, "model": "tts-1"}, 404, "model_not_found"),
        ({**body, "voice": "ben"}, 400, "invalid_value"),
        ({**body, "voice": "1"}, 400, "invalid_speaker_id"),
        ({**body, "input": "\u4f60"}, 400, "invalid_text"),
    ):
        answer = await server.client.post(OPENAI, json=wrong)
        assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)


async def test_it_is_counted_and_measured_like_any_answer(tmp_path):
    async with in_process(speech_spec(hum_artifact(tmp_path / "voice"))) as fresh:
        await fresh.client.post(STREAM, json={"speaker_id": 0, "text": TEXT})
        await fresh.client.post(STREAM, json={"speaker_id": 1, "text": TEXT})
        await fresh.client.get(VALIDATE, params={"speaker_id": "0", "text": TEXT})
        text = (await fresh.client.get("/metrics")).text
    labels = ['service="speech"', 'line="v1"', 'revision="1"', 'endpoint="stream"']
    lines = [line for line in text.splitlines() if all(one in line for one in labels)]
    assert any(
        line.startswith("fairlead_requests_total") and line.endswith(" 2.0") for line in lines
    )
    assert any('kind="invalid"' in line and line.endswith(" 1.0") for line in lines)
    for family, value in (
        ("fairlead_stream_first_byte_seconds_count", 1),
        ("fairlead_speech_characters_total", len(TEXT)),
        ("fairlead_speech_sound_seconds_total", 0.06 * len(TEXT)),
    ):
        (line,) = [line for line in lines if line.startswith(family)]
        assert float(line.rpartition(" ")[2]) == pytest.approx(value, abs=0.02)
    assert any(
        line.startswith("fairlead_requests_in_progress") and line.endswith(" 0.0") for line in lines
    )


async def test_its_proof_is_asked_through_its_first_endpoint(server):
    answer = await server.client.post("/internal/predict", json={"speaker_id": 0, "text": "hm"})
    assert answer.json() == {"seconds": 0.12, "loudness": -15.257}
    assert (await server.client.post("/v1/model/speech/predict", json={})).status_code == 404
    json.dumps((await server.client.get("/openapi.json")).json())


async def test_a_stand_alone_server_judges_the_version(tmp_path):
    spec = speech_spec(hum_artifact(tmp_path / "voice"))
    async with in_process(spec, versioned=True) as running:
        asked = {"speaker_id": 0, "text": "hm"}
        for version, status in (("v1", 200), ("v1.1", 200), ("v2", 404)):
            answer = await running.client.post(
                STREAM, json=asked, headers={"accept-version": version}
            )
            assert answer.status_code == status


async def test_a_server_without_releases_has_the_usual_paths(tmp_path):
    spec = hum_artifact(tmp_path / "voice").spec(RevisionId("speech", "v1", "1"))
    async with in_process(spec, versioned=True) as running:
        asked = {"speaker_id": 0, "text": "hm"}
        assert (await running.client.post(VALIDATE, json=asked)).json() == {"message": "OK"}
        answer = await running.client.post(STREAM, json=asked, headers=WAV)
        assert heard(answer.content).seconds == pytest.approx(0.12, abs=0.01)
        predicted = await running.client.post("/v1/model/speech/predict", json=asked)
        assert predicted.json()["seconds"] == 0.12


@pytest.mark.parametrize("path", [STREAM, VALIDATE])
async def test_long_texts_are_checked_beside_the_event_loop(server, path):
    asked = {"speaker_id": "0", "text": "a, \u00e9. " * 500}
    assert (await server.client.post(VALIDATE, json=asked)).status_code == 200
    wrong = await server.client.get(path, params={**asked, "text": asked["text"] + "\u4f60"})
    assert wrong.json()["message"] == "Text cannot contain these characters: \u4f60"


KEYS = ("a-key-of-old", "another-key-of-old")
ASKED = {"speaker_id": 0, "text": TEXT}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def legacy(tmp_path_factory):
    made = hum_artifact(tmp_path_factory.mktemp("legacy") / "voice")
    spec = speech_spec(made, legacy_key=True, legacy_keys=KEYS)
    async with in_process(spec) as running:
        yield running


@pytest.mark.parametrize("path", [STREAM, VALIDATE])
@pytest.mark.parametrize(
    ("sent", "code", "message"),
    [
        ({}, "MISSING_ARGUMENT", "API key was not provided."),
        ({"api_key": None}, "INVALID_API_KEY", "API key must be a string between 12 and 18 characters."),
        ({"api_key": 123456789012}, "INVALID_API_KEY", "API key must be a string between 12 and 18 characters."),
        ({"api_key": "a" * 11}, "INVALID_API_KEY", "API key must be a string between 12 and 18 characters."),
        ({"api_key": "a" * 19}, "INVALID_API_KEY", "API key must be a string between 12 and 18 characters."),
        ({"api_key": "a-key-of-OLD"}, "INVALID_API_KEY", "API key is not valid."),
        ({"api_key": "\u00e9" * 12}, "INVALID_API_KEY", "API key is not valid."),
    ],
)  # fmt: skip
async def test_a_legacy_service_asks_for_its_key_before_anything_else(
    legacy, path, sent, code, message
):
    # S0-31. The text is missing too: the key comes first.
    answer = await legacy.client.post(path, json={"speaker_id": 0, **sent})
    assert (answer.status_code, answer.json()) == (401, {"message": message, "code": code})
    assert answer.headers["x-error-code"] == "unauthenticated"


@pytest.mark.parametrize("key", KEYS)
async def test_a_legacy_key_opens_in_the_body_and_in_the_query(legacy, key):
    for answer in (
        await legacy.client.post(VALIDATE, json={**ASKED, "api_key": key}),
        await legacy.client.get(VALIDATE, params={**ASKED, "api_key": key}),
    ):
        assert (answer.status_code, answer.json()) == (200, {"message": "OK"})
    assert (await legacy.client.get(VALIDATE, params=ASKED)).status_code == 401


async def test_only_a_worker_behind_a_gateway_believes_who_calls(legacy, tmp_path):
    called = {"x-client": "app"}
    assert (await legacy.client.post(VALIDATE, json=ASKED, headers=called)).status_code == 401
    socket = tmp_path / "w.sock"
    made = hum_artifact(tmp_path / "again")
    spec = speech_spec(made, legacy_key=True, legacy_keys=KEYS, socket=socket)
    async with in_process(spec) as behind:
        for more, status in (({}, 200), ({"api_key": KEYS[0]}, 200), ({"api_key": "x" * 12}, 401)):
            answer = await behind.client.post(VALIDATE, json={**ASKED, **more}, headers=called)
            assert answer.status_code == status
        assert (await behind.client.post(VALIDATE, json=ASKED)).status_code == 401


async def test_openais_clients_send_the_legacy_key_as_theirs(legacy):
    body = {"model": "speech", "input": TEXT, "voice": "0", "response_format": "wav"}
    opens = {"authorization": f"Bearer {KEYS[1]}"}
    assert (await legacy.client.post(OPENAI, json=body, headers=opens)).status_code == 200
    for headers in ({}, {"authorization": "Bearer " + "x" * 12}, {"authorization": KEYS[1]}):
        answer = await legacy.client.post(OPENAI, json=body, headers=headers)
        assert answer.status_code == 401
        error = answer.json()["error"]
        assert (error["type"], error["code"]) == ("authentication_error", "invalid_api_key")


async def test_without_any_legacy_key_none_is_valid(tmp_path):
    spec = speech_spec(hum_artifact(tmp_path / "voice"), legacy_key=True)
    async with in_process(spec) as server:
        answer = await server.client.post(VALIDATE, json={**ASKED, "api_key": ""})
        assert (answer.status_code, answer.json()["message"]) == (401, "API key is not valid.")


async def test_other_services_do_not_care_about_an_api_key(server):
    answer = await server.client.post(VALIDATE, json={**ASKED, "api_key": "whatever"})
    assert answer.status_code == 200


@pytest.mark.parametrize(
    ("name", "pack"), [("gzip", gzip.compress), ("deflate", zlib.compress), ("identity", bytes)]
)
async def test_a_compressed_request_is_said_like_any_other(server, name, pack):
    sent = pack(json.dumps(ASKED).encode())
    answer = await server.client.post(STREAM, content=sent, headers={"content-encoding": name})
    assert answer.status_code == 200
    assert heard(answer.content).hertz == pytest.approx(pitch_of(TEXT), abs=3)
    assert server.app.bodies.held == 0


@pytest.mark.parametrize(
    ("name", "body", "status", "kind"),
    [
        ("br", b"{}", 415, "encoding"),
        ("gzip, gzip", b"{}", 415, "encoding"),
        ("gzip", b"{}", 400, "invalid"),
        ("gzip", gzip.compress(b" " * (1 << 21)), 413, "too_large"),
    ],
)
async def test_what_cannot_be_unpacked_is_refused_in_the_dialects_words(
    tmp_path, name, body, status, kind
):
    settings = ServingSettings(body_limit_bytes=1 << 20, bodies_limit_bytes=1 << 23)
    spec = speech_spec(hum_artifact(tmp_path / "voice"), settings=settings)
    async with in_process(spec) as server:
        headers = {"content-encoding": name}
        answer = await server.client.post(STREAM, content=body, headers=headers)
        assert (answer.status_code, answer.headers["x-error-code"]) == (status, kind)
        assert answer.json()["code"] == "BAD_REQUEST"
        answer = await server.client.post(OPENAI, content=body, headers=headers)
        assert answer.status_code == status
        assert answer.json()["error"]["type"] == "invalid_request_error"
        assert server.app.bodies.held == 0
