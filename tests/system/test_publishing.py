"""Publishing models whose code does what it should not: each ends with a line, and with nothing published."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from pathlib import Path

import psutil
import pytest

from support.running import FAIRLEAD, until

LOADS = "class Model:\n    def load(self, directory):\n        {}\n"
ANSWERS = "class Model:\n"
PREDICT = "    def predict(self, request: int) -> int:\n        {}\n        return request\n"


def folder(directory: Path, *, at_import: str = "", load: str = "pass", predict: str = "") -> Path:
    directory.mkdir()
    (directory / "model.yaml").write_text("name: bad\nversion: 1\nengine: python\n")
    (directory / "golden.json").write_text(
        json.dumps({"examples": [{"request": 1, "response": 1}]})
    )
    code = f"import os, signal, sys, time, ctypes\n{at_import}\n"
    (directory / "model.py").write_text(
        code + LOADS.format(load) + PREDICT.format(predict or "pass")
    )
    return directory


def publish(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    home = folder.parent / ".fairlead"
    return subprocess.run(
        [*FAIRLEAD, "publish", str(folder), "--home", str(home), *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize(
    ("where", "code", "told"),
    [
        ("at_import", "os._exit(0)", "ended the process it was checked in (exit code 0)"),
        ("load", "os._exit(3)", "ended the process it was checked in (exit code 3)"),
        ("predict", "os._exit(78)", "ended the process it was checked in (exit code 78)"),
        ("load", "ctypes.string_at(0)", "(killed by SIGSEGV)"),
        ("predict", "os.kill(os.getpid(), signal.SIGKILL)", "(killed by SIGKILL)"),
        ("at_import", "sys.exit(3)", "model.py, line 2: SystemExit: 3"),
        ("predict", "raise KeyboardInterrupt", "KeyboardInterrupt"),
        ("load", "raise ValueError('no weights')", "model.py, line 5: ValueError: no weights"),
    ],
)
def test_whatever_a_model_does_is_told_in_a_line(
    tmp_path: Path, where: str, code: str, told: str
) -> None:
    done = publish(folder(tmp_path / "m", **{where: code}))  # type: ignore[arg-type]
    assert done.returncode == 1
    assert told in done.stderr
    assert "Traceback" not in done.stderr
    assert not list((tmp_path / ".fairlead").glob("store/artifacts/**/*.json"))


@pytest.mark.parametrize("code", ["time.sleep(60)", "ctypes.PyDLL(None).sleep(60)"])
def test_a_model_that_hangs_is_ended_even_where_it_never_comes_back_to_python(
    tmp_path: Path, code: str
) -> None:
    began = time.monotonic()
    done = publish(folder(tmp_path / "m", load=code), "--timeout", "2")
    assert done.returncode == 1
    assert "took longer than 2 s: give --timeout" in done.stderr
    assert time.monotonic() - began < 20


def test_what_a_model_prints_is_no_data_and_what_it_logged_is_kept(tmp_path: Path) -> None:
    bad = folder(tmp_path / "m", load="print('hello')", predict="raise ValueError('a detail')")
    done = publish(bad)
    assert done.stdout == ""
    assert "hello" in done.stderr
    assert "a detail" not in done.stderr
    log = tmp_path / ".fairlead" / "logs" / "publish.jsonl"
    assert f"what the model's code said is in {log}" in done.stderr
    assert "a detail" in log.read_text()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
@pytest.mark.slow
def test_no_child_outlives_a_publish_that_is_ended(tmp_path: Path, number: int) -> None:
    mark = tmp_path / "loading"
    hangs = folder(tmp_path / "m", load=f"open({str(mark)!r}, 'w'); ctypes.PyDLL(None).sleep(60)")
    process = subprocess.Popen(
        [*FAIRLEAD, "publish", str(hangs), "--home", str(tmp_path / ".fairlead")],
        stderr=subprocess.PIPE,
        text=True,
    )
    until(mark.exists, 20, "the model loads")
    children = psutil.Process(process.pid).children(recursive=True)
    assert children
    process.send_signal(number)
    _, errors = process.communicate(timeout=15)
    assert "Traceback" not in errors
    until(lambda: not any(map(_runs, children)), 10, "the child ended too")


def _runs(process: psutil.Process) -> bool:
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
