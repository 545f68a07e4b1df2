"""`fairlead why`: for every request of the functional suite the explanation matches what happened."""

from __future__ import annotations

import contextlib
import http.client
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import xxhash
from examples import check

from fairlead.wiring.homes import open_home
from fairlead.wiring.requests import Found, find_requests
from support.models import code_project, example
from support.plain import NO_TLS
from support.running import ROOT, Fairlead, Reply, fairlead, until

CODE = """
import threading
from fairlead.api.cancellation import cancelled


class Model:
    def predict(self, request: float) -> str:
        if request < 0:
            raise RuntimeError("moody today")
        nobody = threading.Event()
        waited = 0.0
        while waited < request and not cancelled():
            nobody.wait(0.01)
            waited += 0.01
        return "done"
"""
MOODY = "/v1/model/moody/predict"
SENTIMENT = "/v1/model/sentiment/predict"
FINE = {"instances": ["fine"]}


@pytest.fixture(scope="module")
def running(
    published: Path, releases: list[str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Fairlead]:
    """The examples, and a model that takes as long as it is asked to, or fails."""
    directory = tmp_path_factory.mktemp("why")
    release = code_project(directory, "moody", CODE, example(0.0, "done"), concurrency=1)
    arguments = ["--models", str(directory / "models"), "--pin", "sentiment=v2"]
    with fairlead(directory, *releases, str(release), *arguments, like=published) as found:
        found.cli("keys", "create", "narrow", "--service", "digits")
        yield found


@dataclass
class Asked:
    """One request, what it was asked with, and what came back."""

    id: str
    method: str
    path: str
    sticky: str | None
    version: str | None
    client: str | None
    reply: Reply


def ask(
    running: Fairlead, number: int, method: str, path: str, body: Any = None, **sent: Any
) -> Asked:
    """Every second request brings a sticky key; all bring an id of their own."""
    client, key = sent.pop("key", ("demo", ""))
    sticky = f"user {number}" if number % 2 else None
    one = f"suite-{number}"
    headers = {name: value for name, value in sent.items() if value is not None}
    if sticky is not None:
        headers["X-Sticky-Key"] = sticky
    reply = running.ask(path, body, method=method, key=key, X_Request_Id=one, **headers)
    version = next((v for k, v in headers.items() if k.lower() == "accept_version"), None)
    return Asked(one, method, path, sticky, version, client, reply)


def explained(running: Fairlead, one: str) -> Found:
    (found,) = find_requests(open_home(running.home), one)
    return found


def matches(running: Fairlead, one: Asked) -> None:
    """Everything we know of a request by other ways is what its explanation says."""
    told = explained(running, one.id).explanation.document
    headers = one.reply.headers
    seen = {
        "status": told["status"],
        "key": told["key"],
        "method": told["method"],
        "path": told["path"],
        "version": told["acceptVersion"],
        "served": (told["revision"] or "").partition("/")[2],
        "digest": told["digest"],
        "retries": told["retries"],
        "peer": told["peer"],
    }
    known = {
        "status": one.reply.status,
        "key": one.client,
        "method": one.method,
        "path": one.path.partition("?")[0],
        "version": one.version,
        "served": headers.get("x-served-version", ""),
        "digest": headers.get("x-artifact-digest"),
        "retries": 0,
        "peer": "127.0.0.1",
    }
    assert seen == known, told
    if told["revision"] is not None:
        served(running, one, told)
    elif one.reply.status >= 400:
        said = one.reply.json
        assert told["worker"] is None
        assert told["rule"] is None
        assert told["refusal"] in (*said.values(), None), (told, said)
        assert told["outcome"]["code"] != "answered"


def served(running: Fairlead, one: Asked, told: dict[str, Any]) -> None:
    """A worker answered it: which, by which bucket, by which rule, and did its engine run?"""
    there = {
        (one["worker"], one["digest"])
        for one in running.every_replica()
        if "{service}/{line}.{revision}".format(**one["revision"]) == told["revision"]
    }
    assert (told["worker"], told["digest"]) in there
    hashed = one.sticky if one.sticky is not None else one.client
    bucket = xxhash.xxh64((hashed or "").encode()).intdigest() % 10_000
    of = "client" if one.sticky is None else "sticky key"
    assert told["bucket"] == {"number": bucket, "of": of, "said_by": "worker"}
    rule = told["rule"]
    first = 0
    for share in rule["shares"]:
        if first <= bucket < first + 100 * share["percent"]:
            assert told["revision"] == f"{rule['line']}.{share['tag']}"
        first += 100 * share["percent"]
    assert first == 10_000
    by = "line"
    if "/versions/" in one.path:
        by = "artifact"
    elif one.version in (None, "latest"):
        by = "pin"
    elif "." in one.version:
        by = "exact"
    assert rule["by"] == by
    asks = one.method == "POST" or one.path.startswith("/api/text_to_speech/")  # by GET too
    ran = asks and one.reply.status == 200
    assert (told["engineMs"] is not None, told["batch"]) == (ran, 1 if ran else None), told
    if ran:
        assert 0 <= told["engineMs"] <= told["totalMs"] + 1
        assert 0 <= told["queueMs"] <= told["totalMs"] + 1
        assert told["outcome"]["code"] == "answered"


def test_every_request_of_the_examples_is_explained(running: Fairlead) -> None:
    asked = []
    for folder in sorted(path.parent for path in ROOT.glob("examples/*/requests")):
        for case in check.read_cases(folder):
            sent: dict[str, Any] = {
                name.replace("-", "_").lower(): value for name, value in case.headers.items()
            }
            key = ("demo", "")
            if "x_api_key" in sent:
                wrong = sent.pop("x_api_key")
                key = (None, wrong)
            one = ask(running, len(asked), case.method, case.path, case.body, key=key, **sent)
            assert one.reply.status == case.status
            asked.append(one)
    assert len(asked) > 20
    for one in asked:
        matches(running, one)


def test_every_kind_of_refusal_is_explained(running: Fairlead) -> None:
    narrow = ("narrow", running.cli("keys", "rotate", "narrow").stdout.strip())
    refused = [
        ("unauthenticated", {"key": (None, None)}, "POST", SENTIMENT, FINE),
        ("unauthenticated", {"key": (None, "wrong")}, "POST", SENTIMENT, FINE),
        ("unauthenticated", {"key": (None, "a,b")}, "POST", SENTIMENT, FINE),
        ("forbidden", {"key": narrow}, "POST", SENTIMENT, FINE),
        ("not_found", {}, "GET", "/nowhere/to/go", None),
        ("not_found", {}, "GET", "/v2/models/nobody", None),
        ("not_found", {"Accept_Version": "v9"}, "POST", SENTIMENT, FINE),
        ("not_found", {}, "POST", "/v2/models/sentiment/versions/77/infer", FINE),
        ("invalid", {"Accept_Version": "v1.1"}, "POST", "/v2/models/sentiment/versions/3/infer", FINE),
        ("method", {}, "DELETE", SENTIMENT, None),
    ]  # fmt: skip
    asked = [
        (code, ask(running, 1000 + number, method, path, body, **dict(sent)))
        for number, (code, sent, method, path, body) in enumerate(refused)
    ]
    running.cli("kill", "lsh", "--message", "back at noon")
    killed = ask(running, 1100, "GET", "/v1/model/lsh/bio")
    running.cli("revive", "lsh")
    for code, one in [*asked, ("killed", killed)]:
        assert one.reply.status >= 400
        matches(running, one)
        outcome = explained(running, one.id).explanation.document["outcome"]
        assert outcome["code"] == code, outcome
    told = explained(running, killed.id).explanation
    assert "lsh was switched off by hand, saying: back at noon" in told.document["outcome"]["text"]
    assert told.document["catalog"]["exact"]


def test_what_a_worker_refuses_is_explained(running: Fairlead) -> None:
    digits = "/v2/models/digits/infer"
    cases: list[tuple[str, str, Any, dict[str, str]]] = [
        ("invalid", digits, b"{", {}),
        ("invalid", digits, {"inputs": []}, {}),
        ("schema", "/v1/model/digits/predict", {"instances": 3}, {}),
        ("schema", "/v1/model/lsh/predict", {"inputs": {}}, {}),
        ("internal", MOODY, -1.0, {}),
        ("deadline", MOODY, 20.0, {"X_Request_Timeout_Ms": "500"}),
        ("invalid", MOODY, 0.0, {"X_Request_Timeout_Ms": "soon"}),
    ]
    for number, (code, path, body, sent) in enumerate(cases):
        one = ask(running, 2000 + number, "POST", path, body, **sent)
        told = explained(running, one.id)
        document = told.explanation.document
        assert one.reply.status >= 400
        assert (document["status"], document["key"]) == (one.reply.status, "demo")
        assert document["outcome"]["code"] in (code, "model"), document
        assert document["worker"] == running.replicas()[document["revision"]]["worker"]
        ran = code in ("internal", "deadline")
        assert (document["engineMs"] is not None) == ran, document
    failed = explained(running, "suite-2004")
    assert any("RuntimeError" in record["message"] for record in failed.worker_log)
    late = explained(running, "suite-2005").explanation
    assert "while the model ran" in late.document["outcome"]["text"]
    assert 20 < late.document["engineMs"] < 5000
    huge = connect(running, "huge", "/v2/models/digits/infer", 100 << 20)
    with contextlib.closing(huge):
        assert huge.getresponse().status == 413
    assert explained(running, "huge").explanation.document["outcome"]["code"] == "too_large"


def test_who_waited_and_who_left_is_explained(running: Fairlead) -> None:
    until(lambda: ask(running, 3000, "POST", MOODY, 0.0).reply.status == 200, 10, "it is free")
    with contextlib.closing(connect(running, "holder", MOODY, b"2.5")) as holder:
        until(lambda: busy(running), 5, "the slot is taken")
        waited = ask(running, 3001, "POST", MOODY, 0.0)
        assert waited.reply.status == 200
        holder.getresponse().read()
    told = explained(running, waited.id).explanation.document
    assert told["queueMs"] > 100
    assert told["engineMs"] < told["queueMs"]
    with contextlib.closing(connect(running, "leaver", MOODY, b"60")):
        until(lambda: busy(running), 5, "the slot is taken")
    left = explained(running, "leaver").explanation
    assert left.document["outcome"]["code"] == "client_left"
    assert left.document["flags"] == ["DC"]
    assert (left.document["key"], left.document["revision"]) == ("demo", "moody/v1.1")
    assert "the client left after" in dict(left.parts)["outcome"]
    assert left.document["bucket"]["said_by"] == "computed"


def test_the_command_tells_people_and_programs(running: Fairlead) -> None:
    one = ask(running, 4001, "POST", SENTIMENT, FINE, Accept_Version="v1")
    text = running.cli("why", one.id).stdout
    for part in (
        "200: answered by the worker",
        "demo; from 127.0.0.1",
        "Accept-Version named line v1; its traffic was split then: v1.1 90 %, v1.2 10 %",
        "by the sticky key: buckets",
        one.reply.headers["x-artifact-digest"],
        "engine",
    ):
        assert part in text, text
    assert "user 4001" not in text
    document = json.loads(running.cli("why", "--json", one.id).stdout)
    assert document["requestId"] == one.id
    unknown = running.cli("why", "never-asked", code=1)
    assert "no request 'never-asked' in the access log, which reaches back to 20" in unknown.stderr
    again = ask(running, 4001, "POST", SENTIMENT, FINE)
    assert again.id == one.id
    assert (
        "2 requests carried this id"
        in until(
            lambda: (done := running.cli("why", one.id)).stderr.count("carried") and done,
            10,
            "both",
        ).stderr
    )
    assert len(json.loads(running.cli("why", one.id, "--all", "--json").stdout)) == 2


def test_what_was_sent_to_a_worker_directly_is_told_from_its_log(running: Fairlead) -> None:
    socket = running.replicas()["moody/v1.1"]["socket"]
    with httpx.Client(
        transport=httpx.HTTPTransport(uds=socket, verify=NO_TLS), timeout=10
    ) as client:
        answer = client.post(
            "http://worker" + MOODY, content=b"-1", headers={"x-request-id": "direct"}
        )
    assert answer.status_code == 500
    assert answer.headers["server-timing"].startswith("queue;dur=")
    text = running.cli("why", "direct").stdout
    assert "it was sent to a worker directly" in text
    assert "RuntimeError" in text


def test_the_gateways_own_pages_are_explained(running: Fairlead) -> None:
    one = ask(running, 6000, "GET", "/livez", key=(None, None))
    told = explained(running, one.id).explanation
    assert told.document["outcome"]["code"] == "page"
    assert dict(told.parts)["key"].startswith("none, and this page needs none")
    assert told.document["worker"] is None


def test_a_sticky_key_is_nowhere_on_disk(running: Fairlead) -> None:
    one = ask(running, 5001, "POST", SENTIMENT, FINE)
    assert explained(running, one.id)
    for path in (running.home / "logs").iterdir():
        assert b"user 5001" not in path.read_bytes(), path


def connect(
    running: Fairlead, one: str, path: str, body: bytes | int
) -> http.client.HTTPConnection:
    """Ask and do not wait for the answer; a number for a body is a length that is only promised."""
    connection = http.client.HTTPConnection("127.0.0.1", running.port, timeout=10)
    connection.putrequest("POST", path)
    connection.putheader("X-Api-Key", running.key)
    connection.putheader("X-Request-Id", one)
    connection.putheader("Content-Length", str(body if isinstance(body, int) else len(body)))
    connection.endheaders(b"" if isinstance(body, int) else body)
    return connection


def busy(running: Fairlead) -> bool:
    lines = running.ask("/metrics").body.decode().splitlines()
    wanted = "fairlead_requests_in_progress{"
    return any(
        line.startswith(wanted) and 'service="moody"' in line and float(line.split()[-1]) == 1
        for line in lines
    )
