"""The launcher against the real thing: processes of this machine."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import psutil
import pytest
import uvloop

from fairlead.adapters.processes import ProcessLauncher
from fairlead.api.worker import WorkerSpec, specs_to_json
from fairlead.domain.errors import FairleadError
from fairlead.domain.ids import RevisionId
from fairlead.kits.processes import Exit, ProcessId
from support.effort import PATIENCE

SPEC = WorkerSpec(
    "0123abcd", RevisionId("digits", "v1", "1"), Path("/nowhere"), "sha256:" + "0" * 64
)


@dataclass
class Machine:
    """Starts scripts as workers and ends them all."""

    directory: Path
    started: list[tuple[ProcessLauncher, ProcessId]] = field(default_factory=list)

    @property
    def log(self) -> Path:
        return self.directory / "logs" / "worker.jsonl"

    @property
    def spec_file(self) -> Path:
        return self.directory / "0123abcd.spec"

    def start(self, code: str, life_fd: int | None = None) -> tuple[ProcessLauncher, ProcessId]:
        launcher = ProcessLauncher([sys.executable, "-S", "-c", code], {"GREETING": "hello"})
        spec = WorkerSpec(SPEC.worker, SPEC.revision, SPEC.artifact, SPEC.digest, life_fd=life_fd)
        process = launcher.start([spec], self.spec_file, self.log)
        self.started.append((launcher, process))
        return launcher, process


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    found = Machine(tmp_path)
    yield found
    for launcher, process in found.started:
        if launcher.signal(process, signal.SIGKILL):
            os.waitpid(process.pid, 0)


@pytest.fixture(params=[asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def runner(request: pytest.FixtureRequest) -> Iterator[asyncio.Runner]:
    """The agent runs on uvloop; anybody else may not."""
    with asyncio.Runner(loop_factory=request.param) as found:
        yield found


async def end_of(launcher: ProcessLauncher, process: ProcessId) -> Exit:
    async with asyncio.timeout(5 * PATIENCE):
        return await launcher.wait(process)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(5 * PATIENCE):
        while not condition():  # noqa: ASYNC110 - another process sets no event of ours
            await asyncio.sleep(0.01)


def test_a_worker_gets_its_spec_its_environment_and_a_session_of_its_own(
    machine: Machine, runner: asyncio.Runner
) -> None:
    code = "import os, sys; print(sys.argv[1:], dict(os.environ), os.getsid(0) == os.getpid(), sys.stdin.read() == '')"
    launcher, process = machine.start(code)
    assert runner.run(end_of(launcher, process)) == Exit(code=0)
    said = machine.log.read_text()
    assert said.startswith(f"['--spec', '{machine.spec_file}'] {{'GREETING': 'hello'")
    assert said.endswith("True True\n")
    assert "PATH" not in said


def test_what_it_prints_while_it_crashes_is_in_its_log(
    machine: Machine, runner: asyncio.Runner
) -> None:
    launcher, process = machine.start("raise SystemExit('no such model')")
    assert runner.run(end_of(launcher, process)) == Exit(code=1)
    assert machine.log.read_text() == "no such model\n"


def test_a_kill_is_noticed_at_once_and_told(machine: Machine, runner: asyncio.Runner) -> None:
    launcher, process = machine.start("import time; time.sleep(60)")

    async def scenario() -> float:
        loop = asyncio.get_running_loop()
        async with asyncio.TaskGroup() as group:
            waiting = group.create_task(end_of(launcher, process))
            await asyncio.sleep(0.05)
            began = loop.time()
            os.kill(process.pid, signal.SIGKILL)
            assert str(await waiting) == "killed by SIGKILL"
            return loop.time() - began

    assert runner.run(scenario()) < 0.5
    assert not launcher.alive(process)
    assert not launcher.signal(process, signal.SIGTERM)


def test_only_the_life_pipe_is_inherited_and_its_end_is_seen(
    machine: Machine, runner: asyncio.Runner
) -> None:
    read, write = os.pipe()
    secret = os.open("/dev/null", os.O_RDONLY)
    code = (
        "import os; found = map(int, os.listdir('/proc/self/fd'));"
        "print(sorted(n for n in found if os.path.exists(f'/proc/self/fd/{n}')), flush=True);"
        f"os.read({read}, 1); print('alone')"
    )
    try:
        launcher, process = machine.start(code, life_fd=read)
        runner.run(until(lambda: machine.log.exists() and machine.log.read_text() != ""))
        assert machine.log.read_text() == f"[0, 1, 2, {read}]\n"
        assert launcher.alive(process)
        os.close(write)
        assert runner.run(end_of(launcher, process)) == Exit(code=0)
        assert machine.log.read_text().endswith("alone\n")
    finally:
        os.close(read)
        os.close(secret)


def test_a_worker_is_found_again_by_its_spec_file(machine: Machine, runner: asyncio.Runner) -> None:
    launcher, process = machine.start("import time; time.sleep(60)")
    another = ProcessLauncher([sys.executable], {})
    runner.run(until(lambda: another.find(machine.spec_file) == process))
    launcher.signal(process, signal.SIGTERM)
    runner.run(end_of(launcher, process))
    assert launcher.find(machine.spec_file) is None


def test_a_command_that_is_not_there_is_a_clear_error(tmp_path: Path) -> None:
    launcher = ProcessLauncher(["/no/such/python"], {})
    with pytest.raises(
        FairleadError, match=r"worker 0123abcd cannot be started: /no/such/python: No such"
    ):
        launcher.start([SPEC], tmp_path / "spec", tmp_path / "log")


SPARE = """
import json, os, sys, time
told = sys.stdin.readline() if sys.argv[1:] == ["--spare"] else ""
if told:
    told = json.loads(told)
    spec = open(told["spec"])
    open(told["log"], "a").write("serves " + spec.read())
    time.sleep(60)
"""


def warm(code: str) -> ProcessLauncher:
    return ProcessLauncher([sys.executable, "-S", "-c", code], {"GREETING": "hello"})


def spares() -> set[int]:
    """The children of this process that wait to be told whom they serve."""
    found = set()
    for child in psutil.Process().children():
        with contextlib.suppress(psutil.Error):
            if "--spare" in child.cmdline() and child.status() != psutil.STATUS_ZOMBIE:
                found.add(child.pid)
    return found


async def test_a_spare_worker_is_the_next_one_that_is_started(machine: Machine) -> None:
    launcher = warm(SPARE)
    machine.spec_file.write_text("digits")
    launcher.keep_spare(None, wanted=True)
    await until(lambda: len(spares()) == 1)
    launcher.keep_spare(None, wanted=True)
    (spare,) = spares()
    process = launcher.start([SPEC], machine.spec_file, machine.log)
    machine.started.append((launcher, process))
    assert process.pid == spare
    await until(lambda: machine.log.exists() and machine.log.read_text() == "serves digits")
    assert launcher.find(machine.spec_file) == process, "found by the file it holds open"
    launcher.keep_spare(None, wanted=True)
    await until(lambda: len(spares()) == 2)
    launcher.keep_spare(None, wanted=False)
    await until(lambda: spares() == {spare})
    other = launcher.start([SPEC], machine.spec_file, machine.log)
    machine.started.append((launcher, other))
    assert other.pid != spare, "without a spare one a worker is started as ever"


async def test_a_spare_worker_that_has_died_is_not_waited_for(machine: Machine) -> None:
    launcher = warm("import sys; sys.exit(1)")
    for _ in range(10):
        launcher.keep_spare(None, wanted=True)
        await until(lambda: not spares())
    process = launcher.start([SPEC], machine.spec_file, machine.log)
    machine.started.append((launcher, process))
    assert await end_of(launcher, process) == Exit(code=1)
    launcher.keep_spare(None, wanted=False)


@pytest.mark.timeout(60)
async def test_a_real_spare_worker_becomes_the_worker_it_is_told_to_be(machine: Machine) -> None:
    command = [sys.executable, "-m", "fairlead", "worker"]
    launcher = ProcessLauncher(command, {"PATH": os.defpath, "PYTHONPATH": ":".join(sys.path)})
    spec = replace(SPEC, socket=machine.directory / "w.sock")
    machine.spec_file.write_text(specs_to_json([spec]))
    launcher.keep_spare(None, wanted=True)
    await until(lambda: len(spares()) == 1)
    process = launcher.start([spec], machine.spec_file, machine.log)
    machine.started.append((launcher, process))
    async with asyncio.timeout(30):
        assert await launcher.wait(process) == Exit(code=1)
    assert "manifest.json cannot be read" in machine.log.read_text()
