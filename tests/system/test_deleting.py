"""Deleting in a running Fairlead, under load: nothing is left of it, and nobody else loses anything."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from support.load import constant_load
from support.running import FAIRLEAD, Fairlead, until

SLOW = """
import time
class Model:
    def load(self, directory): pass
    def predict(self, request: float) -> float:
        time.sleep(request)
        return {answer}
"""
OTHER = "/v1/model/reading-time/predict"
PREDICT = "/v1/model/slow/predict"


def add(project: Fairlead, version: int, answer: str) -> None:
    folder = project.directory / "models" / "slow" / str(version)
    folder.mkdir(parents=True)
    (folder / "model.py").write_text(SLOW.format(answer=answer))
    (folder / "model.yaml").write_text(f"name: slow\nversion: {version}\nengine: python\n")
    value = 0.01 if answer == "request" else float(answer)
    golden = {"examples": [{"request": 0.01, "response": value}]}
    (folder / "golden.json").write_text(json.dumps(golden))


def release(project: Fairlead, line: str, version: str, artifact: int) -> str:
    path = project.directory / f"slow-{line}.{version}.yaml"
    path.write_text(
        f'service: slow\nmodel: {line}\nversion: "{version}"\nartifact: slow/{artifact}\n'
    )
    return str(path)


@pytest.fixture
def project(tmp_path: Path) -> Iterator[Fairlead]:
    directory = tmp_path / "project"
    subprocess.run([*FAIRLEAD, "init", str(directory)], check=True, timeout=30, capture_output=True)
    running = Fairlead(directory)
    try:
        add(running, 1, "request")
        add(running, 2, "42")
        running.start()
        running.cli("publish", "models/slow/1", "models/slow/2")
        files = [release(running, "v1", "1", 1), release(running, "v2", "1", 2)]
        running.cli("apply", *files)
        yield running
    finally:
        running.close()


def revisions(project: Fairlead) -> dict[str, dict[str, object]]:
    listed = json.loads(project.cli("revisions", "--json").stdout)["revisions"]
    return {"{service}/{line}.{revision}".format(**one): one for one in listed}


def artifacts_here(project: Fairlead) -> set[str]:
    return {path.name for path in (project.home / "node" / "artifacts").iterdir()}


@pytest.mark.timeout(180)
def test_lines_revisions_and_services_go_whole_and_nobody_else_notices(project: Fairlead) -> None:
    project.cli("keys", "create", "mine", "--allow", "slow/v2", "--allow", "reading-time")
    headers = {"X-Api-Key": project.key}
    with constant_load(project.port, OTHER, {"text": "one two"}, headers, pause=0.005) as load:
        a_revision_goes_once_it_has_no_traffic(project)
        a_line_goes_when_its_last_request_is_answered(project)
        a_line_goes_though_agent_and_gateway_die(project)
        a_service_goes_and_its_names_mean_something_new(project)
    assert load.failed == []
    assert len(load.answers) > 200
    assert project.healthy()


def a_revision_goes_once_it_has_no_traffic(project: Fairlead) -> None:
    refused = project.cli("delete", "slow/v1.1", "--yes", code=1)
    assert "is all there is of slow/v1" in refused.stderr
    project.cli("apply", release(project, "v1", "2", 1))
    assert "needs" not in project.cli("delete", "slow/v1.2", "--yes", code=1).stderr
    unasked = project.cli("delete", "slow/v1.1", code=2)
    assert "- revision slow/v1.1 (slow/1)" in unasked.stderr
    assert "give --yes" in unasked.stderr
    assert "slow/v1.1" in revisions(project)
    done = project.cli("delete", "slow/v1.1", "--yes")
    assert "nothing is left of it after" in done.stderr
    assert set(revisions(project)) == {"slow/v1.2", "slow/v2.1", "reading-time/v1.1"}
    assert "slow/v1 has let go of 1" in project.cli("revisions", "slow").stdout
    again = project.cli("apply", release(project, "v1", "1", 1))
    assert "kept no longer" in again.stdout
    assert len(artifacts_here(project)) == 3  # v1.2 has the files


def a_line_goes_when_its_last_request_is_answered(project: Fairlead) -> None:
    (replica,) = [one for name, one in project.replicas().items() if name == "slow/v2.1"]
    with ThreadPoolExecutor(1) as pool:
        late = pool.submit(project.ask, PREDICT, 2.0, Accept_Version="v2")
        until(lambda: in_progress(project), 10, "the request is under way")
        done = project.cli("delete", "slow/v2", "--yes")
        assert late.done(), "it was waited for"
        assert late.result(1).json == 42
    assert "key mine may no longer ask slow/v2" in done.stderr
    assert "still in the store, used by nothing: slow/2" in done.stderr
    assert project.ask(PREDICT, 0.0, Accept_Version="v2").status == 404
    assert project.ask(PREDICT, 0.0, Accept_Version="v1").status == 200
    assert not Path(str(replica["socket"])).exists()
    assert replica["pid"] not in [process.pid for process in project.processes()]
    assert len(artifacts_here(project)) == 2
    measured = project.home / "node" / "measured" / str(replica["digest"]).replace(":", "-")
    assert not measured.with_suffix(".json").exists()
    keys = json.loads(project.cli("keys", "ls", "--json").stdout)
    assert [one["allow"] for one in keys if one["name"] == "mine"] == [["reading-time"]]


def a_line_goes_though_agent_and_gateway_die(project: Fairlead) -> None:
    project.cli("apply", release(project, "v3", "1", 2))
    (replica,) = [one for name, one in project.replicas().items() if name == "slow/v3.1"]
    with ThreadPoolExecutor(2) as pool:
        late = pool.submit(project.ask, PREDICT, 1.0, Accept_Version="v3")
        until(lambda: in_progress(project), 10, "the request is under way")
        before = (project.home / "store" / "catalog" / "head").read_bytes()
        done = pool.submit(project.cli, "delete", "slow/v3", "--yes")
        head = project.home / "store" / "catalog" / "head"
        until(lambda: head.read_bytes() != before, 10, "it is out of the catalog")
        for status in ("node/status.json", "gateway/status.json"):
            os.kill(json.loads((project.home / status).read_bytes())["pid"], signal.SIGKILL)
        assert late.result(20).json == 42
        assert "nothing is left of it after" in done.result(60).stderr
    assert not Path(str(replica["socket"])).exists()
    assert len(artifacts_here(project)) == 2


def a_service_goes_and_its_names_mean_something_new(project: Fairlead) -> None:
    project.cli("kill", "slow")
    began = project.cli("delete", "slow", "--yes", "--no-wait")
    assert "deleted slow from the catalog" in began.stdout
    # At once, by the very names: nobody may take the old worker for the new one.
    file = release(project, "v1", "2", 2)
    project.cli("apply", file)
    answer = project.ask(PREDICT, 0.0, Accept_Version="v1.2")
    assert (answer.status, answer.json) == (200, 42)
    project.cli("delete", "slow", "--yes")
    assert project.ask(PREDICT, 0.0).status == 404
    assert "slow" not in json.dumps(json.loads((project.home / "node/status.json").read_bytes()))
    assert "slow" not in (project.home / "gateway" / "envoy" / "rds.json").read_text()
    assert "slow" not in (project.home / "gateway" / "envoy" / "cds.json").read_text()
    assert len(artifacts_here(project)) == 1
    pruned = project.cli("models", "prune", "--keep", "0")
    assert pruned.stdout.splitlines()[:2] == ["removed slow/1", "removed slow/2"]
    blobs = list((project.home / "store" / "blobs" / "sha256").iterdir())
    assert all("time.sleep" not in blob.read_text(errors="replace") for blob in blobs)
    used = project.cli("models", "rm", "reading-time/1", code=1)
    assert "is used by reading-time/v1.1: `fairlead delete reading-time/v1.1` first" in used.stderr


def in_progress(project: Fairlead) -> bool:
    text = project.ask("/metrics", key=None).body.decode()
    lines = [line for line in text.splitlines() if "fairlead_requests_in_progress{" in line]
    return any('service="slow"' in line and not line.endswith(" 0.0") for line in lines)
