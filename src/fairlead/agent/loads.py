"""How much the workers are asked: each says it every two seconds, and the scalers say what follows.

Only those are asked of which something depends on the answer: units whose number of replicas may change and,
where memory is short, everybody, because the least recently used goes first.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from fairlead.agent.asking import WorkerClient, socket_of
from fairlead.agent.budget import share_of
from fairlead.agent.entries import Process, Worker
from fairlead.agent.plan import Plan
from fairlead.agent.ports import Ports
from fairlead.agent.scales import Wish, least_of
from fairlead.agent.settings import AgentSettings
from fairlead.agent.table import Table
from fairlead.api.agent import Wake
from fairlead.api.load import Load
from fairlead.domain.ids import EndpointId
from fairlead.domain.release import EndpointSpec
from fairlead.domain.scale_units import ScaleUnit, served, unit_of
from fairlead.domain.scaling import UNLIMITED_TARGET, Bounds, Counted, Scaler
from fairlead.domain.status import State
from fairlead.kits.timeouts import timeout

_ANSWER_SECONDS = 1.5  # a worker that takes longer is left out this time

_log = logging.getLogger(__name__)

_Loads = Mapping[str, Mapping[EndpointId, Load]]  # by worker


@dataclass(slots=True)
class Loads:
    """Looks at the load, and remembers what it led to. `plan` is the last one; the agent renews it."""

    settings: AgentSettings
    ports: Ports
    table: Table
    plan: Plan
    _scalers: dict[EndpointId, Scaler] = field(default_factory=dict)
    _at_once: asyncio.Event = field(default_factory=asyncio.Event)

    async def follow(self) -> None:
        """Look after look, until cancelled."""
        while True:
            with contextlib.suppress(TimeoutError):
                async with timeout(self.settings.load_seconds):
                    await self._at_once.wait()
            woken = self._at_once.is_set()
            self._at_once.clear()
            await self.look()
            if woken:
                self.table.changed.set()

    async def look(self) -> None:
        """Ask everybody once, and decide."""
        self._weigh()
        asked = await self._ask()
        now = self.ports.clock.monotonic()
        self._note_uses(asked, now)
        self._scale(asked, now)

    def wake(self, wakes: Iterable[Wake]) -> None:
        """Somebody waits, or does not wait any more; of what is not here nothing is known."""
        demands = self.table.demands
        for one in wakes:
            catalog = self.table.catalog
            revision = catalog.revision(one.endpoint.revision_id) if catalog is not None else None
            if revision is None or all(
                one.endpoint.endpoint != there.name for there in revision.endpoints
            ):
                continue
            unit = unit_of(revision, one.endpoint.endpoint)
            if demands.waits(unit, one.endpoint, one.waiting, self.settings.patience_seconds):
                if demands.of(unit).cold:
                    self.table.counts.wakes += 1
                    _log.info("%s is woken", unit, extra={"event": "woken"})
                self._at_once.set()  # where somebody must make room, the workers know who was asked last
                if not self.settings.memory_budget_bytes:
                    self.table.changed.set()

    def _weigh(self) -> None:
        """What memory every process has, and what one of its replicas takes."""
        for process in list(self.table.processes.values()):
            identity = process.record.process
            size = self.ports.launcher.memory(identity) if identity is not None else None
            if size is None:
                continue
            living = process.living()
            loaded = all(one.replica.state is State.READY for one in living)
            share = share_of(size, len(living))
            known = {one.replica.digest: share for one in living} if loaded else {}
            self.table.weights.measured(process.name, size, known)

    async def _ask(self) -> _Loads:
        found: dict[str, Mapping[EndpointId, Load]] = {}

        async def ask(process: Process, worker: Worker) -> None:
            async with WorkerClient(socket_of(worker.spec), _ANSWER_SECONDS) as client:
                loads = await client.load()
            if loads is not None:
                found[process.name] = loads

        async with asyncio.TaskGroup() as group:
            for process in list(self.table.processes.values()):
                there = process.answering()
                if there and self._matters(there):
                    group.create_task(ask(process, there[0]))
        return found

    def _matters(self, workers: Iterable[Worker]) -> bool:
        if self.settings.memory_budget_bytes:
            return True
        wished = self.plan.wished
        return any(
            (wish := wished.get(one.unit)) is not None and _may_change(one.unit, wish)
            for one in workers
        )

    def _note_uses(self, asked: _Loads, now: float) -> None:
        """When each unit was last asked, and whether it still works."""
        uses: dict[ScaleUnit, tuple[float, bool]] = {}
        for name, loads in asked.items():
            process = self.table.processes.get(name)
            for worker in process.living() if process is not None else ():
                at, busy = uses.get(worker.unit, (float("-inf"), False))
                for load in _of(worker, loads):
                    at = max(at, now - load.idle_seconds)
                    busy = busy or load.in_flight + load.queued > 0
                uses[worker.unit] = at, busy
        for unit, (at, busy) in uses.items():
            self.table.demands.used(unit, at, busy=busy)

    def _scale(self, asked: _Loads, now: float) -> None:
        ready = self._ready()
        changed = False
        for unit, wish in self.plan.wished.items():
            if not _may_change(unit, wish):
                continue
            there = ready.get(unit, [])
            awaited = self.table.demands.of(unit).waited_until > now
            if not there and not awaited:
                self._forget(unit, wish)  # it comes up as it is, not as it was once asked
                continue
            desired = max(
                self._decide(unit, one, there, asked, now) for one in served(wish.revision, unit)
            )
            changed |= self.table.demands.desires(unit, desired)
        if changed:
            self.table.changed.set()

    def _decide(
        self,
        unit: ScaleUnit,
        spec: EndpointSpec,
        there: list[Worker],
        asked: _Loads,
        now: float,
    ) -> int:
        endpoint = unit.revision.endpoint(spec.name)
        scaler = self._scalers.get(endpoint)
        if scaler is None:
            scaler = self._scalers[endpoint] = Scaler(Bounds.of(spec), self.settings.scaling)
        counted = {
            one.replica.worker: Counted(load.concurrency_seconds, load.requests)
            for one in there
            if (load := asked.get(one.process.name, {}).get(endpoint)) is not None
        }
        waiting = self.table.demands.waiting(unit, spec.name)
        scaler.observe(now, counted, waiting)
        desired = scaler.decide(now, len(there)).replicas
        if there:
            return desired
        # Of those who wait nobody knows yet how long they keep a slot: one slot for each is enough.
        return max(1, min(desired, -(-waiting // (spec.concurrency or UNLIMITED_TARGET))))

    def _ready(self) -> dict[ScaleUnit, list[Worker]]:
        found: dict[ScaleUnit, list[Worker]] = {}
        for worker in self.table.workers.values():
            if worker.replica.state is State.READY and not worker.ended:
                found.setdefault(worker.unit, []).append(worker)
        return found

    def _forget(self, unit: ScaleUnit, wish: Wish) -> None:
        for one in served(wish.revision, unit):
            self._scalers.pop(unit.revision.endpoint(one.name), None)


def _may_change(unit: ScaleUnit, wish: Wish) -> bool:
    """May its number of replicas be another than what the release says in any case?"""
    least = least_of(wish.revision, unit)
    return any(one.max_scale != least for one in served(wish.revision, unit))


def _of(worker: Worker, loads: Mapping[EndpointId, Load]) -> Iterable[Load]:
    """What a process says of one of its replicas."""
    for one in worker.spec.endpoints:
        load = loads.get(worker.spec.endpoint_id(one.name))
        if load is not None:
            yield load
