"""After an agent's death: whom it left running, who of them is fit to go on, and who must go.

A worker is adopted if its process is the very one of its record and answers with its own name and digest. One
that is certainly ours but answers wrongly is ended. Whatever else lies around is removed.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
import signal
from dataclasses import dataclass
from pathlib import Path

from fairlead.agent import records
from fairlead.agent.asking import Identity, WorkerClient, socket_of
from fairlead.agent.ports import Launcher
from fairlead.agent.prove import prove
from fairlead.agent.records import Record
from fairlead.agent.settings import AgentSettings
from fairlead.domain.errors import FairleadError
from fairlead.domain.layout import Home
from fairlead.domain.status import State
from fairlead.kits.clock import Clock

WORKER_NAME = re.compile(r"[0-9a-f]{8}")
_KILL_SECONDS = 5.0

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Surveyor:
    """Looks at what an earlier agent left."""

    settings: AgentSettings
    home: Home[Path]
    launcher: Launcher
    clock: Clock

    async def survey(self) -> list[tuple[Record, State]]:
        """The workers to go on with and how far each is; everything else is ended and removed."""
        names = records.known(self.home)
        async with asyncio.TaskGroup() as group:
            looks = [group.create_task(self._look(name)) for name in names]
        found = [look.result() for look in looks]
        self._remove_stale_sockets(set(names))
        return [one for one in found if one is not None]

    async def _look(self, worker: str) -> tuple[Record, State] | None:
        record = living(self.home, self.launcher, worker)
        if record is None:
            records.remove(self.home, worker)
            return None
        identity, spec = await self._identity(record), record.spec
        if identity is None or not identity.ready:
            return (
                record,
                State.STARTING,
            )  # alive and silent: perhaps still loading; it gets its time
        if (identity.worker, identity.digest) != (spec.worker, spec.digest):
            await self._end(record, f"it says it is {identity.worker} with {identity.digest}")
            return None
        try:
            await prove(spec, self.settings, examples=1)
        except FairleadError:
            return record, State.PROVING  # all its examples will say what is wrong
        return record, State.READY

    async def _identity(self, record: Record) -> Identity | None:
        socket = socket_of(record.spec)
        until = self.clock.monotonic() + self.settings.adoption_seconds
        async with WorkerClient(socket, self.settings.adoption_seconds) as client:
            while socket.exists():
                identity = await client.identity()
                if identity is not None or self.clock.monotonic() >= until:
                    return identity
                await self.clock.sleep(self.settings.ready_poll_seconds)
        return None

    async def _end(self, record: Record, why: str) -> None:
        spec, process = record.spec, record.process
        _log.warning(
            "worker %s of %s is ended: %s",
            spec.worker,
            spec.revision,
            why,
            extra={"event": "stray", "worker": spec.worker, "revision": str(spec.revision)},
        )
        if process is not None and self.launcher.signal(process, signal.SIGKILL):
            async with asyncio.timeout(_KILL_SECONDS):
                await self.launcher.wait(process)
        records.remove(self.home, spec.worker)

    def _remove_stale_sockets(self, known: set[str]) -> None:
        for path in self.home.sockets.glob("*.sock*"):
            if WORKER_NAME.fullmatch(path.stem) and path.stem not in known:
                # One that stays is in nobody's way: every worker has a name of its own.
                with contextlib.suppress(OSError):
                    path.unlink()


def living(home: Home[Path], launcher: Launcher, worker: str) -> Record | None:
    """A worker's record, with who its process is; None if it does not run."""
    record = records.read(home, worker)
    if record is None:
        return None
    if record.process is None:
        process = launcher.find(records.spec_file(home, worker))
        return None if process is None else records.started(home, record, process)
    return record if launcher.alive(record.process) else None
