"""Speech through the real gateway: sound while it is made, broken streams, nothing left behind."""

from __future__ import annotations

import contextlib
import gzip
import http.client
import json
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from fairlead.engines.speech.tone import CRASH, pitch_of
from support.running import ROOT, Fairlead, fairlead, until
from support.speech import STREAM, VALIDATE, heard, hum_folder

LEGACY_KEY = "a-key-from-before"
PACE = 4  # seconds of sound in a second
TEXT = "The harbour is calm this morning, and the ferry leaves at nine."


@pytest.fixture(scope="module")
def speaking(models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fairlead]:
    """The example's first revision, and a service that hums at a pace."""
    directory = tmp_path_factory.mktemp("speech")
    folder = hum_folder(directory / "models" / "hum" / "1", PACE)
    (folder / "model.yaml").write_text("name: hum\nversion: 1\nengine: speech\n")
    proof = {
        "request": {"speaker_id": 0, "text": "hm"},
        "response": {"seconds": 0.12, "loudness": -15.257},
    }
    (folder / "golden.json").write_text(json.dumps({"examples": [proof]}))
    paths = {"stream": ["/hum/stream"], "validate": ["/hum/input_validated"]}
    release = {
        "service": "hum",
        "model": "h1",
        "version": "1",
        "artifact": "hum/1",
        "provideApiKeyAuthForLegacyContainerSupport": "true",
        **{name: {"concurrency": 4, "paths": own} for name, own in paths.items()},
    }
    (directory / "hum.json").write_text(json.dumps(release))
    example = ROOT / "examples" / "speech" / "release-v1.1.yaml"
    arguments = (str(example), str(directory / "hum.json"), "--models", str(models))
    more = ("--models", str(directory / "models"))
    environment = {"OLD_SPEECH_API_KEY": LEGACY_KEY}
    with fairlead(directory, *arguments, *more, environment=environment) as running:
        yield running


@contextlib.contextmanager
def ask(
    running: Fairlead, path: str, text: str, **headers: str
) -> Iterator[http.client.HTTPResponse]:
    connection = http.client.HTTPConnection("127.0.0.1", running.port, timeout=20)
    body = json.dumps({"speaker_id": 0 if path.startswith("/hum") else "4", "text": text})
    try:
        connection.request("POST", path, body, {"X-Api-Key": running.key, **headers})
        answer = connection.getresponse()
        with answer:
            yield answer
    finally:
        connection.close()


def series(running: Fairlead, name: str, **labels: str) -> list[float]:
    """The values of a metric's series with these labels."""
    wanted = [f'{label}="{value}"' for label, value in labels.items()]
    lines = running.ask("/metrics").body.decode().splitlines()
    found = [
        line
        for line in lines
        if line.startswith(f"{name}{{") and all(one in line for one in wanted)
    ]
    return [float(line.rpartition(" ")[2]) for line in found]


def voices(running: Fairlead) -> list[psutil.Process]:
    assert running.process is not None
    below = psutil.Process(running.process.pid).children(recursive=True)
    return [one for one in below if "fairlead.engines.speech.process" in one.cmdline()]


def test_speaker_4_is_heard_with_the_demo_key_and_no_version(speaking: Fairlead) -> None:
    with ask(speaking, STREAM, TEXT) as answer:
        assert (answer.status, answer.headers["content-type"]) == (200, "audio/mpeg")
        assert answer.headers["x-served-version"] == "v1.1"
        assert answer.headers["x-text-length"] == str(len(TEXT))
        sound = heard(answer.read())
    assert sound.seconds == pytest.approx(3.2, abs=0.4)
    assert -26 < sound.decibels < -14
    with ask(speaking, VALIDATE, TEXT) as check:
        assert (check.status, json.loads(check.read())) == (200, {"message": "OK"})


def test_older_clients_may_send_a_key_in_the_body_beside_the_gateways(speaking: Fairlead) -> None:
    asked = {"speaker_id": 0, "text": "hm"}
    path = "/hum/input_validated"
    assert speaking.ask(path, asked).status == 200  # who calls is known: the gateway checked
    assert speaking.ask(path, {**asked, "api_key": LEGACY_KEY}).status == 200
    refused = speaking.ask(path, {**asked, "api_key": LEGACY_KEY.upper()})
    assert (refused.status, refused.json["code"]) == (401, "INVALID_API_KEY")
    assert refused.json["message"] == "API key is not valid."
    bold = speaking.ask(path, {**asked, "api_key": LEGACY_KEY}, key=None, **{"x-client": "demo"})
    assert (bold.status, bold.json["message"]) == (401, "No API key found in request")
    for file in (speaking.home / "node").rglob("*.json"):
        assert LEGACY_KEY not in file.read_text(), file


def test_a_compressed_text_passes_the_gateway(speaking: Fairlead) -> None:
    body = gzip.compress(json.dumps({"speaker_id": "4", "text": TEXT * 20}).encode())
    headers = {"X-Api-Key": speaking.key, "Content-Encoding": "gzip"}
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", speaking.port)) as connection:
        connection.request("POST", VALIDATE, body, headers)
        assert connection.getresponse().read() == b'{"message":"OK"}'
        headers["Content-Encoding"] = "br"
        connection.request("POST", VALIDATE, body, headers)
        answer = connection.getresponse()
        assert (answer.status, json.loads(answer.read())["code"]) == (415, "BAD_REQUEST")


def test_the_first_byte_of_a_thousand_characters_comes_at_once(speaking: Fairlead) -> None:
    text = (TEXT + " ") * 15
    firsts = []
    for _ in range(3):
        began = time.monotonic()
        with ask(speaking, STREAM, text) as answer:
            start = answer.read(1)
            firsts.append(time.monotonic() - began)
            sound = heard(start + answer.read())
        assert sound.seconds > 40
    assert min(firsts) < 0.5, firsts  # of a machine that may be busy; alone it takes 10 ms


def test_sound_passes_the_gateway_while_it_is_made(speaking: Fairlead) -> None:
    text = "a" * 80  # 4.8 s of sound, made in 1.2
    shares, parts = [], []
    for _ in range(3):
        began = time.monotonic()
        pieces, times = [], []
        with ask(speaking, "/hum/stream", text, Accept="audio/wav") as answer:
            while piece := answer.read1(65536):
                pieces.append(piece)
                times.append(time.monotonic() - began)
        sound = heard(b"".join(pieces))
        assert sound.seconds == pytest.approx(4.8, abs=0.05)
        assert sound.hertz == pytest.approx(pitch_of(text), abs=1)
        shares.append(times[0] / times[-1])
        parts.append(len(times))
        if shares[-1] < 0.25 and parts[-1] > 20:
            break  # a busy machine may delay one of them, and put its pieces together
    assert min(shares) < 0.25, shares
    assert max(parts) > 20, parts


def test_a_stream_that_fails_never_ends_cleanly(speaking: Fairlead) -> None:
    with ask(speaking, "/hum/stream", f"a {CRASH} " + "b" * 40) as answer:
        assert answer.status == 200
        with pytest.raises((http.client.IncompleteRead, ConnectionError)):
            answer.read()
    with ask(speaking, "/hum/stream", "fine") as again:
        assert heard(again.read()).hertz == pytest.approx(pitch_of("fine"), abs=5)
    for name in ("fairlead_streams_broken_total", "fairlead_errors_total"):
        until(
            lambda name=name: series(speaking, name, service="hum", kind="model") == [1.0],
            10,
            f"{name} counts the broken stream",
        )


def test_a_client_that_leaves_ends_the_work_behind_the_gateway(speaking: Fairlead) -> None:
    with ask(speaking, "/hum/stream", "c" * 2000) as answer:  # half a minute
        answer.read(100)
    labels = {"service": "hum", "endpoint": "stream"}
    until(
        lambda: series(speaking, "fairlead_requests_in_progress", **labels) == [0.0],
        5,
        "no stream is worked on",
    )


def test_a_killed_worker_breaks_its_streams_and_takes_its_voices_along(speaking: Fairlead) -> None:
    with ask(speaking, "/hum/stream", "d" * 2000) as answer:
        answer.read(100)
        pid = speaking.replicas()["hum/h1.1"]["pid"]
        worker = psutil.Process(pid)
        mine = [one for one in voices(speaking) if one.ppid() == pid]
        assert mine
        worker.kill()
        with pytest.raises((http.client.IncompleteRead, ConnectionError)):
            answer.read()
    until(lambda: not any(one.is_running() for one in mine), 5, "its voices have ended")

    def answered() -> bool:
        with ask(speaking, "/hum/stream", "back") as again:
            return again.status == 200 and heard(again.read()).seconds > 0.1

    until(answered, 30, "the next worker speaks")


def test_stopping_leaves_no_voice(speaking: Fairlead) -> None:
    before = voices(speaking)
    assert len(before) >= 2
    assert speaking.stop() == 0
    until(lambda: not any(one.is_running() for one in before), 5, "every voice has ended")
    speaking.start()
