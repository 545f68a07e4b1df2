"""Real children: started again, ended in order, and never left behind."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from fairlead.kits.clock import FakeClock, SystemClock
from fairlead.kits.supervise import Child, ChildSpec, Supervisor, ending, life_pipe
from support.effort import PATIENCE
from support.running import until

IGNORES = "import signal; signal.signal(15, signal.SIG_IGN); open(sys.argv[1]+'.ready','w'); time.sleep(60)"
WRITES_PID = "import os,sys,time; open(sys.argv[1],'a').write(f'{os.getpid()}\\n'); "


def child(tmp_path: Path, program: str, **options: object) -> Child:
    command = [sys.executable, "-c", WRITES_PID + program, str(tmp_path / "pids")]
    return Child(ChildSpec("child", command, dict(os.environ), tmp_path / "out", **options))  # type: ignore[arg-type]


def pids(tmp_path: Path) -> list[int]:
    path = tmp_path / "pids"
    return [int(line) for line in path.read_text().split()] if path.exists() else []


@asynccontextmanager
async def supervised(one: Child, told: list[str]) -> AsyncIterator[Supervisor]:
    read, write = life_pipe()
    supervisor = Supervisor(SystemClock(), read, told.append)
    try:
        async with asyncio.TaskGroup() as group:
            running = group.create_task(supervisor.run(one))
            yield supervisor
            await supervisor.stop(one)
            await asyncio.wait_for(running, 5 * PATIENCE)
    finally:
        os.close(read)
        os.close(write)


async def when(condition, seconds: float = 5.0) -> None:
    await asyncio.to_thread(until, condition, seconds, "the condition")


async def test_a_child_that_dies_is_started_again(tmp_path: Path) -> None:
    told: list[str] = []
    one = child(tmp_path, "time.sleep(60)")
    async with supervised(one, told):
        await when(lambda: pids(tmp_path))
        os.kill(pids(tmp_path)[0], 9)
        await when(lambda: len(pids(tmp_path)) == 2)
    assert told == ["child ended (killed by SIGKILL); starting it again"]
    assert not any(Path(f"/proc/{pid}").exists() for pid in pids(tmp_path))


async def test_a_code_that_no_start_would_mend_ends_it(tmp_path: Path) -> None:
    told: list[str] = []
    one = child(tmp_path, "sys.exit(78)", fatal_codes=frozenset({78}))
    async with supervised(one, told):
        await when(lambda: one.failed is not None)
    assert one.failed == 78
    assert len(pids(tmp_path)) == 1
    assert told == []


async def test_a_child_that_does_not_end_is_ended(tmp_path: Path) -> None:
    told: list[str] = []
    one = child(tmp_path, IGNORES, stop_seconds=0.3)
    async with supervised(one, told):
        await when((tmp_path / "pids.ready").exists)
    assert told == ["child did not end within 0.3 s; killed"]
    assert not Path(f"/proc/{pids(tmp_path)[0]}").exists()


async def test_a_child_that_was_told_to_end_while_it_was_started_is_ended_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []
    one = child(tmp_path, IGNORES, stop_seconds=0.3)
    start = asyncio.create_subprocess_exec

    async def slowly(*args: Any, **kwargs: Any) -> asyncio.subprocess.Process:
        process = await start(*args, **kwargs)
        await one.stopping.wait()
        return process

    monkeypatch.setattr(asyncio, "create_subprocess_exec", slowly)
    async with supervised(one, told):
        await when((tmp_path / "pids.ready").exists)
    assert told == ["child did not end within 0.3 s; killed"]
    assert not Path(f"/proc/{pids(tmp_path)[0]}").exists()


async def test_children_hold_a_pipe_that_closes_with_their_parent(tmp_path: Path) -> None:
    reads = "fd=int(sys.argv[2]); os.read(fd, 1); open(sys.argv[1]+'.gone','w')"
    read, write = life_pipe()
    command = [sys.executable, "-c", WRITES_PID + reads, str(tmp_path / "pids"), str(read)]
    one = Child(ChildSpec("child", command, dict(os.environ), tmp_path / "out", frozenset({0})))
    async with asyncio.TaskGroup() as group:
        group.create_task(Supervisor(SystemClock(), read, print).run(one))
        await when(lambda: pids(tmp_path))
        os.close(write)
        await when((tmp_path / "pids.gone").exists)
    os.close(read)


def test_endings_are_told_in_words() -> None:
    assert (ending(3), ending(-9), ending(-99)) == (
        "exit code 3",
        "killed by SIGKILL",
        "exit code -99",
    )


async def test_one_that_ran_well_is_started_again_after_the_first_pause(tmp_path: Path) -> None:
    told: list[str] = []
    one = child(tmp_path, "time.sleep(60)")
    clock = FakeClock()
    read, write = life_pipe()
    supervisor = Supervisor(clock, read, told.append)
    try:
        async with asyncio.TaskGroup() as group:
            running = group.create_task(supervisor.run(one))
            for number in range(1, 5):  # else the pauses would be 0.2, 0.4, 0.8 … s by now
                await when(lambda number=number: len(pids(tmp_path)) == number)
                clock.advance(3600)
                os.kill(pids(tmp_path)[-1], 9)
            await when(lambda: len(pids(tmp_path)) == 5)
            # A child may have written down its number before its start is over here.
            await when(lambda: one.pid == pids(tmp_path)[-1])
            await supervisor.stop(one)
            await asyncio.wait_for(running, 5 * PATIENCE)
    finally:
        os.close(read)
        os.close(write)
    assert one.pid == 0


async def test_one_that_is_stopped_between_two_starts_is_not_started_again(tmp_path: Path) -> None:
    one = child(tmp_path, "sys.exit(3)")
    read, write = life_pipe()
    try:
        ended = Supervisor(SystemClock(), read, lambda _: one.stopping.set())
        await asyncio.wait_for(ended.run(one), 5 * PATIENCE)
    finally:
        os.close(read)
        os.close(write)
    assert len(pids(tmp_path)) == 1


async def test_one_that_is_stopped_while_it_starts_ends_at_once(tmp_path: Path) -> None:
    told: list[str] = []
    one = child(tmp_path, "time.sleep(60)")
    read, write = life_pipe()
    try:
        async with asyncio.TaskGroup() as group:
            running = group.create_task(Supervisor(SystemClock(), read, told.append).run(one))
            await asyncio.sleep(0)  # it is being started now
            one.stopping.set()
            await asyncio.wait_for(running, 5 * PATIENCE)
    finally:
        os.close(read)
        os.close(write)
    assert one.starts == 1
    assert told == []
