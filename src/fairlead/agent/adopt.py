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
from fairlead.agent.asking import Company, WorkerClient, socket_of
from fairlead.agent.ports import Launcher
from fairlead.agent.prove import prove
from fairlead.agent.records import Record
from fairlead.agent.settings import AgentSettings
from fairlead.api.worker import WorkerSpec
from fairlead.domain.errors import FairleadError
from fairlead.domain.layout import Home
from fairlead.domain.status import State
from fairlead.kits.clock import Clock
from fairlead.kits.timeouts import timeout

WORKER_NAME = re.compile(r"[0-9a-f]{8}")
_KILL_SECONDS = 5.0
_NAMED = 3  # revisions that a line about a process names

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Stranger:
    """Somebody else than the record says."""

    who: str


@dataclass(frozen=True, slots=True)
class Surveyor:
    """Looks at what an earlier agent left."""

    settings: AgentSettings
    home: Home[Path]
    launcher: Launcher
    clock: Clock

    async def survey(self) -> list[tuple[Record, dict[str, State]]]:
        """The processes to go on with and how far each of their replicas is; everything else is ended and removed."""
        names = records.known(self.home)
        async with asyncio.TaskGroup() as group:
            looks = [group.create_task(self._look(name)) for name in names]
        results = [look.result() for look in looks]
        found = [one for one in results if one is not None]
        living = {spec.worker for record, _ in found for spec in record.specs}
        self._remove_stale_sockets({*names, *living})
        return found

    async def _look(self, name: str) -> tuple[Record, dict[str, State]] | None:
        record = living(self.home, self.launcher, name)
        if record is None:
            records.remove(self.home, name)
            return None
        company = await self._company(record)
        if company is not None and len(record.specs) > 1:
            # Those that the earlier agent had retired, and had no time to write it down.
            for spec in record.specs:
                if spec.worker not in company.replicas and not socket_of(spec).exists():
                    record = records.left(self.home, record, spec.worker)
        if not record.specs:
            await self._end(record, "nobody is left in it")
            return None
        async with asyncio.TaskGroup() as group:
            looks = {
                spec.worker: group.create_task(self._state(spec, company)) for spec in record.specs
            }
        states: dict[str, State] = {}
        for worker, look in looks.items():
            found = look.result()
            if isinstance(found, _Stranger):
                await self._end(record, found.who)
                return None
            states[worker] = found
        return record, states

    async def _state(self, spec: WorkerSpec, company: Company | None) -> State | _Stranger:
        """How far a replica is, or who is there in its place."""
        if company is None:
            return State.STARTING  # alive and silent: perhaps still loading; it gets its time
        said = company.replicas.get(spec.worker)
        if said is None or said.digest != spec.digest:
            found = said or next(iter(company.replicas.values()), None)
            who = f"it says it is {found.worker} with {found.digest}" if found else "it is nobody"
            return _Stranger(who)
        if not said.ready:
            return State.STARTING
        try:
            await prove(spec, self.settings, examples=1)
        except FairleadError:
            return State.PROVING  # all its examples will say what is wrong
        return State.READY

    async def _company(self, record: Record) -> Company | None:
        until = self.clock.monotonic() + self.settings.adoption_seconds
        there = [socket for spec in record.specs if (socket := socket_of(spec)).exists()]
        for socket in there:
            async with WorkerClient(socket, self.settings.adoption_seconds) as client:
                while socket.exists():
                    company = await client.company()
                    if company is not None:
                        return company
                    if self.clock.monotonic() >= until:
                        return None
                    await self.clock.sleep(self.settings.ready_poll_seconds)
        return None

    async def _end(self, record: Record, why: str) -> None:
        process = record.process
        whose = ", ".join(str(spec.revision) for spec in record.specs[:_NAMED])
        extra = {"event": "stray", "worker": record.name}
        _log.warning("worker %s of %s is ended: %s", record.name, whose, why, extra=extra)
        if process is not None and self.launcher.signal(process, signal.SIGKILL):
            async with timeout(_KILL_SECONDS):
                await self.launcher.wait(process)
        records.remove(self.home, record.name)

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
