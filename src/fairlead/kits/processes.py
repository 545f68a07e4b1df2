"""Processes by certain identity: a pid alone may have been given to somebody else since.

A `ProcessId` is a pid together with when that process started and in which boot of the machine, so a
record written before a crash or a reboot never leads to a stranger. Ends are learned from a pidfd,
which works for any process, not only for our children. Linux only.
"""

from __future__ import annotations

import contextlib
import os
import resource
import signal
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_PROC = Path("/proc")
_STATE = 2  # fields of /proc/<pid>/stat after the name, counted as proc(5) does from 1
_START_TIME = 22


@dataclass(frozen=True, slots=True)
class ProcessId:
    """One process: its pid, its start in clock ticks since boot, and the boot."""

    pid: int
    started: int
    boot: str


def to_record(process: ProcessId) -> dict[str, int | str]:
    """An identity as a file holds it."""
    return {"pid": process.pid, "started": process.started, "boot": process.boot}


def from_record(record: Mapping[str, Any]) -> ProcessId:
    """The identity a file holds; raises KeyError or TypeError if it holds none."""
    pid, started = record["pid"], record["started"]
    if not isinstance(pid, int) or not isinstance(started, int):
        raise TypeError("pid and started are whole numbers")
    return ProcessId(pid, started, str(record["boot"]))


@dataclass(frozen=True, slots=True)
class Exit:
    """How a process ended. Both None: it was not our child, so the kernel does not tell."""

    code: int | None = None
    signal: int | None = None

    def __str__(self) -> str:
        if self.signal is not None:
            return f"killed by {_signal_name(self.signal)}"
        return "ended" if self.code is None else f"exit code {self.code}"


def identify(pid: int) -> ProcessId | None:
    """Who has this pid now; None if nobody has, or only a zombie that nobody has waited for."""
    fields = _stat(pid)
    return None if fields is None or fields[0] in "ZX" else _identity(pid, fields)


def alive(process: ProcessId) -> bool:
    """Does exactly this process still run?"""
    return identify(process.pid) == process


def resident_bytes(process: ProcessId) -> int | None:
    """How much memory exactly this process has in use; None if it has ended."""
    try:
        pages = int((_PROC / str(process.pid) / "statm").read_text().split()[1])
    except (OSError, ValueError, IndexError):
        return None
    return pages * resource.getpagesize() if alive(process) else None


def private_bytes(process: ProcessId) -> int | None:
    """How much memory exactly this process has to itself: not backed by files, which others may share."""
    try:
        lines = (_PROC / str(process.pid) / "status").read_text(errors="replace").splitlines()
        size = next(int(line.split()[1]) for line in lines if line.startswith("RssAnon:"))
    except (OSError, ValueError, IndexError, StopIteration):
        return None
    return size * 1024 if alive(process) else None


def holds_open(pid: int, path: Path) -> bool:
    """Has the process with this pid that very file open? A lock file tells a process from a stranger.

    False too for a process of another user, of which nobody may know.
    """
    try:
        wanted = path.stat()
        handles = list((_PROC / str(pid) / "fd").iterdir())
    except OSError:
        return False
    for handle in handles:
        with contextlib.suppress(OSError):  # closed meanwhile
            if os.path.samestat(handle.stat(), wanted):
                return True
    return False


def find_by_argument(argument: str) -> ProcessId | None:
    """The first process of this machine that has `argument` among its command-line arguments."""
    wanted = argument.encode()
    for entry in _PROC.iterdir():
        if not entry.name.isdecimal():
            continue
        with contextlib.suppress(OSError):
            if wanted in (entry / "cmdline").read_bytes().split(b"\0"):
                return identify(int(entry.name))
    return None


def find_holder(path: Path) -> ProcessId | None:
    """The first process of this machine, of those we may look into, that has this file open."""
    for entry in _PROC.iterdir():
        if entry.name.isdecimal() and int(entry.name) != os.getpid():
            pid = int(entry.name)
            if holds_open(pid, path):
                return identify(pid)
    return None


def reaped(pid: int) -> bool:
    """Has this child of ours ended, and been waited for? True too for one that is none."""
    try:
        return os.waitpid(pid, os.WNOHANG)[0] != 0
    except ChildProcessError:
        return True


def send_signal(process: ProcessId, number: signal.Signals) -> bool:
    """Signal exactly this process; False if it has ended. A stranger with its pid is never hit."""
    with _pidfd(process) as handle:
        if handle is None or not alive(process):
            return False
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(handle, number)
            return True
        return False  # pragma: no cover - it ended between the two calls


async def wait_exit(process: ProcessId) -> Exit:
    """Wait, without polling, until all of this process has ended; reaps it if it is our child.

    A process of several threads that was killed may be a zombie while some of them still end.
    """
    with _pidfd(process) as handle:
        if handle is not None:
            await _readable(handle)
    return _reap(process.pid)


async def wait_closed(handle: int) -> None:
    """Wait until the other end of a pipe is closed: how a process learns that its owner has died."""
    while True:
        await _readable(handle)
        # Nobody writes into a life pipe; should something come nevertheless, it is not the end. Another
        # process that shares the pipe may have made it non-blocking and read first.
        with contextlib.suppress(BlockingIOError):
            if not os.read(handle, 4096):
                return


async def _readable(handle: int) -> None:
    import asyncio  # noqa: PLC0415 - who waits like this has it; who only looks at processes need not

    loop = asyncio.get_running_loop()
    waiting: asyncio.Future[None] = loop.create_future()

    def wake() -> None:
        if not waiting.done():  # pragma: no branch - the loop may wake a reader twice
            waiting.set_result(None)

    # A descriptor can have one reader in a loop, so each waiter brings its own copy.
    own = os.dup(handle)
    try:
        loop.add_reader(own, wake)
        try:
            await waiting
        finally:
            loop.remove_reader(own)
    finally:
        os.close(own)


@contextlib.contextmanager
def _pidfd(process: ProcessId) -> Iterator[int | None]:
    try:
        handle = os.pidfd_open(process.pid)
    except ProcessLookupError:
        yield None
        return
    try:
        # The descriptor now holds on to whoever has the pid; only then is it asked who that is.
        yield handle if _known(process) else None
    finally:
        os.close(handle)


def _reap(pid: int) -> Exit:
    try:
        done, status = os.waitpid(pid, os.WNOHANG)
    except ChildProcessError:
        return Exit()
    if done == 0:  # pragma: no cover - another waiter was told of a child that has not ended
        return Exit()
    code = os.waitstatus_to_exitcode(status)
    return Exit(signal=-code) if code < 0 else Exit(code=code)


def _known(process: ProcessId) -> bool:
    """Has exactly this process the pid, be it as a zombie?"""
    fields = _stat(process.pid)
    return fields is not None and _identity(process.pid, fields) == process


def _identity(pid: int, fields: list[str]) -> ProcessId:
    return ProcessId(pid, int(fields[_START_TIME - _STATE - 1]), _boot())


def _stat(pid: int) -> list[str] | None:
    try:
        text = (_PROC / str(pid) / "stat").read_text(errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return None
    # The name may hold spaces and brackets; everything after the last bracket is plain.
    return text.rpartition(")")[2].split()


def _boot() -> str:
    return (_PROC / "sys/kernel/random/boot_id").read_text().strip()


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
