"""Worker processes of this machine.

A worker gets a session of its own, so that neither Ctrl-C in a terminal nor the end of its agent
reaches it, the environment wiring built, and of our descriptors only the life pipe.
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Mapping, Sequence
from pathlib import Path

from fairlead.api.worker import WorkerSpec
from fairlead.domain.errors import FairleadError
from fairlead.kits import processes
from fairlead.kits.processes import Exit, ProcessId

_LOG_FLAGS = os.O_WRONLY | os.O_CREAT | os.O_APPEND
_LOG_MODE = 0o600  # what a model prints may quote what it was asked
_STANDARD = 3  # descriptors every process has

_Action = tuple[int, int] | tuple[int, int, int] | tuple[int, int, str, int, int]


class ProcessLauncher:
    """Starts `command --spec FILE`; `command` begins with an absolute path."""

    def __init__(self, command: Sequence[str], environment: Mapping[str, str]) -> None:
        self._command = tuple(command)
        self._environment = dict(environment)

    def start(self, specs: Sequence[WorkerSpec], spec_file: Path, log: Path) -> ProcessId:
        spec = specs[0]  # what concerns the process is the same in all
        log.parent.mkdir(parents=True, exist_ok=True)
        actions: list[_Action] = [
            (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
            (os.POSIX_SPAWN_OPEN, 1, str(log), _LOG_FLAGS, _LOG_MODE),
            (os.POSIX_SPAWN_DUP2, 1, 2),
            *(
                (os.POSIX_SPAWN_CLOSE, handle)
                for handle in _inheritable()
                if handle != spec.life_fd
            ),
        ]
        if spec.life_fd is not None:
            # Onto itself: that only clears close-on-exec.
            actions.append((os.POSIX_SPAWN_DUP2, spec.life_fd, spec.life_fd))
        arguments = [*self._command, "--spec", str(spec_file)]
        try:
            pid = os.posix_spawn(
                arguments[0],
                arguments,
                self._environment,
                file_actions=actions,
                setsid=True,
                setsigmask=(),
                setsigdef=(signal.SIGINT, signal.SIGTERM, signal.SIGPIPE),
            )
        except OSError as error:
            message = f"worker {spec.worker} cannot be started: {arguments[0]}: {error.strerror}"
            raise FairleadError(message) from None
        process = processes.identify(pid)
        if process is None:
            # It has ended already; the caller learns it, and how, when it waits.
            return ProcessId(pid, 0, "")
        return process

    def find(self, spec_file: Path) -> ProcessId | None:
        return processes.find_by_argument(str(spec_file))

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
