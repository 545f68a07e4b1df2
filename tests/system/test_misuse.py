"""Bad input through the gateway: the dialect's own clear 4xx, and the same worker answers the next request."""

from __future__ import annotations

import http.client
import json
import ssl
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from support.running import FAIRLEAD, ROOT, Fairlead, fairlead

INFER = "/v2/models/digits/infer"
PREDICT = "/v1/model/digits/predict"
PIXELS = {"name": "pixels", "shape": [1, 64], "datatype": "FP32", "data": [0.0] * 64}


@pytest.fixture(scope="module")
def digits(published: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fairlead]:
    release = ROOT / "examples" / "digits" / "release.yaml"
    with fairlead(tmp_path_factory.mktemp("misuse"), str(release), like=published) as running:
        yield running


def inputs(**changes: Any) -> bytes:
    return json.dumps({"inputs": [{**PIXELS, **changes}]}).encode()


@pytest.mark.parametrize(
    ("body", "told"),
    [
        (b"", "JSON"),
        (b"{", "JSON"),
        (b"nonsense", "JSON"),
        (b"[]", "object"),
        (b"{}", "inputs"),
        (b'{"inputs": []}', "pixels"),
        (inputs(datatype="FP64"), "FP32"),
        (inputs(datatype="FLOAT"), "FP32"),
        (inputs(shape=[1, 63]), "63"),
        (inputs(shape=[64]), "shape"),
        (inputs(shape=[-1, 64]), "-1"),
        (inputs(shape=[1 << 40, 1 << 40]), "shape"),
        (inputs(shape=[1, 64.5]), "shape[1]"),
        (inputs(data=[0.0] * 63), "63"),
        (inputs(data=["a"] * 64), "data"),
        (inputs(data=[None] * 64), "data"),
        (inputs(name="pixel"), "pixel"),
        (json.dumps({"inputs": [PIXELS, PIXELS]}).encode(), "pixels"),
        (json.dumps({"inputs": [PIXELS], "outputs": [{"name": "nothing"}]}).encode(), "nothing"),
        (b'{"inputs": ' + b"[" * 100_000, "object"),
        (b'{"inputs": [{"data": ' + b"[" * 100_000 + b"]" * 100_000 + b"}]}", ""),
    ],
    ids=lambda value: str(value)[:40] if isinstance(value, str) else None,
)
def test_a_wrong_inference_request_is_told(digits: Fairlead, body: bytes, told: str) -> None:
    before = digits.replicas()["digits/v1.1"]["pid"]
    reply = digits.ask(INFER, body)
    assert reply.status == 400, reply.body[:300]
    assert set(reply.json) == {"error"}
    assert told.lower() in reply.json["error"].lower()
    assert "Traceback" not in reply.json["error"]
    assert digits.ask(INFER, inputs()).status == 200
    assert digits.replicas()["digits/v1.1"]["pid"] == before


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b"{}",
        b'{"instances": 3}',
        b'{"instances": [[1]]}',
        b'{"instances": [["a"]]}',
    ],
)
def test_a_wrong_project_request_is_told_as_fastapi_does(digits: Fairlead, body: bytes) -> None:
    reply = digits.ask(PREDICT, body)
    assert reply.status == 422, reply.body[:300]
    for mistake in reply.json["detail"]:
        assert mistake["loc"][0] == "body"
        assert mistake["msg"]
        assert mistake["type"]


@pytest.mark.parametrize("path", [INFER, PREDICT])
def test_a_body_of_a_hundred_megabytes_is_refused_and_the_worker_lives(
    digits: Fairlead, path: str
) -> None:
    before = digits.replicas()["digits/v1.1"]["pid"]
    connection = http.client.HTTPConnection("127.0.0.1", digits.port, timeout=60)
    size = 100 * 1024 * 1024
    connection.putrequest("POST", path)
    connection.putheader("X-Api-Key", digits.key)
    connection.putheader("Content-Length", str(size))
    connection.endheaders()
    try:
        for _ in range(100):
            connection.send(b" " * (1024 * 1024))
    except (BrokenPipeError, ConnectionResetError):
        pass  # the server need not read what it has refused
    answer = connection.getresponse()
    assert answer.status == 413
    assert json.loads(answer.read())
    connection.close()
    assert digits.ask(INFER, inputs()).status == 200
    assert digits.replicas()["digits/v1.1"]["pid"] == before


def test_a_missing_key_is_told_in_each_dialects_shape(digits: Fairlead) -> None:
    reply = digits.ask(PREDICT, b"{}", key=None)
    assert (reply.status, reply.json) == (401, {"message": "No API key found in request"})
    assert reply.headers["www-authenticate"] == 'Key realm="kong"'
    wrong = digits.ask(INFER, inputs(), key="wrong")
    assert (wrong.status, wrong.json) == (401, {"error": "Invalid authentication credentials"})


def test_another_method_is_told(digits: Fairlead) -> None:
    reply = digits.ask(INFER, method="DELETE")
    assert reply.status == 405
    assert "use POST" in reply.json["error"]


def test_with_a_certificate_the_gateway_speaks_tls(models: Path, tmp_path: Path) -> None:
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 1 -subj /CN=localhost"
    made = [
        *command.split(),
        "-addext",
        "subjectAltName=IP:127.0.0.1",
        "-keyout",
        str(key),
        "-out",
        str(cert),
    ]
    subprocess.run(made, check=True, capture_output=True, timeout=30)
    directory = tmp_path / "project"
    subprocess.run([*FAIRLEAD, "init", str(directory)], check=True, capture_output=True, timeout=30)
    with fairlead(directory, "--tls-cert", str(cert), "--tls-key", str(key)) as running:
        context = ssl.create_default_context(cafile=str(cert))
        connection = http.client.HTTPSConnection(
            "127.0.0.1", running.port, context=context, timeout=10
        )
        connection.request(
            "POST", "/v1/model/reading-time/predict", b'{"text": "one"}', {"X-Api-Key": running.key}
        )
        assert connection.getresponse().status == 200
        connection.close()
        assert "https://127.0.0.1" in running.told()
        assert '"words": 2' in running.cli("predict", "reading-time", '{"text": "one two"}').stdout
        with pytest.raises((http.client.HTTPException, OSError)):
            running.ask("/healthz", key=None)


def test_half_a_tls_configuration_is_refused(tmp_path: Path) -> None:
    done = subprocess.run(
        [*FAIRLEAD, "up", "x.yaml", "--tls-cert", "none.pem"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.returncode == 1
    assert "--tls-cert: goes with --tls-key" in done.stderr
