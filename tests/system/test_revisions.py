"""Thirty revisions one after another under constant load: no failed request, no wrong answer, nothing left."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.load import constant_load
from support.running import Fairlead, fairlead, until

REVISIONS = 30
ARTIFACTS = 3


@pytest.fixture
def running(models: Path, tmp_path: Path) -> Iterator[Fairlead]:
    with fairlead(tmp_path, str(release(tmp_path, 1)), "--models", str(models)) as found:
        found.cli(
            "publish",
            *[str(models / "sentiment" / str(version)) for version in range(1, ARTIFACTS + 1)],
        )
        yield found


def artifact(revision: int) -> int:
    return revision % ARTIFACTS + 1


def release(directory: Path, revision: int) -> Path:
    path = directory / f"release-{revision}.json"
    document = {
        "service": "sentiment",
        "model": "v1",
        "version": str(revision),
        "artifact": f"sentiment/{artifact(revision)}",
        "traffic": [{"tag": str(revision), "percent": 100}],
    }
    path.write_text(json.dumps(document))
    return path


@pytest.mark.timeout(240)
def test_thirty_revisions_under_load_fail_no_request(running: Fairlead, tmp_path: Path) -> None:
    text = "The soup was warm and full of flavour."
    right = {}
    with constant_load(
        running.port, "/v2/models/sentiment/infer", infer(text), {"X-Api-Key": running.key}
    ) as outcome:
        for revision in range(2, REVISIONS + 2):
            running.cli("apply", str(release(tmp_path, revision)))
            reply = running.ask("/v2/models/sentiment/infer", infer(text))
            assert reply.version == f"v1.{revision}"
            assert reply.json["model_version"] == str(artifact(revision))
            right[artifact(revision)] = reply.json["outputs"]
    assert outcome.failed == []
    assert len(outcome.answers) > 1000
    seen = [version for _, _, version, _, _ in sorted(outcome.answers)]
    assert len(set(seen)) >= REVISIONS * 2 // 3
    for _, _, version, _, body in outcome.answers:
        answer = json.loads(body)
        assert answer["model_version"] == str(artifact(int(version.removeprefix("v1."))))
        assert answer["outputs"] == right[int(answer["model_version"])]
    until(lambda: len(workers_of(running)) == 1, 20, "the old workers are gone")
    until(
        lambda: len(list((running.home / "node" / "workers").glob("*.json"))) == 1,
        5,
        "their records too",
    )


def workers_of(running: Fairlead) -> list[object]:
    return [process for process in running.processes() if "worker" in process.cmdline()]


def infer(text: str) -> dict[str, object]:
    return {"inputs": [{"name": "text", "shape": [1], "datatype": "BYTES", "data": [text]}]}
