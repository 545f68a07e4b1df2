"""Carries out what `plan` decided, one step at a time; what takes long runs as a task of the agent's group."""

from __future__ import annotations

import asyncio
import logging
import secrets
import signal
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

from fairlead.agent import plan, pull as pulling, records
from fairlead.agent.asking import WorkerClient, socket_of
from fairlead.agent.logs import last_words, log_file, prune
from fairlead.agent.metrics import Metrics
from fairlead.agent.ports import Ports
from fairlead.agent.prove import prove
from fairlead.agent.records import Record
from fairlead.agent.settings import AgentSettings
from fairlead.agent.table import Table, Worker
from fairlead.api.worker import ServedEndpoint, WorkerSpec
from fairlead.domain.batching import batching_to_json
from fairlead.domain.catalog import Revision
from fairlead.domain.errors import FairleadError
from fairlead.domain.layout import Home
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

    def act(self, step: plan.Step) -> None:
        """Do one step, or start it."""
        match step:
            case plan.Pull():
                self.table.pulling(step.digest, 0, 0)
                self.group.create_task(self._pull(step))
            case plan.Start(revision):
                self._start(revision)
            case plan.Prove(name):
                self.table.workers[name].proving = True
                self.group.create_task(self._prove(self.table.workers[name]))
            case plan.Drain(name):
                self._drain(self.table.workers[name])
            case plan.Stop(name):
                self.table.workers[name].asked_at = self.ports.clock.monotonic()
                self._signal(name, signal.SIGTERM)
            case plan.Kill(name):
                self._signal(name, signal.SIGKILL)
            case plan.Forget(name):
                self._forget(name)
            case plan.CleanUp(digest):
                self.group.create_task(self._clean_up(digest))

    def tend(self, record: Record, state: State) -> None:
        """Take a running worker into the table and stay with it until it ends."""
        worker = self.table.add(record, state)
        self.group.create_task(self._watch(worker))
        self.group.create_task(self._mind(worker))
        if state is State.STARTING:
            self.group.create_task(self._await_loaded(worker))

    async def _pull(self, step: plan.Pull) -> None:
        began = self.ports.clock.monotonic()

        def progress(here: int, total: int) -> None:
            self.table.pulling(step.digest, here, total)

        def failed(reason: str) -> None:
            pause = self.table.pull_failed(step.digest, reason)
            self._tell("pull-failed", f"{reason} (tried again in {pause:g} s)", artifact=step)

        work = pulling.pull(step.artifact, step.digest, self.ports.artifacts, self.home, progress)
        if await self._contained(work, failed):
            self.table.pulled(step.digest)
            seconds = self.ports.clock.monotonic() - began
            self._tell("pulled", f"{step.artifact} pulled in {seconds:.2f} s", artifact=step)

    def _start(self, revision: Revision) -> None:
        name = secrets.token_hex(4)
        spec = WorkerSpec(
            worker=name,
            revision=revision.id,
            artifact=self.home.artifact(revision.digest),
            digest=revision.digest,
            endpoints=tuple(
                ServedEndpoint(one.name, one.concurrency, one.paths, batching_to_json(one.batching))
                for one in revision.endpoints
            ),
            socket=self.home.worker_socket(name),
            settings=self.settings.serving,
            threads=self.settings.threads,
            pod_name=self.settings.pod_name,
            drain_seconds=self.settings.drain_seconds,
            life_fd=self.life_fd,
            allow_pickle=self.settings.allow_pickle,
            measured=self.home.measured(revision.digest),
        )
        try:
            private_directory(self.home.sockets)
            record = records.announce(self.home, spec)
            process = self.ports.launcher.start(
                spec, records.spec_file(self.home, name), log_file(self.home, spec)
            )
            record = records.started(self.home, record, process)
        except (FairleadError, OSError) as error:
            records.remove(self.home, name)
            self.table.start_failed(revision, str(error))
            self._tell("failed", f"{revision.id} cannot be started: {error}", artifact=None)
            return
        self.table.counts.starts += 1
        self.tend(record, State.STARTING)
        self._tell_of(self.table.workers[name], "started", f" (process {process.pid})")

    async def _watch(self, worker: Worker) -> None:
        process, spec = worker.record.process, worker.record.spec
        if process is None:
            return
        how = await self.ports.launcher.wait(process)
        before = worker.replica.state
        why = str(how)
        if how.signal is None and before is not State.DRAINING:
            words = await asyncio.to_thread(last_words, log_file(self.home, spec))
            why = f"{how}: {words}" if words else why
        self.table.ended(worker, how, f"worker {spec.worker}: {why}")
        if before in (State.DRAINING, State.FAILED):
            self._tell_of(worker, "drained" if before is State.DRAINING else "ended", f" ({how})")
            return
        self._tell_of(worker, "died", f": {why}", level=logging.WARNING)
        if before is not State.READY:
            await self._check_artifact(spec)

    async def _mind(self, worker: Worker) -> None:
        """A ready worker that runs and does not answer is as good as dead, and has to go."""
        clock, socket = self.ports.clock, socket_of(worker.record.spec)
        answered = clock.monotonic()
        async with WorkerClient(socket, self.settings.health_seconds) as client:
            while worker.exit is None:
                await clock.sleep(self.settings.health_seconds)
                ready = worker.replica.state is State.READY
                if not ready or await client.identity() is not None:
                    answered = clock.monotonic()
                elif clock.monotonic() - answered >= self.settings.hung_seconds:
                    if worker.replica.state is State.READY:
                        self._fail(worker, f"no answer for {self.settings.hung_seconds:g} s")
                    return

    async def _await_loaded(self, worker: Worker) -> None:
        """Ask until the worker says that it is loaded; then it may be proved."""
        clock, socket = self.ports.clock, socket_of(worker.record.spec)
        until = clock.monotonic() + self.settings.startup_seconds
        async with WorkerClient(socket, self.settings.startup_seconds) as client:
            while worker.exit is None and worker.replica.state is State.STARTING:
                if socket.exists():
                    identity = await client.identity()
                    if identity is not None and identity.ready and worker.exit is None:
                        self.table.became(worker, State.PROVING)
                        return
                if clock.monotonic() >= until:
                    seconds = self.settings.startup_seconds
                    self._fail(worker, f"not loaded after {seconds:g} s")
                    return
                await clock.sleep(self.settings.ready_poll_seconds)

    async def _prove(self, worker: Worker) -> None:
        spec = worker.record.spec
        reasons: list[str] = []
        work = prove(spec, self.settings, examples=self.settings.golden_examples)
        proved = await self._contained(work, reasons.append)
        worker.proving = False
        process = worker.record.process
        if worker.replica.state is not State.PROVING or worker.exit is not None:
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
        self.metrics.keep_totals_of(name)
        self.table.forget(name)
        records.remove(self.home, name)
        try:
            prune(self.home, self.table.workers, self.settings.kept_logs)
        except OSError as error:
            _log.warning("old logs stay: %s", error)

    def _fail(self, worker: Worker, reason: str) -> None:
        pause = self.table.failed(worker, reason)
        message = f": {reason} (tried again in {pause:g} s)"
        self._tell_of(worker, "failed", message, level=logging.ERROR)

    def _drain(self, worker: Worker) -> None:
        self.table.became(worker, State.DRAINING)
        self._tell_of(worker, "draining", ": nobody is routed to it any more")

    def _signal(self, name: str, number: signal.Signals) -> None:
        process = self.table.workers[name].record.process
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

    def _tell(self, event: str, message: str, *, artifact: plan.Pull | None) -> None:
        level = logging.ERROR if event.endswith("failed") else logging.INFO
        extra = {"event": event}
        if artifact is not None:
            extra |= {"artifact": str(artifact.artifact), "digest": artifact.digest}
        _log.log(level, "%s", message, extra=extra)

    def _tell_of(self, worker: Worker, event: str, more: str, level: int = logging.INFO) -> None:
        spec = worker.record.spec
        extra = {"event": event, "worker": spec.worker, "revision": str(spec.revision)}
        text = "%s %s on worker %s%s"
        _log.log(level, text, spec.revision, event, spec.worker, more, extra=extra)
