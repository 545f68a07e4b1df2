"""Knowing processes by certain identity, and learning of their ends."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from fairlead.kits import processes
from fairlead.kits.processes import Exit, ProcessId
from support.effort import PATIENCE

Start = Callable[..., "subprocess.Popen[bytes]"]


@pytest.fixture
def start() -> Iterator[Start]:
    children: list[subprocess.Popen[bytes]] = []

    def run(code: str, *arguments: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-S", "-c", code, *arguments]
        child = subprocess.Popen(command, stdin=subprocess.PIPE)
        children.append(child)
        return child

    yield run
    for child in children:
        child.kill()
        child.wait()
        if child.stdin is not None:
            child.stdin.close()


WAITS = "import sys; sys.stdin.read()"


def known(child: subprocess.Popen[bytes]) -> ProcessId:
    process = processes.identify(child.pid)
    assert process is not None
    return process


async def ended(process: ProcessId) -> Exit:
    async with asyncio.timeout(5 * PATIENCE):
        return await processes.wait_exit(process)


def test_a_process_keeps_its_identity(start: Start) -> None:
    process = known(start(WAITS))
    assert processes.alive(process)
    assert processes.identify(process.pid) == process
    assert process != processes.identify(os.getpid())


@pytest.mark.parametrize("change", [{"started": 1}, {"boot": "another"}])
def test_another_process_with_the_same_pid_is_a_stranger(
    start: Start, change: dict[str, object]
) -> None:
    child = start(WAITS)
    stranger = replace(known(child), **change)  # type: ignore[arg-type]
    assert not processes.alive(stranger)
    assert not processes.send_signal(stranger, signal.SIGKILL)
    assert child.poll() is None


async def test_the_end_of_a_child_is_told_with_its_exit_code(start: Start) -> None:
    child = start("import sys; sys.stdin.read(); sys.exit(7)")
    process = known(child)
    async with asyncio.TaskGroup() as group:
        waiting = group.create_task(ended(process))
        await asyncio.sleep(0)
        assert child.stdin is not None
        child.stdin.close()
    assert waiting.result() == Exit(code=7)
    assert not processes.alive(process)


async def test_a_killed_child_is_told_with_its_signal(start: Start) -> None:
    process = known(start(WAITS))
    assert processes.send_signal(process, signal.SIGKILL)
    assert str(await ended(process)) == "killed by SIGKILL"


async def test_several_may_wait_for_the_same_end(start: Start) -> None:
    process = known(start(WAITS))
    async with asyncio.TaskGroup() as group:
        waits = [group.create_task(ended(process)) for _ in range(3)]
        await asyncio.sleep(0)
        processes.send_signal(process, signal.SIGTERM)
    assert [wait.done() for wait in waits] == [True] * 3


async def test_the_end_of_a_process_that_is_long_gone_is_told_at_once() -> None:
    assert await ended(ProcessId(2**22 + 1, 1, "never")) == Exit()
    assert str(Exit()) == "ended"
    assert str(Exit(code=2)) == "exit code 2"
    assert str(Exit(signal=99)) == "killed by signal 99"


async def test_the_end_of_a_process_that_is_not_our_child_is_told_too(start: Start) -> None:
    child = start(
        "import subprocess, sys\n"
        "inner = subprocess.Popen([sys.executable, '-S', '-c', 'import time; time.sleep(60)'], start_new_session=True)\n"
        "print(inner.pid, file=open(sys.argv[1] if len(sys.argv) > 1 else '/dev/stderr', 'w'), flush=True)\n"
        "sys.stdin.read()"
    )
    inner = await _first_child_of(child.pid)
    assert processes.alive(inner)
    async with asyncio.TaskGroup() as group:
        waiting = group.create_task(ended(inner))
        await asyncio.sleep(0)
        assert processes.send_signal(inner, signal.SIGKILL)
    assert waiting.result() == Exit()


async def _first_child_of(pid: int) -> ProcessId:
    path = Path(f"/proc/{pid}/task/{pid}/children")
    async with asyncio.timeout(5 * PATIENCE):
        while not (text := path.read_text()):  # noqa: ASYNC110 - the kernel sets no event
            await asyncio.sleep(0.01)
    process = processes.identify(int(text.split()[0]))
    assert process is not None
    return process


def test_a_zombie_is_not_alive(start: Start) -> None:
    child = start("pass")
    process = processes.identify(child.pid)
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert processes.identify(child.pid) is None
    assert process is None or not processes.alive(process)


async def _zombie(pid: int) -> None:
    """Wait until the first thread of a process has ended and nobody has waited for it."""
    stat = Path(f"/proc/{pid}/stat")
    async with asyncio.timeout(5 * PATIENCE):
        while stat.read_text().rpartition(")")[2].split()[0] != "Z":  # noqa: ASYNC110 - the kernel sets no event
            await asyncio.sleep(0.01)


async def test_a_process_has_not_ended_while_a_thread_of_it_still_runs(start: Start) -> None:
    child = start(
        "import ctypes, os, sys, threading\n"
        "def run():\n"
        "    sys.stdin.read()\n"
        "    os._exit(7)\n"
        "threading.Thread(target=run).start()\n"
        "ctypes.CDLL(None).pthread_exit(None)"
    )
    process = known(child)
    await _zombie(child.pid)
    async with asyncio.TaskGroup() as group:
        waiting = group.create_task(ended(process))
        await asyncio.sleep(0.05)
        assert not waiting.done()
        assert child.stdin is not None
        child.stdin.close()
    assert waiting.result() == Exit(code=7)


async def test_a_child_that_has_already_ended_is_reaped(start: Start) -> None:
    child = start("import sys; sys.stdin.read(); sys.exit(7)")
    process = known(child)
    assert child.stdin is not None
    child.stdin.close()
    await _zombie(child.pid)
    assert not processes.send_signal(process, signal.SIGKILL)
    assert await ended(process) == Exit(code=7)


def test_a_process_is_known_by_a_file_it_holds_open(start: Start, tmp_path: Path) -> None:
    lock = tmp_path / "lock"
    assert not processes.holds_open(os.getpid(), lock), "there is no such file"
    with lock.open("w"):
        assert processes.holds_open(os.getpid(), lock)
        assert not processes.holds_open(start(WAITS).pid, lock)
        assert not processes.holds_open(2**22 + 1, lock)
    assert not processes.holds_open(os.getpid(), lock)


async def test_a_process_is_found_by_an_argument_of_its_own(start: Start, tmp_path: Path) -> None:
    mark = str(tmp_path / "spec")
    child = start(WAITS, "--spec", mark)
    async with asyncio.timeout(5 * PATIENCE):
        # Its arguments are there only a moment after its program is.
        while (found := processes.find_by_argument(mark)) is None:  # noqa: ASYNC110 - the kernel sets no event
            await asyncio.sleep(0.01)
    assert found == known(child)
    assert processes.find_by_argument(f"{mark}x") is None


async def test_a_closed_life_pipe_is_noticed_and_what_is_written_into_it_is_not() -> None:
    read, write = os.pipe()
    try:
        async with asyncio.TaskGroup() as group:
            waiting = group.create_task(processes.wait_closed(read))
            os.write(write, b"still here")
            await asyncio.sleep(0.05)
            assert not waiting.done()
            os.close(write)
            async with asyncio.timeout(2 * PATIENCE):
                await waiting
    finally:
        os.close(read)


def test_a_process_memory_is_known_while_it_lives(start: Start) -> None:
    me = processes.identify(os.getpid())
    assert me is not None
    size = processes.resident_bytes(me)
    assert size is not None
    assert 1 << 20 < size < 1 << 34
    own = processes.private_bytes(me)
    assert own is not None
    assert 1 << 20 < own < size
    for bytes_of in (processes.resident_bytes, processes.private_bytes):
        assert bytes_of(replace(me, started=1)) is None
    child = start(WAITS)
    identity = processes.identify(child.pid)
    assert identity is not None
    child.kill()
    child.wait()
    for bytes_of in (processes.resident_bytes, processes.private_bytes):
        assert bytes_of(identity) is None


async def test_a_child_is_reaped_once_it_has_ended(start: Start) -> None:
    child = start(WAITS)
    assert not processes.reaped(child.pid)
    os.kill(child.pid, signal.SIGKILL)
    await _zombie(child.pid)
    assert processes.reaped(child.pid)
    assert processes.reaped(child.pid), "it is no child any more"
