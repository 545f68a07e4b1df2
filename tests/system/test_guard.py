"""No traceback reaches a user: streams that break, signals at any moment, files that are no text, broken installations."""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from support.running import FAIRLEAD

CODE = """
import sys
from fairlead.cli.guard import guarded
{}
sys.exit(guarded(command))
"""


def run(
    *arguments: str | bytes, cwd: Path, code: int | None = None, **environment: str
) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [*FAIRLEAD, *arguments],
        cwd=cwd,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        errors="surrogateescape",
        timeout=60,
        check=False,
    )
    assert "Traceback" not in done.stderr + done.stdout
    assert code is None or done.returncode == code, done
    return done


def guarded(command: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", CODE.format(command)],
        cwd=cwd,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


def shell(line: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    text = line.replace("fairlead", f"{sys.executable} -m fairlead")
    return subprocess.run(
        ["bash", "-c", text], cwd=cwd, capture_output=True, text=True, timeout=60, check=False
    )


def test_an_unexpected_error_is_one_line_and_its_details_are_kept(tmp_path: Path) -> None:
    done = guarded("def command(): raise RuntimeError('a\\nb')", tmp_path, TMPDIR=str(tmp_path))
    assert done.returncode == 70
    (line,) = done.stderr.splitlines()
    assert line.startswith("error[internal]: RuntimeError: a b; this is a fault of Fairlead: ")
    (kept,) = tmp_path.glob("fairlead-error-*.txt")
    assert str(kept) in line
    assert "Traceback" in kept.read_text()
    assert "Fairlead 0." in kept.read_text()


def test_details_that_cannot_be_kept_are_no_second_error(tmp_path: Path) -> None:
    command = (
        "import tempfile; tempfile.tempdir = '/nowhere'\ndef command(): raise RuntimeError('a')"
    )
    done = guarded(command, tmp_path)
    assert done.returncode == 70
    assert done.stderr.splitlines() == [
        "error[internal]: RuntimeError: a; this is a fault of Fairlead: its details could not be kept "
        "(No such file or directory)"
    ]


@pytest.mark.parametrize(
    ("raised", "code", "told"),
    [
        ("KeyboardInterrupt()", 130, "interrupted"),
        (
            "ExceptionGroup('', [KeyError(1), Refused(Kind.CONFLICT, 'no')])",
            1,
            "error[conflict]: no",
        ),
        ("BaseExceptionGroup('', [KeyboardInterrupt()])", 130, "interrupted"),
        (
            "OSError(28, 'No space left on device', 'x')",
            1,
            "error[system]: x: No space left on device",
        ),
        ("OSError(28, 'No space left on device', b'\\xff')", 1, "error[system]: \\udcff: No space"),
        ("MemoryError()", 70, "error[internal]: MemoryError:;"),
        ("UnicodeDecodeError('utf-8', b'x', 0, 1, 'y')", 70, "error[internal]: UnicodeDecodeError"),
    ],
)
def test_every_error_ends_as_a_line_and_a_code(
    tmp_path: Path, raised: str, code: int, told: str
) -> None:
    imports = "from fairlead.domain.errors import Kind, Refused\n"
    done = guarded(f"{imports}def command(): raise {raised}", tmp_path, TMPDIR=str(tmp_path))
    assert done.returncode == code
    assert done.stderr.startswith(told)
    assert len(done.stderr.splitlines()) == 1


def test_who_reads_the_output_may_leave_at_any_time(tmp_path: Path) -> None:
    for line in (
        "fairlead docs release | head -n 1",
        "fairlead docs release | true",
        "fairlead --help | true",
        "fairlead validate nothing.yaml 2>&1 | true",
    ):
        done = shell(line, tmp_path)
        assert done.stderr == "", line
    done = shell("set -o pipefail; fairlead docs release | sleep 0", tmp_path)
    assert done.returncode in (0, 1, 141)


def test_a_full_disk_behind_the_output_is_told(tmp_path: Path) -> None:
    done = shell("fairlead docs release > /dev/full", tmp_path)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].endswith("No space left on device")
    assert done.stderr.startswith("error[system]: ")
    assert shell("fairlead validate nothing.yaml 2> /dev/full", tmp_path).returncode == 1


@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&-", ">&- 2>&- <&-"])
def test_closed_streams_are_no_error(tmp_path: Path, closed: str) -> None:
    assert "Traceback" not in shell(f"fairlead docs release {closed}", tmp_path).stderr
    done = shell(f"fairlead validate nothing.yaml {closed}", tmp_path)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr


def test_file_names_and_files_that_are_no_text_are_told(tmp_path: Path) -> None:
    name = b"\xff.yaml"
    assert "is not there" in run("validate", name, cwd=tmp_path, code=1).stderr
    (Path(os.fsdecode(bytes(tmp_path) + b"/" + name))).write_bytes(b"model: v1\n")
    assert "version: is missing" in run("validate", name, cwd=tmp_path, code=1).stderr
    assert "version: is missing" in run("validate", name, cwd=tmp_path, code=1, LC_ALL="C").stderr
    (tmp_path / "a.yaml").write_bytes(b"\xff\xfe")
    assert "is not UTF-8" in run("validate", "a.yaml", cwd=tmp_path, code=1).stderr
    (tmp_path / "in").write_bytes(b"\xff")
    home = ["--home", str(tmp_path / "h")]
    run("keys", "create", "a", *home, cwd=tmp_path, code=0)
    assert "is not UTF-8" in run("predict", "x", "@in", *home, cwd=tmp_path, code=2).stderr
    assert "no key" not in run("keys", "create", b"\xff", *home, cwd=tmp_path, code=1).stdout


def test_a_directory_that_is_gone_or_may_not_be_written_is_told(tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    line = f"cd {gone} && rmdir {gone} && fairlead status"
    done = shell(line, tmp_path)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    done = run("keys", "create", "a", "--home", "/proc/fairlead", cwd=tmp_path, code=1)
    assert done.stderr.startswith("error[")
    done = run("init", "/proc/fairlead", cwd=tmp_path, code=1)
    assert done.stderr.startswith("error[system]: /proc/fairlead")


@pytest.mark.parametrize(
    "environment",
    [
        {"FAIRLEAD_PORT": "9" * 5000},
        {"FAIRLEAD_PORT": "²"},
        {"FAIRLEAD_HOME": "/dev/null"},
        {"FAIRLEAD_HOME": "x" * 5000},
        {"FAIRLEAD_SERVING_UVICORN_HTTP_PORT": "x"},
        {"TMPDIR": "/nowhere", "XDG_RUNTIME_DIR": "/nowhere"},
    ],
    ids=lambda value: "".join(value)[:30],
)
def test_a_wrong_environment_is_told(tmp_path: Path, environment: dict[str, str]) -> None:
    done = run("status", cwd=tmp_path, code=1, **environment)
    assert done.stderr.startswith("error[") or "error[" in done.stderr
    assert "error[internal]" not in done.stderr


def test_a_broken_installation_is_an_unexpected_error_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "yaml.py").write_text("raise RuntimeError('this is not the yaml you want')\n")
    path = f"{tmp_path}:{os.environ.get('PYTHONPATH', '')}"
    done = run("validate", "x.yaml", cwd=tmp_path, code=70, PYTHONPATH=path, TMPDIR=str(tmp_path))
    assert "error[internal]: RuntimeError: this is not the yaml you want" in done.stderr


@pytest.mark.slow
def test_ctrl_c_at_any_moment_is_at_most_one_word(tmp_path: Path) -> None:
    home = ["--home", str(tmp_path / "h")]
    run("keys", "create", "a", *home, cwd=tmp_path, code=0)
    for milliseconds in range(0, 300, 30):
        process = subprocess.Popen(
            [sys.executable, "-c", START, *FAIRLEAD[1:], "logs", "-f", *home],
            cwd=tmp_path,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert process.stdout is not None
        assert process.stdout.readline() == "started\n"
        time.sleep(milliseconds / 1000)
        process.send_signal(signal.SIGINT)
        try:
            _, errors = process.communicate(timeout=20)
        finally:
            process.kill()  # one that did not end must not outlive its test
            process.communicate()
        assert "Traceback" not in errors, (milliseconds, errors)
        assert process.returncode in (130, -signal.SIGINT), (milliseconds, errors)


def test_ctrl_c_in_a_finalizer_is_not_lost(tmp_path: Path) -> None:
    command = """
import signal, time
from fairlead.cli.guard import keep_interrupts
class Last:
    def __del__(self):
        signal.raise_signal(signal.SIGINT)
        for _ in range(3):
            pass
def command():
    Last()
    for _ in range(2000):
        time.sleep(0.01)
signal.signal(signal.SIGINT, signal.default_int_handler)  # whoever runs the tests may ignore it
keep_interrupts()
"""
    done = guarded(command, tmp_path)
    assert (done.returncode, done.stderr) == (130, "interrupted\n")


# From the first line of ours on: what happens while Python itself starts is not in our hands.
START = """
import runpy, signal, sys

class Ours:
    def find_spec(self, name, path=None, target=None):
        if name == "fairlead.cli":
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})

signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
print("started", flush=True)
sys.meta_path.insert(0, Ours())
sys.argv = sys.argv[2:]
runpy.run_module("fairlead", run_name="__main__", alter_sys=True)
"""


def test_a_model_that_is_not_json_is_told(tmp_path: Path) -> None:
    folder = tmp_path / "m"
    folder.mkdir()
    (folder / "model.yaml").write_text("name: m\nversion: 1\nengine: python\n")
    (folder / "model.py").write_bytes(b"\xff\x00")
    (folder / "golden.json").write_text(json.dumps({"examples": [{"request": 1, "response": 1}]}))
    done = run("publish", "m", "--home", str(tmp_path / "h"), cwd=tmp_path, code=1)
    assert "model.py" in done.stderr
    (folder / "golden.json").write_text("[" * 100_000)
    done = run("publish", "m", "--home", str(tmp_path / "h"), cwd=tmp_path, code=1)
    assert "golden.json: is not JSON" in done.stderr


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with a home in which a model is published and applied."""
    directory = tmp_path_factory.mktemp("project")
    run("init", ".", cwd=directory, code=0)
    run("publish", "models/reading-time/1", cwd=directory, code=0)
    run("apply", "releases/reading-time.yaml", cwd=directory, code=0)
    return directory


def test_a_log_that_cannot_be_written_is_not_taken_for_the_models_end(
    project: Path, tmp_path: Path
) -> None:
    home = tmp_path / "home"
    where = ("--home", str(home))
    run("keys", "create", "app", *where, cwd=project, code=0)
    (home / "logs" / "publish.jsonl").mkdir(parents=True)
    done = run("publish", "models/reading-time/1", *where, cwd=project, code=0)
    assert "publish.jsonl cannot be written (Is a directory)" in done.stderr
    assert "the model ended the process" not in done.stderr
    assert "reading-time/1" in run("models", "ls", *where, cwd=project, code=0).stdout


READS = [
    ("status",),
    ("models", "ls"),
    ("models", "show", "reading-time/1"),
    ("plan", "releases/reading-time.yaml"),
    ("validate", "releases/reading-time.yaml"),
    ("keys", "ls"),
    ("logs",),
]
WRITES = [
    ("keys", "create", "x"),
    ("pin", "reading-time", "v1"),
    ("kill", "reading-time"),
    ("publish", "models/reading-time/1"),
    ("apply", "other.yaml"),
    ("up",),
    ("serve", "models/reading-time/1"),
    ("init", "new"),
]


def _other(project: Path) -> None:
    text = (project / "releases" / "reading-time.yaml").read_text()
    (project / "other.yaml").write_text(text.replace('version: "1"', 'version: "2"'))


@pytest.mark.slow
def test_with_a_full_disk_what_reads_works_and_what_writes_is_told(project: Path) -> None:
    _other(project)

    def full(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*FAIRLEAD, *arguments],
            cwd=project,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
            preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0)),
        )

    for arguments in READS:
        done = full(*arguments)
        assert "error[" not in done.stderr, done
        assert done.returncode == (1 if arguments == ("status",) else 0)
    for arguments in WRITES:
        done = full(*arguments)
        assert done.returncode == 1, done
        assert "error[system]: " in done.stderr, done
        assert "Traceback" not in done.stderr
    assert "temporary" in full("doctor").stdout
    assert not list((project / "new").rglob("*.*"))


def _without_power() -> list[str]:
    """What takes root's right to read and write everything away; nothing to do for anybody else."""
    if os.getuid() != 0:
        return []
    setpriv = shutil.which("setpriv")
    if setpriv is None:
        pytest.skip("root may do everything, and setpriv is not installed")
    return [setpriv, "--bounding-set=-dac_override,-dac_read_search", "--inh-caps=-all"]


@pytest.mark.parametrize("mode", [0o500, 0o000], ids=["read-only", "closed"])
@pytest.mark.slow
def test_a_home_that_may_not_be_written_or_read_is_told(
    project: Path, tmp_path: Path, mode: int
) -> None:
    powerless = _without_power()
    mine = tmp_path / "project"
    shutil.copytree(project, mine)
    _other(mine)
    home = mine / ".fairlead"
    for path in (*home.rglob("*"), home):
        if path.is_dir():
            path.chmod(mode)
    try:
        for arguments in [*READS[:2], *WRITES[:1], *WRITES[3:6], ("doctor",)]:
            named = () if arguments[0] == "validate" else ("--home", str(home))
            done = subprocess.run(
                [*powerless, *FAIRLEAD, *arguments, *named],
                cwd=mine,
                capture_output=True,
                text=True,
                timeout=60,
                check=False,
            )
            assert "Traceback" not in done.stderr
            assert "error[internal]" not in done.stderr
            assert done.returncode in (0, 1)
            if mode == 0 and arguments[0] not in ("validate", "doctor"):
                assert f"error[system]: {home}" in done.stderr, done
            if arguments[0] == "doctor":
                assert ("cannot be written" if mode else "Permission denied") in done.stdout
                assert "chmod" in done.stdout or not mode
    finally:
        home.chmod(0o700)
        for path in home.rglob("*"):
            if path.is_dir():
                path.chmod(0o700)


def test_a_home_whose_name_is_no_text_is_refused(tmp_path: Path) -> None:
    done = run("keys", "create", "x", "--home", os.fsdecode(b"h\xff"), cwd=tmp_path, code=1)
    assert "is not UTF-8, which Envoy cannot read; name another directory" in done.stderr
