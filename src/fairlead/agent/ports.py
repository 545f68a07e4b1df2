"""What an agent needs from outside, beside the store: processes, and somewhere to report to."""

from __future__ import annotations

import signal
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from fairlead.api.worker import WorkerSpec
from fairlead.domain.ids import LineId
from fairlead.domain.ports import Artifacts, Catalogs
from fairlead.domain.status import NodeStatus
from fairlead.kits.clock import Clock
from fairlead.kits.processes import Exit, ProcessId


class Launcher(Protocol):
    """Starts worker processes, and knows them again by certain identity."""

    def start(self, specs: Sequence[WorkerSpec], spec_file: Path, log: Path) -> ProcessId:
        """Start a worker that reads its specs from that file; what it prints is appended to `log`.

        Raises FairleadError if it cannot be started.
        """
        ...

    def keep_spare(self, life_fd: int | None, *, wanted: bool) -> None:
        """Have a process ready that the next `start` may use, or none: called again and again."""
        ...

    def find(self, spec_file: Path) -> ProcessId | None:
        """The living worker that was started with that file, if there is one."""
        ...

    def alive(self, process: ProcessId) -> bool:
        """Does exactly this process still run?"""
        ...

    def signal(self, process: ProcessId, number: signal.Signals) -> bool:
        """Signal exactly this process; False if it has ended."""
        ...

    def memory(self, process: ProcessId) -> int | None:
        """The bytes that exactly this process has to itself; None if it has ended."""
        ...

    async def wait(self, process: ProcessId) -> Exit:
        """Return as soon as this process has ended; at once if it has already."""
        ...


class NodeReports(Protocol):
    """Where a node's status goes beside its local file: `nodes/<id>` in the store."""

    def write(self, status: NodeStatus) -> None:
        """Blocks; raises FairleadError if the store is away."""
        ...


@dataclass(frozen=True, slots=True)
class Ports:
    """Everything outside that an agent uses."""

    catalogs: Catalogs
    artifacts: Artifacts
    launcher: Launcher
    clock: Clock
    reports: NodeReports | None = None
    led: Callable[[], Collection[LineId]] = (
        tuple  # lines that a rollout leads now; blocks, as the store does
    )
