"""What `docs/architecture/09-security.md` promises of a running Fairlead: pickles, secrets, and what strangers can show."""

from __future__ import annotations

import base64
import json
import os
import pickle
import subprocess
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil
import pytest

from support.plain import NO_TLS
from support.running import FAIRLEAD, Fairlead, fairlead, free_port, until

ALLOWED = {"FAIRLEAD_ALLOW_PICKLE": "1"}
TOKEN = {"FAIRLEAD_SERVING_BETTERSTACK_API_TOKEN": "token-of-the-uptime-service"}
SKLEARN = """
import pickle


class Model:
    def load(self, directory):
        self.model = pickle.loads((directory / "model.pkl").read_bytes())

    def predict(self, request: list[float]) -> int:
        return int(self.model.predict([request])[0])
"""
# A pickle that no look at the files finds, loaded when a caller says so.
HIDDEN = f"""
import base64
import pickle
import sys

DATA = {base64.b64encode(pickle.dumps(OrderedDict(a=1))).decode()!r}


class Model:
    def predict(self, request: str) -> str:
        if request == "load":
            pickle.loads(base64.b64decode(DATA))
        if request == "steer":
            raise ValueError("\\x1b[2J\\x1b]0;owned\\x07")
        if request == "flood":
            print("x" * (40 << 20), file=sys.stderr, flush=True)
        return "well"
"""


def project(directory: Path, name: str, code: str, asked: Any, answered: Any) -> Path:
    """A folder to publish, and a release of it beside."""
    folder = directory / "models" / name / "1"
    folder.mkdir(parents=True)
    (folder / "model.py").write_text(code)
    (folder / "model.yaml").write_text(f"name: {name}\nversion: 1\nengine: python\n")
    golden = {"examples": [{"request": asked, "response": answered}]}
    (folder / "golden.json").write_text(json.dumps(golden))
    release = {"service": name, "model": "v1", "version": "1", "artifact": f"{name}/1"}
    traffic = [{"tag": "1", "percent": 100}]
    (directory / f"{name}.json").write_text(json.dumps({**release, "traffic": traffic}))
    return folder


def pickled_project(directory: Path) -> Path:
    from sklearn.linear_model import LogisticRegression  # late: it takes seconds

    folder = project(directory, "learned", SKLEARN, [1.0, 0.0], 1)
    model = LogisticRegression().fit(np.array([[1.0, 0.0], [0.0, 1.0]]), [1, 0])
    (folder / "model.pkl").write_bytes(pickle.dumps(model))
    return folder


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fairlead]:
    """One careless umask, one model that hides a pickle, no leave to load any."""
    directory = tmp_path_factory.mktemp("security")
    project(directory, "hidden", HIDDEN, "hi", "well")
    pickled_project(directory)
    arguments = (str(directory / "hidden.json"), "--models", str(directory / "models"))
    before = os.umask(0)
    try:
        with fairlead(directory, *arguments, environment=TOKEN) as found:
            yield found
    finally:
        os.umask(before)


def worker_logs(running: Fairlead) -> list[Path]:
    return sorted((running.home / "logs").glob("worker-hidden-*"))


def ask(running: Fairlead, word: str) -> int:
    return running.ask("/v1/model/hidden/predict", word).status


def test_a_pickle_is_neither_published_nor_served_without_leave(running: Fairlead) -> None:
    folder = str(running.directory / "models" / "learned" / "1")
    refused = running.cli("publish", folder, code=1)
    assert "model.pkl is a pickle by its name" in refused.stderr
    assert "FAIRLEAD_ALLOW_PICKLE=1" in refused.stderr
    # Published elsewhere, where it was allowed: this node does not load it all the same.
    running.environment |= ALLOWED
    try:
        running.cli("publish", folder)
    finally:
        del running.environment["FAIRLEAD_ALLOW_PICKLE"]
    release = str(running.directory / "learned.json")
    applying = subprocess.Popen(
        [*FAIRLEAD, "apply", release, "--home", str(running.home)],
        stderr=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
    )

    def reason() -> str:
        status = json.loads(running.cli("status", "--json", code=None).stdout)
        rows = [row for row in status["revisions"] if row["service"] == "learned"]
        return str(rows[0]["why"]) if rows and "pickle" in rows[0]["why"] else ""

    try:
        why = until(reason, 30, "the status says why it is not served")
    finally:
        applying.kill()
        applying.wait(10)
    assert "model.pkl is a pickle by its name" in why
    assert ask(running, "hi") == 200


def test_a_pickle_that_a_models_code_loads_is_stopped_and_told_in_its_log(
    running: Fairlead,
) -> None:
    answer = running.ask("/v1/model/hidden/predict", "load")
    assert answer.status == 500
    assert b"PickleRefused" in answer.body
    logged = "".join(path.read_text() for path in worker_logs(running))
    assert "the model's code loads a pickle that names collections.OrderedDict" in logged
    assert "FAIRLEAD_ALLOW_PICKLE" in logged
    assert ask(running, "hi") == 200


@pytest.mark.slow
def test_with_leave_a_scikit_learn_pickle_serves(tmp_path: Path) -> None:
    folder = pickled_project(tmp_path)
    port = free_port()
    log = tmp_path / "serve.log"
    with log.open("w") as output:
        process = subprocess.Popen(
            [*FAIRLEAD, "serve", str(folder), "--port", str(port)],
            stderr=output,
            stdout=output,
            env={**os.environ, **ALLOWED},
        )
    try:
        until(lambda: "is loaded and proved" in log.read_text(), 60, "it serves")
        url = f"http://127.0.0.1:{port}/v1/model/learned/predict"
        answer = until(
            lambda: httpx.post(url, json=[0.0, 1.0], timeout=10, verify=NO_TLS), 10, "it answers"
        )
        assert (answer.status_code, answer.json()) == (200, 0)
    finally:
        process.terminate()
        process.wait(20)


def test_nobody_else_may_enter_the_home_or_read_a_secret(running: Fairlead) -> None:
    assert running.home.stat().st_mode & 0o777 == 0o700
    secrets = (running.key.encode(), b"token-of-the-uptime-service")
    holding = [
        path
        for path in running.home.rglob("*")
        if path.is_file() and any(one in path.read_bytes() for one in secrets)
    ]
    kept = {"keys.json", "rds.json", "rds.pb", "demo-key"}
    assert kept <= {path.name for path in holding}
    assert [path for path in holding if path.stat().st_mode & 0o077] == []
    assert {path.parent.name for path in holding if path.name not in kept} <= {"workers"}


def test_no_process_has_a_key_in_its_arguments_or_its_environment(running: Fairlead) -> None:
    key = running.key
    running.environment["FAIRLEAD_API_KEY"] = key
    try:
        assert running.cli("predict", "hidden", '"hi"').returncode == 0
    finally:
        del running.environment["FAIRLEAD_API_KEY"]
    processes = running.processes()
    assert len(processes) >= 4
    for process in processes:
        assert key not in " ".join(process.cmdline())
        assert key not in process.environ().values()


def test_sockets_are_this_users_and_only_the_gateway_listens_on_tcp(running: Fairlead) -> None:
    listening = set()
    for process in running.processes():
        try:
            unix, tcp = process.net_connections("unix"), process.net_connections("inet")
        except psutil.NoSuchProcess:  # one that has ended since listens nowhere
            continue
        for one in unix:
            path = Path(str(one.laddr))
            if path.is_socket() and "fairlead-" in str(path):
                assert path.parent.stat().st_mode & 0o777 == 0o700
                assert path.stat().st_mode & 0o077 == 0
        listening |= {one.laddr for one in tcp if one.status == psutil.CONN_LISTEN}
    assert {(one.ip, one.port) for one in listening} == {("127.0.0.1", running.port)}


def test_what_a_model_says_does_not_steer_the_operators_terminal(running: Fairlead) -> None:
    assert ask(running, "steer") == 500
    shown = running.cli("logs", "--all").stdout + running.cli("logs", "--all", "--json").stdout
    assert "the model's code failed" in shown
    assert "\x1b" not in shown + running.told()


def test_a_models_log_is_kept_short(running: Fairlead) -> None:
    assert ask(running, "flood") == 200

    def short() -> bool:
        logs = worker_logs(running)
        kept = any(path.suffix == ".1" for path in logs)
        return kept and all(path.stat().st_size <= 33 << 20 for path in logs)

    until(short, 10, "the worker's log is short again")
    assert ask(running, "hi") == 200


@pytest.mark.slow
def test_a_server_without_keys_says_so_beyond_loopback(tmp_path: Path) -> None:
    folder = project(tmp_path, "hidden", HIDDEN, "hi", "well")
    for host, told in (("0.0.0.0", True), ("127.0.0.1", False)):
        log = tmp_path / f"{host}.log"
        with log.open("w") as output:
            process = subprocess.Popen(
                [*FAIRLEAD, "serve", str(folder), "--host", host, "--port", str(free_port())],
                stderr=output,
                stdout=output,
            )
        try:
            until(lambda log=log: "listening on" in log.read_text(), 30, "it listens")
        finally:
            process.terminate()
            process.wait(20)
        assert ("keys are the gateway's" in log.read_text()) is told
