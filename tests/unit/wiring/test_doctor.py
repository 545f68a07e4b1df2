"""`fairlead doctor`: each fault is planted for real and found; where none is, nothing is found."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from fairlead.agent import records
from fairlead.cli.guard import guarded
from fairlead.cli.main import cli
from fairlead.control import releases
from fairlead.domain.findings import Finding
from fairlead.domain.ids import RevisionId
from fairlead.domain.status import (
    GatewayStatus,
    NodeStatus,
    Replica,
    State,
    gateway_status_to_bytes,
    node_status_to_bytes,
)
from fairlead.kits import files, processes
from fairlead.kits.clock import SystemClock
from fairlead.kits.interpreter import built_without_optimisations
from fairlead.wiring.doctor import artifacts, home as homes, machine
from fairlead.wiring.doctor.run import careful, home_checks
from fairlead.wiring.homes import Control, open_home, read_releases
from support.models import Artifact, echo_artifact

RELEASE = "service: echo\nmodel: v1\nversion: '1'\nartifact: echo/1\n"


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return echo_artifact(tmp_path_factory.mktemp("artifact") / "echo")


@pytest.fixture
def control(
    artifact: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Control]:
    """A home in order: a model, a release, a key, a verified copy."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", "/tmp")
    made = open_home(tmp_path / "home", create=True)
    made.artifacts.publish(artifact.manifest, artifact.directory)
    (tmp_path / "release.yaml").write_text(RELEASE)
    sourced = read_releases([tmp_path / "release.yaml"])
    releases.apply(made.catalogs, made.artifacts, made.clock, sourced)
    made.keys.create("demo")
    shutil.copytree(artifact.directory, made.home.artifact(artifact.digest))
    shutil.rmtree(made.home.artifact(artifact.digest) / "__pycache__", ignore_errors=True)
    made.home.sockets.mkdir(mode=0o700, parents=True)
    yield made
    shutil.rmtree(made.home.sockets)


def one(found: list[Finding]) -> Finding:
    (finding,) = found
    assert finding.why
    assert finding.mend
    return finding


def sleeper() -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])


def examined(*arguments: str, capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    code = guarded(lambda: cli.main(["doctor", *arguments], standalone_mode=False))
    return code, capsys.readouterr().out


def test_an_old_python_is_found() -> None:
    assert "Python 3.10" in one(machine.python((3, 10), slow=False)).wrong
    assert machine.python(sys.version_info[:2], slow=False) == []


def test_a_python_that_was_built_without_optimisations_is_told_of() -> None:
    found = one(machine.python(sys.version_info[:2], slow=True))
    assert found.optional
    assert "--enable-optimizations" in found.wrong


@pytest.mark.parametrize(
    ("configured", "prefix", "slow"),
    [
        ("'--prefix=/home/me/.pyenv/versions/3.11.7' '--enable-shared'", "/home/me/.pyenv", True),
        ("", "/usr/local", True),
        ("'--enable-optimizations' '--with-lto'", "/usr/local", False),
        ("'--enable-shared' '--prefix=/usr'", "/usr", False),
        (None, "C:\\Python311", False),
    ],
)
def test_how_a_python_was_built_is_seen(configured: str | None, prefix: str, slow: bool) -> None:
    assert built_without_optimisations(configured, prefix) is slow


def test_a_library_that_is_missing_or_crashes_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "crashes.py").write_text("import os\nos.kill(os.getpid(), 11)\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    missing, crashed = machine.libraries(["json", "not_there", "crashes", "csv"])
    assert "not_there cannot be used: ModuleNotFoundError" in missing.wrong
    assert "crashes cannot be used: it ended the process (code -11)" in crashed.wrong


@pytest.mark.parametrize(
    ("script", "mode", "told"),
    [
        ("echo version: x/1.40.0/Clean", 0o755, None),
        ("echo version: x/1.30.0/Clean", 0o755, "x/1.30.0/Clean"),
        ("echo no GLIBC_2.28 >&2; exit 1", 0o755, "no GLIBC_2.28"),
        ("exit 0", 0o644, "Permission denied"),
    ],
)
def test_an_envoy_that_does_not_run_is_found(
    tmp_path: Path, script: str, mode: int, told: str | None
) -> None:
    binary = tmp_path / "envoy"
    binary.write_text(f"#!/bin/sh\n{script}\n")
    binary.chmod(mode)
    found = machine.envoy(binary)
    assert (told is None and found == []) or told in one(found).wrong  # type: ignore[operator]
    assert "No such file" in one(machine.envoy(tmp_path / "none")).wrong


def test_too_little_of_anything_is_found(tmp_path: Path) -> None:
    assert "256 files only" in one(machine.descriptors(256)).wrong
    assert machine.descriptors(-1) == machine.descriptors(1 << 20) == []
    room, nodes = machine.disk(tmp_path, 1 << 20, 5)
    assert "1 MiB are free" in room.wrong
    assert "5 files can still be made" in nodes.wrong
    assert machine.disk(tmp_path, 1 << 40, None) == []
    assert "3 MiB of memory" in one(machine.memory(3 << 20)).wrong
    assert "No such file" in one(machine.temporary(tmp_path / "none")).wrong
    assert machine.temporary(tmp_path) == machine.room(tmp_path / "a" / "b") == []


@pytest.mark.enable_socket
def test_a_port_that_is_taken_is_found_with_a_free_one() -> None:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        number = holder.getsockname()[1]
        found = one(machine.port("127.0.0.1", number))
        assert "Address already in use" in found.wrong
        assert f"sport = :{number}" in found.mend
        free = int(found.mend.rpartition("--port ")[2])
    assert machine.port("127.0.0.1", free) == []


def test_a_clock_that_was_set_back_is_found() -> None:
    now = SystemClock().now()
    assert "before 2026" in one(machine.clock(86_400.0, None)).wrong
    assert "3600 s in the future" in one(machine.clock(now, now + 3600)).wrong
    assert machine.clock(now, now - 5) == []


def test_what_a_checkout_lacks_is_found(tmp_path: Path) -> None:
    assert machine.tools(tmp_path, "") == []
    (tmp_path / "bench").mkdir()
    (tmp_path / "bench" / "run.py").touch()
    (tmp_path / "Makefile").touch()
    found = machine.tools(tmp_path, str(tmp_path))
    assert [one.wrong for one in found if one.optional] == ["wrk is not installed"]


def test_a_directory_that_takes_no_file_is_found(control: Control) -> None:
    assert homes.writable(control.home) == []
    shutil.rmtree(control.home.store / "catalog")
    (control.home.store / "catalog").write_text("not a directory")
    assert (
        f"{control.home.store}/catalog cannot be written" in one(homes.writable(control.home)).wrong
    )


@pytest.mark.parametrize(
    ("number", "findings", "mend"),
    [
        (errno.ENOSPC, 1, "free some room; what is large here: du -xh "),
        (errno.EDQUOT, 1, "free some room; what is large here: du -xh "),
        (errno.EROFS, 5, "see how it is mounted: findmnt -T "),
        (errno.EACCES, 5, "run: sudo chown -R $(id -u) "),
        (errno.ENOTDIR, 5, "restore the home from a backup"),
    ],
)
def test_what_is_told_to_do_mends_what_is_wrong(
    control: Control, monkeypatch: pytest.MonkeyPatch, number: int, findings: int, mend: str
) -> None:
    def refused(path: Path, *_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number), str(path))

    for path in (control.home.gateway, control.home.root / "node"):
        path.mkdir(exist_ok=True)
    monkeypatch.setattr(homes.files, "write_atomic", refused)
    found = homes.writable(control.home)
    assert [one.mend.startswith(mend) for one in found] == [True] * findings


@pytest.mark.timeout(20)
def test_who_holds_the_stores_lock_is_found(control: Control) -> None:
    lock = control.home.store / ".lock"
    code = f"import fcntl; f = open({str(lock)!r}, 'ab'); fcntl.flock(f, 2); print(1, flush=True); input()"
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as holder:
        assert holder.stdout is not None
        holder.stdout.readline()
        found = one(homes.store_lock(control.home, SystemClock()))
        assert f"pid {holder.pid} (" in found.wrong
        assert found.mend == f"end it: kill {holder.pid}"
        holder.kill()
    assert homes.store_lock(control.home, SystemClock()) == []


def test_what_dead_processes_left_is_found(control: Control) -> None:
    home = control.home
    home.running.write_text(json.dumps({"pid": 1, "started": 1, "boot": "x"}))
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(home.sockets / "w1.sock"))
    record, stale = homes.leavings(home)
    assert f"rm {home.running}" in record.mend
    assert stale.mend == f"run: rm {home.sockets / 'w1.sock'}"
    with socket.socket(socket.AF_UNIX) as alive:
        (home.sockets / "w1.sock").unlink()
        alive.bind(str(home.sockets / "w1.sock"))
        alive.listen()
        home.running.unlink()
        assert homes.leavings(home) == []


def test_processes_that_nobody_leads_are_found(control: Control, artifact: Artifact) -> None:
    home = control.home
    with sleeper() as process:
        who = processes.identify(process.pid)
        assert who is not None
        record = records.announce(home, artifact.spec())
        records.started(home, record, who)
        files.write_atomic(home.envoy_process, json.dumps(processes.to_record(who)).encode())
        worker, envoy = homes.leavings(home)
        assert f"worker w1 (pid {process.pid}, echo/v1.1) runs without an agent" in worker.wrong
        assert f"kill {process.pid}" in envoy.mend
        handles = [files.try_lock(home.agent_lock), files.try_lock(home.gateway_lock)]
        assert homes.leavings(home) == []
        for handle in handles:
            assert handle is not None
            os.close(handle)
        process.send_signal(signal.SIGKILL)
    assert homes.leavings(home) == []


def test_secrets_that_others_can_read_are_found(control: Control) -> None:
    home = control.home
    assert homes.permissions(home) == []
    home.keys.chmod(0o644)
    home.sockets.chmod(0o755)
    secrets, sockets = homes.permissions(home)
    assert secrets.mend == f"run: chmod 600 {home.keys}"
    assert sockets.mend == f"run: chmod 700 {home.sockets}"
    for finding in (secrets, sockets):
        subprocess.run(finding.mend.removeprefix("run: ").split(), check=True, timeout=10)
    assert homes.permissions(home) == []
    for name in ("rds.json", "bootstrap.json", "rds/rds.pb", "sds/sds.json"):
        told = home.envoy / name  # what Envoy is told holds the keys too
        told.parent.mkdir(parents=True, exist_ok=True)
        told.touch(mode=0o644)
        assert one(homes.permissions(home)).mend == f"run: chmod 600 {told}"
        told.unlink()
    home.envoy_process.touch(mode=0o644)
    assert homes.permissions(home) == [], "who Envoy is may be known"
    if os.getuid() == 0:
        os.chown(home.keys, 12345, -1)
        assert "belongs to user 12345" in one(homes.permissions(home)).wrong


def test_an_agent_that_has_fallen_silent_is_found(control: Control) -> None:
    home, now = control.home, SystemClock().now()
    status = NodeStatus("n", now - 60, os.getpid(), 1, ())
    home.node_status.write_bytes(node_status_to_bytes(status))
    assert homes.statuses(home, now) == []  # it does not run: an old word is no fault
    handle = files.try_lock(home.agent_lock)
    assert handle is not None
    assert "has said nothing for 60 s" in one(homes.statuses(home, now)).wrong
    home.node_status.write_bytes(b"{")
    assert "cannot be read" in one(homes.statuses(home, now)).wrong
    os.close(handle)


def test_a_process_whose_socket_was_removed_is_found(control: Control) -> None:
    home = control.home
    assert homes.reachable(home) == []
    handle = files.try_lock(home.gateway_lock)
    assert handle is not None
    assert "the gateway runs, and its socket" in one(homes.reachable(home)).wrong
    home.front_socket.touch()
    assert homes.reachable(home) == []
    os.close(handle)


def test_what_agent_and_gateway_say_is_wrong_is_found(control: Control) -> None:
    home, now = control.home, SystemClock().now()
    node = NodeStatus("n", now, os.getpid(), 1, (), problem="the store cannot be read: gone")
    gateway = GatewayStatus(now, 1, 1, "", (), {}, {}, problem="the routes stay as they were: why")
    assert homes.problems(home, now) == []
    home.node_status.write_bytes(node_status_to_bytes(node))
    home.gateway_status.write_bytes(gateway_status_to_bytes(gateway))
    assert [found.wrong for found in homes.problems(home, now)] == [
        "the agent says: the store cannot be read: gone",
        "the gateway says: the routes stay as they were: why",
    ]
    assert homes.problems(home, now + 60) == []  # an old word
    home.node_status.write_bytes(b"{")
    home.gateway_status.write_bytes(b"{")
    assert homes.problems(home, now) == []


def test_a_worker_that_a_run_holds_is_found(control: Control) -> None:
    home, now = control.home, SystemClock().now()
    there = Replica(
        "w1", RevisionId("echo", "v1", "1"), "d", State.READY, "", "/w", 4321, held_since=now - 40
    )
    status = NodeStatus("n", now, os.getpid(), 1, (there,))
    home.node_status.write_bytes(node_status_to_bytes(status))
    found = one(homes.held_workers(home, now))
    assert found.wrong == (
        "worker w1 (pid 4321, echo/v1.1): a run has gone on for 40 s; nobody else is answered"
    )
    assert "kill -9 4321" in found.mend
    assert homes.held_workers(home, now + 60) == []  # an old word
    home.node_status.write_bytes(b"{")
    assert homes.held_workers(home, now) == []


def _found(control: Control, *, deep: bool) -> list[Finding]:
    catalog = control.catalogs.read()
    return [
        *artifacts.in_store(catalog, control.artifacts, control.store, deep=deep),
        *artifacts.on_node(control.home, deep=deep),
    ]


def test_a_damaged_artifact_is_found(control: Control, artifact: Artifact) -> None:
    assert _found(control, deep=True) == []
    file = next(one for one in artifact.manifest.files if one.path == "suffix.txt")
    blob = control.home.store / "blobs" / "sha256" / file.sha256
    copy = control.home.artifact(artifact.digest) / file.path
    for path in (blob, copy):
        path.write_bytes(b"?" * file.size)
    assert _found(control, deep=False) == []
    store, node = _found(control, deep=True)
    assert "echo/1: suffix.txt has other bytes in the store" in store.wrong
    assert f"{copy} is not what was published" in node.wrong
    assert f"rm -r {copy.parent}" in node.mend
    blob.write_bytes(b"")
    assert "has 0 bytes in the store, not 1" in _found(control, deep=False)[0].wrong
    blob.unlink()
    assert "is not in the store" in _found(control, deep=False)[0].wrong
    assert control.artifacts.publish(artifact.manifest, artifact.directory) == "repaired"
    shutil.rmtree(copy.parent)
    assert _found(control, deep=True) == []


def test_an_artifact_that_is_gone_or_another_is_found(control: Control, tmp_path: Path) -> None:
    path = control.home.store / "artifacts" / "echo" / "1.json"
    other = echo_artifact(tmp_path / "other", "?")
    path.write_bytes((other.directory / "manifest.json").read_bytes())
    assert "the catalog means" in one(_found(control, deep=False)).wrong
    path.unlink()
    assert "the store has no artifact echo/1" in one(_found(control, deep=False)).wrong


@pytest.mark.timeout(60)
@pytest.mark.enable_socket
def test_a_home_in_order_has_nothing_wrong_and_a_fault_gives_the_exit_code(
    control: Control,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    unused_tcp_port: int,
) -> None:
    monkeypatch.setenv("FAIRLEAD_PORT", str(unused_tcp_port))
    root = str(control.home.root)
    before = sorted(control.home.root.rglob("*"))
    code, told = examined("--home", root, "--deep", "--json", capsys=capsys)
    document = json.loads(told)
    assert [one for one in document["wrong"] if not one["optional"]] == []
    assert code == 0
    assert "local artifacts" in document["looked"]
    assert sorted(control.home.root.rglob("*")) == before
    control.home.keys.write_text(json.dumps({"schema": 1, "keys": {}}))
    (control.home.store / "catalog" / "head").write_text("{")
    code, told = examined("--home", root, capsys=capsys)
    assert code == 1
    assert "! keys: catalog/head: is not JSON" in told
    assert "! artifacts: catalog/head: is not JSON" in told
    assert "things are wrong" in told


@pytest.mark.timeout(60)
@pytest.mark.enable_socket
def test_a_wrong_environment_and_a_home_that_is_none_are_found(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAIRLEAD_PROT", "1")
    code, told = examined("--home", str(tmp_path / "none"), capsys=capsys)
    assert code == 1
    assert "! environment: environment: FAIRLEAD_PROT: is no setting" in told
    assert "there is no home at" in told


@pytest.mark.parametrize("content", [b"\xff", b"{}", b"[" * 100_000, None])
@pytest.mark.parametrize(
    ("pattern", "matters"),
    [
        ("store/catalog/head", True),
        ("store/catalog/0*.json", True),
        ("store/artifacts/echo/1.json", True),
        ("gateway/keys.json", True),
        ("node/status.json", False),
        ("up.json", False),
        ("node/artifacts/*/manifest.json", True),
    ],
)
def test_whatever_a_file_holds_it_is_looked_at(
    control: Control, pattern: str, matters: bool, content: bytes | None
) -> None:
    for path in control.home.root.glob(pattern):
        path.unlink()
        if content is not None:
            path.write_bytes(content)
    fresh = open_home(control.home.root)
    found = [
        finding for name, check in home_checks(fresh, deep=True) for finding in careful(name, check)
    ]
    assert not [one for one in found if "could not be looked at" in one.wrong]
    empty = pattern == "store/catalog/head" and content is None  # a new store has no head
    assert found or not matters or empty
