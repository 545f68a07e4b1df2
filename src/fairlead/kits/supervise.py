"""Keeping child processes alive: each is started again when it ends, and all end when asked.

Every child inherits the read end of one pipe, its `life_fd`. However its parent ends, kill -9 included,
the pipe then reads as closed, and the child knows that it has to go.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from fairlead.kits.clock import Clock

_FIRST_PAUSE_SECONDS = 0.05
_LONGEST_PAUSE_SECONDS = 5.0
# A child that ran this long was well: its next end starts the pauses anew.
_WELL_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class ChildSpec:
    """What to run. `fatal_codes` are exit codes that no second start would mend."""

    name: str
    command: Sequence[str]
    environment: Mapping[str, str]
    output: Path
    fatal_codes: frozenset[int] = frozenset()
    stop_seconds: float = 15.0


@dataclass(slots=True)
class Child:
    """One supervised child; `failed` is its exit code once that was fatal."""

    spec: ChildSpec
    process: asyncio.subprocess.Process | None = None
    starts: int = 0
    failed: int | None = None
    stopping: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def pid(self) -> int:
        """0 while it does not run."""
        return (
            self.process.pid if self.process is not None and self.process.returncode is None else 0
        )


class Supervisor:
    """Runs children inside the caller's TaskGroup; `stop` ends them one after another."""

    def __init__(self, clock: Clock, life_fd: int, tell: Callable[[str], None]) -> None:
        self._clock = clock
        self._life_fd = life_fd
        self._tell = tell

    async def run(self, child: Child) -> None:
        """Keep one child running until it is stopped or ends with a fatal code."""
        pause = _FIRST_PAUSE_SECONDS
        while not child.stopping.is_set():
            started = self._clock.monotonic()
            code = await self._once(child)
            if child.stopping.is_set():
                return
            if code in child.spec.fatal_codes:
                child.failed = code
                return
            if self._clock.monotonic() - started > _WELL_SECONDS:
                pause = _FIRST_PAUSE_SECONDS
            self._tell(f"{child.spec.name} ended ({ending(code)}); starting it again")
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(child.stopping.wait(), pause)
            pause = min(pause * 2, _LONGEST_PAUSE_SECONDS)

    async def stop(self, child: Child) -> None:
        """Ask a child to end; end it by force after its time."""
        child.stopping.set()
        process = child.process
        # One that is being started is ended as soon as it has.
        if process is not None and process.returncode is None:
            await self._end(child.spec, process)

    async def _end(self, spec: ChildSpec, process: asyncio.subprocess.Process) -> None:
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(signal.SIGTERM)
        try:
            await asyncio.wait_for(process.wait(), spec.stop_seconds)
        except TimeoutError:
            self._tell(f"{spec.name} did not end within {spec.stop_seconds:g} s; killed")
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()

    async def _once(self, child: Child) -> int:
        spec = child.spec
        spec.output.parent.mkdir(parents=True, exist_ok=True)
        with spec.output.open("ab") as output:
            child.process = await asyncio.create_subprocess_exec(
                *spec.command,
                env=dict(spec.environment),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                pass_fds=(self._life_fd,),
                start_new_session=True,  # Ctrl-C is for the parent, which stops them in order
            )
        child.starts += 1
        if child.stopping.is_set():  # asked to stop while it was being started
            await self._end(spec, child.process)
        return await child.process.wait()


def life_pipe() -> tuple[int, int]:
    """A pipe whose read end children inherit and whose write end only this process holds."""
    read, write = os.pipe()
    os.set_inheritable(read, True)  # noqa: FBT003 - the library's signature
    return read, write


def ending(code: int) -> str:
    """How a process ended, in words."""
    if code < 0:
        with contextlib.suppress(ValueError):
            return f"killed by {signal.Signals(-code).name}"
    return f"exit code {code}"
