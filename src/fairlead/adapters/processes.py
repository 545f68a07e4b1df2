"""Worker processes of this machine.

A worker gets a session of its own, so that neither Ctrl-C in a terminal nor the end of its agent
reaches it, the environment wiring built, and of our descriptors only the life pipe.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from fairlead.api.worker import WorkerSpec
from fairlead.domain.errors import FairleadError
from fairlead.kits import processes
from fairlead.kits.processes import Exit, ProcessId

LOG_FLAGS = os.O_WRONLY | os.O_CREAT | os.O_APPEND
LOG_MODE = 0o600  # what a model prints may quote what it was asked
_LOST = 3  # spares that end by themselves in a row: then there is none any more
_STANDARD = 3  # descriptors every process has

_Action = tuple[int, int] | tuple[int, int, int] | tuple[int, int, str, int, int]
_NO_PROCESS = ProcessId(0, 0, "")


@dataclass(frozen=True, slots=True)
class _Spare:
    """A worker that has imported everything and waits at a pipe to be told whom it serves."""

    process: ProcessId
    pipe: int


class ProcessLauncher:
    """Starts `command --spec FILE`; `command` begins with an absolute path.

    While `keep_spare` says so, one worker is there already (`command --spare`): most of a start is Python and its
    imports, and whoever waits for a cold endpoint need not wait for those.
    """

    def __init__(
        self, command: Sequence[str], environment: Mapping[str, str], home: Path | None = None
    ) -> None:
        self._command = tuple(command)
        # Of no use to it, but who looks at the processes sees whose it is.
        self._home = ["--home", str(home)] if home is not None else []
        self._environment = dict(environment)
        self._spare: _Spare | None = None
        self._lost = 0  # spares that ended by themselves, one after the other
        self._ending: list[int] = []

    def start(self, specs: Sequence[WorkerSpec], spec_file: Path, log: Path) -> ProcessId:
        log.parent.mkdir(parents=True, exist_ok=True)
        return self._handed_over(spec_file, log) or self._started(specs, spec_file, log)

    def keep_spare(self, life_fd: int | None, *, wanted: bool) -> None:
        self._ending = [pid for pid in self._ending if not processes.reaped(pid)]
        if self._spare is not None and not processes.alive(self._spare.process):
            self._lost += 1
            self._let_spare_go()
        if not wanted:
            self._let_spare_go()
        elif self._spare is None and self._lost < _LOST:
            self._spare = self._new_spare(life_fd)

    def _handed_over(self, spec_file: Path, log: Path) -> ProcessId | None:
        """Tell the spare worker, if there is one, whom it serves."""
        spare = self._spare
        if spare is None or not processes.alive(spare.process):
            return None
        told = json.dumps({"spec": str(spec_file), "log": str(log)})
        try:
            os.write(spare.pipe, f"{told}\n".encode())
        except OSError:
            return None  # it has just ended
        os.close(spare.pipe)
        self._spare, self._lost = None, 0
        return spare.process

    def _let_spare_go(self) -> None:
        spare, self._spare = self._spare, None
        if spare is not None:
            os.close(spare.pipe)  # it reads its end
            self._ending.append(spare.process.pid)

    def _new_spare(self, life_fd: int | None) -> _Spare | None:
        read, write = os.pipe()
        actions: list[_Action] = [
            (os.POSIX_SPAWN_DUP2, read, 0),
            (os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0),
            (os.POSIX_SPAWN_DUP2, 1, 2),
        ]
        try:
            pid = self._spawn(["--spare", *self._home], actions, life_fd)
        except OSError:
            pid = 0
        finally:
            os.close(read)
        process = processes.identify(pid) if pid else None
        if process is None:
            self._lost += 1
            os.close(write)
            return None
        return _Spare(process, write)

    def _started(self, specs: Sequence[WorkerSpec], spec_file: Path, log: Path) -> ProcessId:
        spec = specs[0]  # what concerns the process is the same in all
        actions: list[_Action] = [
            (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
            (os.POSIX_SPAWN_OPEN, 1, str(log), LOG_FLAGS, LOG_MODE),
            (os.POSIX_SPAWN_DUP2, 1, 2),
        ]
        try:
            pid = self._spawn(["--spec", str(spec_file)], actions, spec.life_fd)
        except OSError as error:
            message = (
                f"worker {spec.worker} cannot be started: {self._command[0]}: {error.strerror}"
            )
            raise FairleadError(message) from None
        # One that has ended already: the caller learns it, and how, when it waits.
        return processes.identify(pid) or replace(_NO_PROCESS, pid=pid)

    def _spawn(self, more: list[str], actions: list[_Action], life_fd: int | None) -> int:
        """A process in a session of its own that has of our descriptors only the life pipe; raises OSError."""
        closed: list[_Action] = [
            (os.POSIX_SPAWN_CLOSE, handle) for handle in _inheritable() if handle != life_fd
        ]
        # Onto itself: that only clears close-on-exec.
        kept: list[_Action] = (
            [(os.POSIX_SPAWN_DUP2, life_fd, life_fd)] if life_fd is not None else []
        )
        arguments = [*self._command, *more]
        return os.posix_spawn(
            arguments[0],
            arguments,
            self._environment,
            file_actions=[*actions, *closed, *kept],
            setsid=True,
            setsigmask=(),
            setsigdef=(signal.SIGINT, signal.SIGTERM, signal.SIGPIPE),
        )

    def find(self, spec_file: Path) -> ProcessId | None:
        named = processes.find_by_argument(str(spec_file))
        return named or processes.find_holder(spec_file)  # one that was a spare holds its file open

    def alive(self, process: ProcessId) -> bool:
        return processes.alive(process)

    def signal(self, process: ProcessId, number: signal.Signals) -> bool:
        return processes.send_signal(process, number)

    def memory(self, process: ProcessId) -> int | None:
        return processes.private_bytes(process)

    async def wait(self, process: ProcessId) -> Exit:
        return await processes.wait_exit(process)


def _inheritable() -> list[int]:
    """Descriptors a child would get beside the standard ones: what whoever started us left open."""
    found = []
    for entry in Path("/proc/self/fd").iterdir():
        handle = int(entry.name)
        with contextlib.suppress(OSError):  # the one that was open for the listing
            if handle >= _STANDARD and os.get_inheritable(handle):
                found.append(handle)
    return found
