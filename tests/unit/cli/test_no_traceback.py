"""Whatever lies in a home, every command ends with words: its files damaged one after another."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from fairlead.cli.guard import guarded
from fairlead.cli.main import COMMANDS, cli
from fairlead.control import releases
from fairlead.domain.explanations import UNEXPECTED
from fairlead.wiring.homes import open_home, read_releases
from support.models import echo_artifact

RELEASE = "service: echo\nmodel: v1\nversion: '1'\nartifact: echo/1\n"

Outcome = tuple[int, str]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with a model, a release, a key, and the leavings of processes."""
    directory = tmp_path_factory.mktemp("whole")
    control = open_home(directory / "home", create=True)
    artifact = echo_artifact(directory / "artifact")
    control.artifacts.publish(artifact.manifest, artifact.directory)
    (directory / "release.yaml").write_text(RELEASE)
    sourced = read_releases([directory / "release.yaml"])
    releases.apply(control.catalogs, control.artifacts, control.clock, sourced)
    secret = control.keys.create("demo")
    control.home.demo_key.write_text(secret)
    control.home.logs.mkdir()
    (control.home.logs / "agent.jsonl").write_text('{"event": "x", "message": "y"}\n')
    for path in (control.home.node_status, control.home.gateway_status, control.home.running):
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps({"schema": 1, "pid": 1, "started": 1, "boot": "x"}))
    return directory


@pytest.fixture
def call(
    whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Outcome]:
    monkeypatch.setenv("TMPDIR", str(tmp_path))

    def called(*arguments: str) -> Outcome:
        code = guarded(lambda: cli.main(list(arguments), standalone_mode=False))
        told = capsys.readouterr()
        return code, told.out + told.err

    return called


@pytest.fixture
def home(whole: Path, tmp_path: Path) -> Path:
    shutil.copytree(whole, tmp_path, dirs_exist_ok=True)
    return tmp_path / "home"


CALLS = [
    ("status",),
    ("status", "--json"),
    ("models", "ls"),
    ("models", "ls", "--json"),
    ("models", "show", "echo/1"),
    ("models", "prune", "--dry-run"),
    ("models", "rm", "echo/1"),
    ("revisions",),
    ("revisions", "echo/v1", "--json"),
    ("bump", "{release}", "--dry-run"),
    ("verify", "{release}"),
    ("plan", "{release}"),
    ("apply", "{release}", "--no-wait"),
    ("keys", "ls"),
    ("keys", "create", "other"),
    ("keys", "rotate", "demo"),
    ("keys", "rotate", "demo", "--overlap", "1h"),
    ("keys", "limit", "demo", "--rate", "5/s"),
    ("keys", "kill", "demo", "--message", "moved"),
    ("keys", "revive", "demo"),
    ("keys", "revoke", "demo"),
    ("pin", "echo", "v1"),
    ("traffic", "echo", "v1", "1=100"),
    ("kill", "echo"),
    ("revive", "echo"),
    ("predict", "echo"),
    ("predict", "echo", '{"text": "a"}'),
    ("logs",),
    ("rollouts",),
    ("why", "rollout"),
    ("rollout", "--abort", "echo-1"),
    ("say", "hello", "-o", "/nowhere/x.mp3"),
    ("delete", "echo", "--yes", "--no-wait"),
    ("models", "prune", "--keep", "0"),
]
FILES = [
    "home.json",
    "store/catalog/head",
    "store/catalog/0*.json",
    "store/artifacts/echo/1.json",
    "store/blobs/sha256/*",
    "gateway/keys.json",
    "demo-key",
    "up.json",
    "node/status.json",
    "gateway/status.json",
    "logs/agent.jsonl",
]
QUICK = ("bytes", "object", "text", "gone")  # the others are in `make slow`
DAMAGE: dict[str, bytes | None] = {
    "empty": b"",
    "bytes": b"\xff\xfe\x00garbage",
    "list": b"[]",
    "object": b"{}",
    "null": b"null",
    "schema": b'{"schema": 1}',
    "newer": b'{"schema": 99}',
    "text": b'{"schema": "1", "pid": "x", "keys": [1], "catalog": 3}',
    "deep": b"[" * 100_000,
    "gone": None,
}


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    "damage",
    [pytest.param(one, marks=[] if one in QUICK else [pytest.mark.slow]) for one in DAMAGE],
)
@pytest.mark.parametrize("pattern", FILES)
def test_no_damaged_file_of_a_home_ends_a_command_without_words(
    home: Path, call: Callable[..., Outcome], pattern: str, damage: str
) -> None:
    content = DAMAGE[damage]
    paths = list(home.glob(pattern))
    assert paths
    for arguments in CALLS:
        for path in paths:
            path.unlink(missing_ok=True)
            if content is not None:
                path.write_bytes(content)
        told = _told(call, home, arguments)
        assert told[0] in (0, 1), (arguments, told)


@pytest.mark.parametrize(
    "kind",
    ["directory", *(pytest.param(one, marks=pytest.mark.slow) for one in ("loop", "dangling"))],
)
@pytest.mark.parametrize("pattern", FILES)
def test_nothing_else_in_a_files_place_does_either(
    home: Path, call: Callable[..., Outcome], pattern: str, kind: str
) -> None:
    path = next(home.glob(pattern))
    path.unlink()
    if kind == "directory":
        path.mkdir()
    else:
        path.symlink_to(path if kind == "loop" else home / "nowhere")
    for arguments in CALLS:
        told = _told(call, home, arguments)
        assert told[0] in (0, 1), (arguments, told)


@pytest.mark.parametrize(
    "what", ["missing", "file", "empty", "full", "below a file", "loop", "long"]
)
def test_whatever_is_named_as_a_home_is_told(
    tmp_path: Path, home: Path, call: Callable[..., Outcome], what: str
) -> None:
    root = tmp_path / "other"
    if what == "file":
        root.write_text("x")
    elif what == "empty":
        root.mkdir()
    elif what == "full":
        root.mkdir()
        (root / "x").touch()
    elif what == "below a file":
        root.write_text("x")
        root = root / "home"
    elif what == "loop":
        root.symlink_to(root)
    elif what == "long":
        root = tmp_path / ("x" * 300)
    for arguments in CALLS:
        if what in ("missing", "empty") and arguments[:2] == ("keys", "create"):
            continue  # makes a home
        code, told = _told(call, root, arguments)
        assert code in (1, 2), (arguments, told)
        assert "error" in told.lower()


def test_every_command_is_called_or_left_out_for_a_reason() -> None:
    # These run a process, or have their own tests.
    elsewhere = {
        "up",
        "agent",
        "gateway",
        "worker",
        "serve",
        "publish",
        "init",
        "docs",
        "validate",
        "doctor",
        "completion",
    }
    assert {arguments[0] for arguments in CALLS} | elsewhere >= set(COMMANDS)


def _told(call: Callable[..., Outcome], home: Path, arguments: tuple[str, ...]) -> Outcome:
    release = str(home.parent / "release.yaml")
    named = [part.replace("{release}", release) for part in arguments]
    code, told = call(*named, "--home", str(home))
    assert code != UNEXPECTED, (arguments, told)
    assert "Traceback" not in told
    return code, told
