"""Carries out what `plan` decided, one step at a time; what takes long runs as a task of the agent's group."""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from fairlead.agent import pull as pulling, records, steps
from fairlead.agent.asking import Company, WorkerClient, socket_of
from fairlead.agent.entries import Process, Worker
from fairlead.agent.logs import last_words, log_file, logs_of, prune
from fairlead.agent.metrics import Metrics
from fairlead.agent.ports import Ports
from fairlead.agent.prove import prove
from fairlead.agent.records import Record
from fairlead.agent.settings import AgentSettings
from fairlead.agent.specs import spec_of
from fairlead.agent.table import Table
from fairlead.api.worker import WorkerSpec
from fairlead.domain.catalog import Revision
from fairlead.domain.errors import FairleadError
from fairlead.domain.layout import Home
from fairlead.domain.scale_units import ScaleUnit
from fairlead.domain.status import State
from fairlead.kits.files import private_directory

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Actor:
    """Does the steps. `group` owns the tasks that outlast one."""

    settings: AgentSettings
    home: Home[Path]
    ports: Ports
    table: Table
    metrics: Metrics
    life_fd: int | None
    group: asyncio.TaskGroup
    turns: asyncio.Semaphore  # of pulls

    def act(self, step: steps.Step) -> None:
        """Do one step, or start it."""
        match step:
            case steps.Pull():
                self.table.pulling(step.digest, 0, 0)
                self.group.create_task(self._pull(step))
            case steps.Start():
                self._start(step)
            case steps.Prove(name):
                self.table.workers[name].proving = True
                self.group.create_task(self._prove(self.table.workers[name]))
            case steps.Stop(name):
                for worker in self.table.processes[name].living():
                    worker.asked_at = self.ports.clock.monotonic()
                self._signal(name, signal.SIGTERM)
            case steps.Kill(name):
                self._signal(name, signal.SIGKILL)
            case steps.CleanUp(digest):
                self.group.create_task(self._clean_up(digest))
            case _:
                self._let_go(step)

    def _let_go(
        self, step: steps.Drain | steps.Resume | steps.Retire | steps.GiveUp | steps.Forget
    ) -> None:
        """Do one of the steps on a replica's way out, or back."""
        worker = self.table.workers[step.worker]
        match step:
            case steps.Drain():
                self._drain(worker)
            case steps.Resume():
                self.table.became(worker, State.READY)
                self._tell_of(worker, "resumed", ": it is wanted again")
            case steps.Retire():
                worker.asked_at = self.ports.clock.monotonic()
                self.group.create_task(self._retire(worker))
            case steps.GiveUp():
                self._give_up(worker)
            case steps.Forget():
                self._forget(step.worker)

    def tend(
        self, record: Record, states: Mapping[str, State], *, compaction: bool = False
    ) -> Process:
        """Take a running process with its replicas into the table, and stay with it until it ends."""
        process = self.table.add_process(record, compaction=compaction)
        for spec in record.specs:
            self.table.add(process, spec, states[spec.worker])
        self.group.create_task(self._watch(process))
        self.group.create_task(self._mind(process))
        if State.STARTING in states.values():
            self.group.create_task(self._await_loaded(process))
        return process

    async def _pull(self, step: steps.Pull) -> None:
        async with self.turns:
            await self._pull_now(step)

    async def _pull_now(self, step: steps.Pull) -> None:
        began = self.ports.clock.monotonic()

        def progress(here: int, total: int) -> None:
            self.table.pulling(step.digest, here, total)

        def failed(reason: str) -> None:
            pause = self.table.pull_failed(step.digest, reason)
            self._tell("pull-failed", f"{reason} (tried again in {pause:g} s)", artifact=step)

        work = pulling.pull(step.artifact, step.digest, self.ports.artifacts, self.home, progress)
        if await self._contained(work, failed):
            weight = await asyncio.to_thread(pulling.weigh, self.home, step.digest)
            light = weight.light(self.settings.pool_artifact_bytes)
            self.table.pulled(step.digest, light=light, size=weight.size)
            seconds = self.ports.clock.monotonic() - began
            self._tell("pulled", f"{step.artifact} pulled in {seconds:.2f} s", artifact=step)

    def _start(self, step: steps.Start) -> None:
        revisions = step.revisions
        alone = len(revisions) == 1
        specs = [self._spec(one, step.endpoint, alone=alone) for one in revisions]
        name = specs[0].worker
        try:
            private_directory(self.home.sockets)
            record = records.announce(self.home, *specs)
            process = self.ports.launcher.start(
                specs, records.spec_file(self.home, name), log_file(self.home, specs, name)
            )
            record = records.started(self.home, record, process)
        except (FairleadError, OSError) as error:
            records.remove(self.home, name)
            for revision in revisions:
                self.table.start_failed(ScaleUnit(revision.id, step.endpoint), str(error))
                self._tell("failed", f"{revision.id} cannot be started: {error}", artifact=None)
            return
        self.table.counts.starts += 1
        states = {spec.worker: State.STARTING for spec in specs}
        started = self.tend(record, states, compaction=step.compaction)
        if len(specs) == 1:
            self._tell_of(started.workers[0], "started", f" (process {process.pid})")
            return
        why = ", which smaller workers shall make room for" if step.compaction else ""
        self._tell(
            "started",
            f"worker {name} started for {len(specs)} revisions (process {process.pid}){why}",
            artifact=None,
        )

    def _spec(self, revision: Revision, endpoint: str, *, alone: bool) -> WorkerSpec:
        return spec_of(
            revision, self.home, self.settings, self.life_fd, endpoint=endpoint, alone=alone
        )

    async def _watch(self, process: Process) -> None:
        identity = process.record.process
        if identity is None:
            return
        how = await self.ports.launcher.wait(identity)
        before = {worker.replica.worker: worker.replica.state for worker in process.living()}
        why = str(how)
        if how.signal is None and set(before.values()) != {State.DRAINING}:
            words = await asyncio.to_thread(self._last_words, process)
            why = f"{how}: {words}" if words else why
        living = process.living()
        self.table.ended(process, how, f"worker {process.name}: {why}")
        for worker in living:
            state = before.get(worker.replica.worker, worker.replica.state)
            if state in (State.DRAINING, State.FAILED):
                event = "drained" if state is State.DRAINING else "ended"
                self._tell_of(worker, event, f" ({how})")
                continue
            self._tell_of(worker, "died", f": {why}", level=logging.WARNING)
            if state is not State.READY:
                await self._check_artifact(worker.spec)

    def _last_words(self, process: Process) -> str:
        return next((last_words(log) for log in logs_of(self.home, process.name)), "")

    async def _mind(self, process: Process) -> None:
        """A process that serves and gives no answer is as good as dead, and has to go."""
        clock = self.ports.clock
        answered = clock.monotonic()
        while process.exit is None:
            await clock.sleep(self.settings.health_seconds)
            ready = [one for one in process.living() if one.replica.state is State.READY]
            company = await self._ask(ready[0], self.settings.health_seconds) if ready else None
            if company is not None:
                process.counted = company.counted
                for worker in ready:
                    self._look_at_runs(worker, company)
            if not ready or company is not None:
                answered = clock.monotonic()
            elif clock.monotonic() - answered >= self.settings.hung_seconds:
                for worker in process.living():
                    if worker.replica.state is State.READY:
                        self._fail(worker, f"no answer for {self.settings.hung_seconds:g} s")
                return

    def _look_at_runs(self, worker: Worker, company: Company) -> None:
        """One that answers, and whose model does not, has to go too, once its runs have had all the time there is."""
        said = company.replicas.get(worker.replica.worker)
        held = said.held if said is not None else None
        beyond = held.beyond(worker.spec.drain_seconds) if held is not None else 0.0
        if held is not None and beyond >= self.settings.held_seconds:
            reason = f"a run went on for {held.seconds:.0f} s, and nobody else was answered"
            self._fail(worker, reason)
            return
        self.table.held(worker, held.seconds if held is not None and beyond else 0.0)

    async def _ask(self, worker: Worker, seconds: float) -> Company | None:
        async with WorkerClient(socket_of(worker.spec), seconds) as client:
            return await client.company()

    async def _await_loaded(self, process: Process) -> None:
        """Ask until everybody says that it is loaded, or never will be; then it may be proved."""
        clock = self.ports.clock
        until, left = 0.0, -1
        while process.exit is None and (loading := _loading(process)):
            if len(loading) != left:  # one after the other: each has its time
                left, until = len(loading), clock.monotonic() + self.settings.startup_seconds
            there = next((one for one in loading if socket_of(one.spec).exists()), None)
            if there is not None:
                company = await self._ask(there, self.settings.startup_seconds)
                for worker in _loading(process):
                    self._hear(worker, company)
            if clock.monotonic() >= until:
                for worker in _loading(process):
                    self._fail(worker, f"not loaded after {self.settings.startup_seconds:g} s")
                return
            await clock.sleep(self.settings.ready_poll_seconds)

    def _hear(self, worker: Worker, company: Company | None) -> None:
        said = company.replicas.get(worker.replica.worker) if company is not None else None
        if said is None:
            return  # its identity will be asked again when it is proved
        if said.failed:
            self._fail(worker, said.failed)
            self.group.create_task(self._check_artifact(worker.spec))
        elif said.ready:
            self.table.became(worker, State.PROVING)

    async def _retire(self, worker: Worker) -> None:
        """Ask it to leave; one that does not is given up when its time is over."""
        seconds = worker.spec.drain_seconds + self.settings.stop_grace_seconds
        async with WorkerClient(socket_of(worker.spec), seconds) as client:
            left = await client.retire()
        if not worker.ended and (left or not socket_of(worker.spec).exists()):
            self._has_left(worker)

    def _give_up(self, worker: Worker) -> None:
        _log.warning("%s does not leave worker %s", worker.spec.revision, worker.process.name)
        self._has_left(worker)

    def _has_left(self, worker: Worker) -> None:
        process = worker.process
        process.record = records.left(self.home, process.record, worker.spec.worker)
        self.table.retired(worker)
        drained = worker.replica.state is State.DRAINING
        self._tell_of(worker, "drained" if drained else "ended", " (others stay)")

    async def _prove(self, worker: Worker) -> None:
        spec = worker.spec
        reasons: list[str] = []
        # Whoever starts proves itself whole; what answered all of them here before is asked one, through its socket.
        known = self.table.demands.of(worker.unit).proved
        examples = 1 if known else self.settings.golden_examples
        work = prove(spec, self.settings, examples=examples, fresh=True)
        proved = await self._contained(work, reasons.append)
        worker.proving = False
        process = worker.process.record.process
        if worker.replica.state is not State.PROVING or worker.ended:
            return  # it was retired, or has ended, meanwhile
        if proved:
            self.table.proved(worker)
            seconds = self.ports.clock.monotonic() - worker.came_at
            self._tell_of(worker, "ready", f" in {seconds:.2f} s")
        elif process is not None and self.ports.launcher.alive(process):
            self._fail(worker, *reasons)
            await self._check_artifact(spec)
        # A worker that died during its proof is told of by the one who watches it.

    async def _check_artifact(self, spec: WorkerSpec) -> None:
        """A worker that fails may be the first to notice that its files have changed on the disk."""

        def failed(reason: str) -> None:
            _log.error("%s cannot be looked at again: %s", spec.artifact, reason)

        await self._contained(self._replace_if_damaged(spec.digest), failed)

    async def _replace_if_damaged(self, digest: str) -> None:
        wrong = await asyncio.to_thread(pulling.verify, self.home, digest)
        if wrong is None:
            return
        _log.error("%s; it is pulled again", wrong, extra={"event": "damaged"})
        try:
            await self._take_away(digest)
        except OSError:
            self.table.lost(digest)  # the pull will fail on it too, and the status say why
            raise

    async def _clean_up(self, digest: str) -> None:
        def failed(reason: str) -> None:
            self.table.has(digest)  # tried again after another grace
            self._tell("clean-up-failed", f"artifact {digest[:19]}… stays: {reason}", artifact=None)

        if await self._contained(self._take_away(digest), failed):
            self._tell("cleaned", f"artifact {digest[:19]}… removed: unused", artifact=None)

    async def _take_away(self, digest: str) -> None:
        # Out of sight before anybody can plan to pull it again; what takes long comes after.
        trash = pulling.discard(self.home, digest)
        self.table.lost(digest)
        if trash is not None:
            await asyncio.to_thread(pulling.delete, trash)

    def _forget(self, name: str) -> None:
        process = self.table.workers[name].process
        self.table.forget(name)
        if process.workers:
            records.remove_socket(self.home, name)
            return
        self.metrics.keep_totals_of(process)
        records.remove(self.home, process.name)
        records.remove_socket(self.home, name)
        try:
            prune(self.home, self.table.processes, self.settings.kept_logs)
        except OSError as error:
            _log.warning("old logs stay: %s", error)

    def _fail(self, worker: Worker, reason: str) -> None:
        pause = self.table.failed(worker, reason)
        message = f": {reason} (tried again in {pause:g} s)"
        self._tell_of(worker, "failed", message, level=logging.ERROR)

    def _drain(self, worker: Worker) -> None:
        self.table.became(worker, State.DRAINING)
        self._tell_of(worker, "draining", ": it is to get no requests any more")

    def _signal(self, name: str, number: signal.Signals) -> None:
        process = self.table.processes[name].record.process
        if process is not None:
            self.ports.launcher.signal(process, number)

    async def _contained(self, work: Awaitable[object], failed: Callable[[str], object]) -> bool:
        """Did it work? If not, `failed` has the reason; one worker's trouble never ends the agent."""
        try:
            await work
        except FairleadError as error:
            failed(error.message)
        except OSError as error:
            failed(str(error))
        except Exception as error:  # noqa: BLE001 - the agent serves all the others
            _log.exception("a step failed")
            failed(f"{type(error).__name__}: {error}")
        else:
            return True
        return False

    def _tell(self, event: str, message: str, *, artifact: steps.Pull | None) -> None:
        level = logging.ERROR if event.endswith("failed") else logging.INFO
        extra = {"event": event}
        if artifact is not None:
            extra |= {"artifact": str(artifact.artifact), "digest": artifact.digest}
        _log.log(level, "%s", message, extra=extra)

    def _tell_of(self, worker: Worker, event: str, more: str, level: int = logging.INFO) -> None:
        spec = worker.spec
        extra = {"event": event, "worker": spec.worker, "revision": str(spec.revision)}
        text = "%s %s on worker %s%s"
        _log.log(level, text, worker.unit, event, spec.worker, more, extra=extra)


def _loading(process: Process) -> list[Worker]:
    return [one for one in process.living() if one.replica.state is State.STARTING]
