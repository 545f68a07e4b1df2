"""Rollouts under load: four planted bad revisions go back by themselves, a good one is promoted."""

from __future__ import annotations

import json
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from support.load import Outcome, constant_load
from support.running import FAIRLEAD, Fairlead, fairlead, until

MODEL = """
import os
import time

from pydantic import BaseModel


class Request(BaseModel):
    text: str


class Response(BaseModel):
    length: int


class Model:
    def load(self, directory):
        self.asked, self.kept, self.off = 0, [], 0
        {load}

    def predict(self, request: Request) -> Response:
        if request.text != "golden":
            self.asked += 1
            {predict}
        return Response(length=len(request.text) + self.off)
"""
PLANTED = {  # version -> what its code does when the node loads it, and when a caller asks it
    1: ("pass", "pass"),
    2: ("pass", "time.sleep(0.05)"),
    3: ("pass", "self.off = 1 if self.asked > 15 else 0"),
    4: ("pass", "os._exit(3) if self.asked > 10 else None"),
    5: ("pass", "self.kept.append(b'x' * (4 << 20))"),
    6: ("if 'node' in directory.parts: raise OSError('no such device')", "pass"),
    7: ("pass", "pass"),
    8: ("pass", "raise KeyError('lost')"),
}
QUICK = ("--step-seconds", "1", "--min-requests", "20", "--timeout", "30")


def plant(directory: Path) -> list[str]:
    """Write a folder for each planted model; returns them."""
    folders = []
    for version, (load, predict) in PLANTED.items():
        folder = directory / "models" / "gauge" / str(version)
        folder.mkdir(parents=True)
        (folder / "model.py").write_text(MODEL.format(load=load, predict=predict))
        (folder / "model.yaml").write_text(f"name: gauge\nversion: {version}\nengine: python\n")
        golden = {"examples": [{"request": {"text": "golden"}, "response": {"length": 6}}]}
        (folder / "golden.json").write_text(json.dumps(golden))
        folders.append(str(folder))
    return folders


def release(directory: Path, version: int, **more: Any) -> str:
    path = directory / f"release-{version}.json"
    document = {
        "service": "gauge",
        "model": "v1",
        "version": str(version),
        "artifact": f"gauge/{version}",
    }
    path.write_text(json.dumps(document | more))
    return str(path)


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fairlead]:
    directory = tmp_path_factory.mktemp("rollout")
    folders = plant(directory)
    models = ("--models", str(directory / "models"))
    with fairlead(directory, release(directory, 1), *models) as found:
        found.cli("publish", *folders)
        yield found


@pytest.fixture(scope="module")
def load(running: Fairlead) -> Iterator[Outcome]:
    headers = {"X-Api-Key": running.key, "Accept-Version": "v1"}
    body = {"text": "Hello"}
    path = "/v1/model/gauge/predict"
    with constant_load(running.port, path, body, headers, crowd=10_000, pause=0.002) as outcome:
        yield outcome


def traffic(running: Fairlead) -> dict[str, int]:
    document = json.loads(running.cli("status", "--json", code=None).stdout)
    return {row["version"]: row["percent"] for row in document["revisions"]}


def record(running: Fairlead) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(running.cli("why", "rollout", "--json").stdout)
    return found


BAD = {
    2: "p95",
    3: "gives a wrong answer: golden example 1 of 1: length: 6 expected within 0, 7 answered",
    4: "died",
    5: "goes on growing",
    8: "of requests failed",
}


@pytest.mark.parametrize("version", BAD, ids=["slow", "wrong", "crashing", "leaking", "failing"])
def test_a_bad_revision_is_rolled_back_with_the_reason(
    running: Fairlead, load: Outcome, version: int
) -> None:
    before = traffic(running)
    done = running.cli("rollout", release(running.directory, version), *QUICK, code=1)
    print(done.stdout, done.stderr)
    assert f"rolled back: gauge/v1.{next(iter(before))[3:]} has all traffic" in done.stdout
    assert traffic(running) == before
    told = record(running)
    assert told["outcome"] == "rolled back"
    assert any(BAD[version] in reason for reason in told["reasons"]), told["reasons"]
    moves = [entry["percent"] for entry in told["entries"] if entry["event"] == "moved"]
    assert moves
    assert max(moves) <= 50


def test_a_revision_that_never_starts_leaves_the_old_one_untouched(
    running: Fairlead, load: Outcome
) -> None:
    before = traffic(running)
    done = running.cli("rollout", release(running.directory, 6), *QUICK, code=1)
    print(done.stdout, done.stderr)
    assert "no such device" in done.stdout
    assert traffic(running) == before
    assert not [entry for entry in record(running)["entries"] if entry["event"] == "moved"]
