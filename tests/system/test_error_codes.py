"""Every error code, provoked for real through a command or the gateway; a code without a case fails here."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import subprocess
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from http import HTTPStatus
from pathlib import Path

import pytest

from fairlead.domain.errors import InvalidInput, Kind
from fairlead.domain.explanations import OUTCOMES
from fairlead.server.http.errors import OIP_STATUSES, STATUSES
from fairlead.wiring.errors_page import section
from support.models import code_project, example
from support.running import FAIRLEAD, ROOT, Fairlead, Reply, fairlead, until

MODEL = """
import time
from pydantic import BaseModel
class Order(BaseModel):
    sleep: float = 0
    fail: bool = False
class Model:
    def predict(self, order: Order) -> int:
        time.sleep(order.sleep)
        return 1 // (0 if order.fail else 1)
"""
PREDICT = "/v1/model/trouble/predict"
CODES = [*map(str, Kind), *(code for code, _, _ in OUTCOMES)]


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fairlead]:
    directory = tmp_path_factory.mktemp("codes")
    release = code_project(directory, "trouble", MODEL, example({}, 1), concurrency=1)
    with fairlead(directory, str(release)) as one:
        yield one


def _of(reply: Reply) -> str:
    code = reply.headers["x-error-code"]
    statuses = OIP_STATUSES if "error" in reply.json else STATUSES
    assert reply.status == statuses[Kind(code)]
    return code


def _told(done: subprocess.CompletedProcess[str]) -> str:
    assert "Traceback" not in done.stderr
    line = next(line for line in done.stderr.splitlines() if line.startswith("error["))
    return line.removeprefix("error[").partition("]")[0]


def _invalid(running: Fairlead) -> str:
    assert _told(running.cli("traffic", "trouble", "v1", "1=90", code=1)) == "invalid"
    return _of(running.ask("/v2/models/trouble/infer", b"{", Accept_Version="v1.1"))


def _schema(running: Fairlead) -> str:
    return _of(running.ask(PREDICT, {"sleep": "x"}))


def _unauthenticated(running: Fairlead) -> str:
    assert _of(running.ask(PREDICT, {}, key=None)) == "unauthenticated"
    assert _of(running.ask("/v2/models/trouble", key="wrong")) == "unauthenticated"
    return _told(running.cli("predict", "trouble", "{}", "--key", "\x01", code=1))


def _forbidden(running: Fairlead) -> str:
    (release,) = (ROOT / "examples" / "lsh").glob("release*")
    running.cli("publish", str(ROOT / "build" / "models" / "lsh" / "1"))
    running.cli("apply", str(release))
    key = running.cli("keys", "create", "narrow", "--service", "lsh").stdout.strip()
    return _of(running.ask(PREDICT, {}, key=key))


def _not_found(running: Fairlead) -> str:
    assert _of(running.ask("/v1/model/nothing/predict", {})) == "not_found"
    return _told(running.cli("models", "show", "nothing/1", code=1))


def _method(running: Fairlead) -> str:
    return _of(running.ask(PREDICT, method="DELETE"))


def _format(running: Fairlead) -> str:
    running.cli("publish", str(ROOT / "build" / "models" / "speech" / "1"))
    running.cli("apply", str(ROOT / "examples" / "speech" / "release-v1.1.yaml"))
    said = {"speaker_id": "4", "text": "Ahoy."}

    def refused() -> Reply:
        return running.ask("/api/text_to_speech/stream", said, Accept="image/png")

    until(lambda: refused().status == HTTPStatus.NOT_ACCEPTABLE, 30, "speech is served")
    return _of(refused())


def _encoding(running: Fairlead) -> str:
    return _of(running.ask(PREDICT, {"sleep": 0}, Content_Encoding="zstd"))


def _conflict(running: Fairlead) -> str:
    return _told(running.cli("up", "trouble.json", code=1))


def _too_large(running: Fairlead) -> str:
    connection = http.client.HTTPConnection("127.0.0.1", running.port, timeout=30)
    connection.putrequest("POST", PREDICT)
    connection.putheader("X-Api-Key", running.key)
    connection.putheader("Content-Length", str(1 << 40))
    connection.endheaders()
    answer = connection.getresponse()
    assert answer.status == 413
    connection.close()
    return str(answer.headers["x-error-code"])


def _overloaded(running: Fairlead) -> str:
    with ThreadPoolExecutor(16) as crowd:
        replies = list(crowd.map(lambda _: running.ask(PREDICT, {"sleep": 0.1}), range(16)))
    return _of(next(reply for reply in replies if reply.status != 200))


def _quota(running: Fairlead) -> str:
    created = running.cli("keys", "create", "slow", "--rate", "1/min")
    key = created.stdout.split()[-1]
    until(lambda: running.ask("/v2/models/trouble", key=key).status != 401, 10, "the key is known")
    until(lambda: running.ask("/v2/models/trouble", key=key).status == 429, 10, "it is used up")
    reply = running.ask("/v2/models/trouble", key=key)
    assert int(reply.headers["retry-after"]) >= 1
    return _of(reply)


def _unavailable(running: Fairlead) -> str:
    running.cli("kill", "trouble")
    try:
        return _of(running.ask(PREDICT, {}))
    finally:
        running.cli("revive", "trouble")


def _deadline(running: Fairlead) -> str:
    folder = running.directory / "slow"
    folder.mkdir()
    (folder / "model.py").write_text(MODEL)
    (folder / "model.yaml").write_text("name: slow\nversion: 1\nengine: python\n")
    golden = {"examples": [{"request": {"sleep": 60}, "response": 1}]}
    (folder / "golden.json").write_text(json.dumps(golden))
    return _told(running.cli("publish", "slow", "--timeout", "1", code=1))


def _cancelled(running: Fairlead) -> str:
    body = b'{"sleep": 1}'
    head = f"POST {PREDICT} HTTP/1.1\r\nHost: x\r\nX-Api-Key: {running.key}\r\n"
    with socket.create_connection(("127.0.0.1", running.port)) as leaver:
        leaver.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        busy = "fairlead_requests_in_progress{"
        until(lambda: _metric(running, busy, "trouble") >= 1, 10, "it is asked")
    until(lambda: _metric(running, 'kind="cancelled"', "trouble") >= 1, 10, "it is counted")
    return "cancelled"


def _metric(running: Fairlead, *parts: str) -> float:
    lines = running.ask("/metrics", key=None).body.decode().splitlines()
    found = [line for line in lines if all(part in line for part in parts)]
    return sum(float(line.rpartition(" ")[2]) for line in found)


def _model(running: Fairlead) -> str:
    return _of(running.ask(PREDICT, {"fail": True}))


def _internal(running: Fairlead) -> str:
    broken = running.directory / "broken"
    broken.mkdir()
    (broken / "yaml.py").write_text("raise RuntimeError('no yaml')\n")
    path = f"{broken}:{os.environ.get('PYTHONPATH', '')}"
    environment = {**os.environ, "PYTHONPATH": path, "TMPDIR": str(broken)}
    done = _run(running, "validate", "trouble.json", environment=environment)
    assert done.returncode == 70
    return _told(done)


def _system(running: Fairlead) -> str:
    return _told(running.cli("init", "trouble.json/below", code=1))


def _usage(running: Fairlead) -> str:
    assert "Usage:" in running.cli("status", "--jsno", code=2).stderr
    return "usage"


def _interrupted(running: Fairlead) -> str:
    command = [*FAIRLEAD, "logs", "--follow", "--home", str(running.home)]
    process = subprocess.Popen(
        command, cwd=running.directory, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline()
    process.send_signal(signal.SIGINT)
    _, told = process.communicate(timeout=20)
    assert process.returncode == 130
    return told.strip()


def _run(
    running: Fairlead, *arguments: str, environment: dict[str, str]
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*FAIRLEAD, *arguments],
        cwd=running.directory,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


CASES: dict[str, Callable[[Fairlead], str]] = {
    "invalid": _invalid,
    "schema": _schema,
    "unauthenticated": _unauthenticated,
    "forbidden": _forbidden,
    "not_found": _not_found,
    "method": _method,
    "format": _format,
    "encoding": _encoding,
    "conflict": _conflict,
    "too_large": _too_large,
    "overloaded": _overloaded,
    "quota": _quota,
    "unavailable": _unavailable,
    "deadline": _deadline,
    "cancelled": _cancelled,
    "model": _model,
    "internal": _internal,
    "system": _system,
    "usage": _usage,
    "interrupted": _interrupted,
}


@pytest.mark.parametrize("code", CODES)
def test_the_code_is_what_a_user_gets(models: Path, running: Fairlead, code: str) -> None:
    assert code in CASES, f"the error code {code} has no case that provokes it"
    assert CASES[code](running) == code


def test_every_code_has_its_section() -> None:
    page = (ROOT / "docs" / "reference" / "errors.md").read_text()
    for code in CODES:
        assert section(code) in page
    with pytest.raises(InvalidInput, match="there is no error code 'modl'"):
        section("modl")


def test_the_doctor_finds_nothing_wrong_where_fairlead_runs(running: Fairlead) -> None:
    environment = {**os.environ, "FAIRLEAD_PORT": str(running.port)}
    done = _run(running, "doctor", "--home", str(running.home), "--deep", environment=environment)
    assert done.returncode == 0, done.stdout
    assert "nothing is wrong" in done.stdout
