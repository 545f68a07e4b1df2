"""The agent's life: take over what is running, follow the catalog, do the next steps, say how it is.

Owned (a life pipe is given) it takes its workers along when it ends or its owner dies; stand-alone it leaves
them to the next agent. Killed, it leaves them in either case.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from fairlead.agent import http, pools, pull, records
from fairlead.agent.act import Actor
from fairlead.agent.adopt import Surveyor, living
from fairlead.agent.gateway import GatewayWatch
from fairlead.agent.loads import Loads
from fairlead.agent.logs import bound
from fairlead.agent.metrics import Metrics
from fairlead.agent.pace import Pace
from fairlead.agent.plan import Plan, decide
from fairlead.agent.ports import Ports
from fairlead.agent.settings import AgentSettings
from fairlead.agent.spare import Spare
from fairlead.agent.table import Table
from fairlead.agent.telling import NO_PLAN, left_cold, node_status
from fairlead.domain.catalog import Catalog
from fairlead.domain.catalog_file import catalog_from_bytes, catalog_to_bytes
from fairlead.domain.errors import FairleadError, Kind, Refused
from fairlead.domain.ids import LineId
from fairlead.domain.layout import Home
from fairlead.domain.status import NodeStatus, Replica, State, node_status_to_bytes
from fairlead.kits import processes
from fairlead.kits.files import try_lock, write_atomic
from fairlead.kits.processes import ProcessId
from fairlead.kits.timeouts import timeout

_STORE_SECONDS = 10.0  # a store that takes longer is away
_REPORT_GAP_SECONDS = 0.5  # between two reports to the store
_KILL_SECONDS = 5.0

_log = logging.getLogger(__name__)


class _Told(Exception):
    """Ends the agent's work."""


async def run_agent(
    settings: AgentSettings, home: Home[Path], ports: Ports, life_fd: int | None = None
) -> int:
    """Run the agent of this home until SIGTERM, SIGINT or the end of `life_fd`; returns the exit code.

    Raises Refused(CONFLICT) if another agent runs here.
    """
    lock = try_lock(home.agent_lock)
    if lock is None:
        message = f"another agent runs in {home.root} (it holds {home.agent_lock}): end it first"
        raise Refused(Kind.CONFLICT, message)
    try:
        await _Agent(settings, home, ports, life_fd).run()
    finally:
        os.close(lock)
    return 0


class _Agent:
    """One agent's tasks. Whatever they know lies in the table."""

    def __init__(
        self, settings: AgentSettings, home: Home[Path], ports: Ports, life_fd: int | None
    ) -> None:
        self._settings = settings
        self._home = home
        self._ports = ports
        self._clock = ports.clock
        self._life_fd = life_fd
        self._table = Table(settings, ports.clock)
        self._metrics = Metrics(self._table)
        self._gateway = GatewayWatch(home, ports.clock)
        self._spare = Spare(settings.spare_seconds, ports.launcher, life_fd)
        self._loads = Loads(settings, ports, self._table, NO_PLAN)
        self._kept: Catalog | None = None  # the catalog on the disk
        self._status: NodeStatus | None = None  # as it is
        self._written: NodeStatus | None = None  # as the file says
        self._written_at = 0.0  # when, in steady seconds
        self._texts: dict[Replica, str] = {}  # of what it says
        self._news = asyncio.Event()  # the status has changed since the last report

    async def run(self) -> None:
        served = asyncio.Event()
        async with asyncio.TaskGroup() as outer:
            outer.create_task(
                http.serve(self._metrics, self._loads.wake, self._home.agent_socket, served)
            )
            try:
                async with asyncio.TaskGroup() as group:
                    await self._begin(group)
            except* _Told:
                pass
            finally:
                served.set()
            await self._end()

    async def _begin(self, group: asyncio.TaskGroup) -> None:
        group.create_task(self._until_told())
        group.create_task(self._follow_catalog())
        await self._find_artifacts()
        actor = Actor(
            self._settings,
            self._home,
            self._ports,
            self._table,
            self._metrics,
            self._life_fd,
            group,
            asyncio.Semaphore(self._settings.pulls_at_once),
        )
        # Before the first status: one that does not know the running workers would take them out of traffic.
        surveyor = Surveyor(self._settings, self._home, self._ports.launcher, self._clock)
        adopted = await surveyor.survey()
        for record, states in adopted:
            self._table.counts.adoptions += 1
            actor.tend(record, states)
        if adopted:
            _log.info("%d running workers adopted", len(adopted), extra={"event": "adopted"})
        self._table.demands.were_cold(await asyncio.to_thread(left_cold, self._home))
        group.create_task(self._steer(actor))
        group.create_task(self._loads.follow())
        group.create_task(self._scrape())
        group.create_task(self._follow_rollouts())
        group.create_task(self._bound_logs())
        if self._ports.reports is not None:
            group.create_task(self._report())

    async def _bound_logs(self) -> None:
        while True:
            try:
                await asyncio.to_thread(bound, self._home, self._settings.log_bytes)
            except OSError as error:
                self._note("logs", self._home.logs, "kept short", error)
            else:
                self._note("logs", self._home.logs)
            await self._clock.sleep(self._settings.log_seconds)

    async def _until_told(self) -> None:
        told = asyncio.Event()
        with _signals(told):
            async with asyncio.TaskGroup() as group:
                if self._life_fd is not None:
                    group.create_task(_set_when_closed(told, self._life_fd))
                await told.wait()
                raise _Told

    async def _find_artifacts(self) -> None:
        try:
            most = self._settings.pool_artifact_bytes
            for digest, weight in await asyncio.to_thread(self._present):
                self._table.has(digest, light=weight.light(most), size=weight.size)
        except OSError as error:
            _log.error("%s cannot be read, all is pulled anew: %s", self._home.artifacts, error)

    def _present(self) -> list[tuple[str, pull.Weight]]:
        return [(digest, pull.weigh(self._home, digest)) for digest in pull.present(self._home)]

    async def _follow_rollouts(self) -> None:
        """What a rollout leads stays where it is. Asked only when there is something to tidy up."""
        while True:
            led = None
            catalog = self._table.catalog
            if catalog is not None:
                seen = self._table.snapshot(catalog)
                if pools.compactable(seen, self._loads.plan.wished, self._settings):
                    led = await self._led()
            if led != self._table.led:
                self._table.led = led
                self._table.changed.set()
            await self._clock.sleep(self._settings.compact_seconds / 4)

    async def _led(self) -> frozenset[LineId] | None:
        try:
            async with timeout(_STORE_SECONDS):
                return frozenset(await asyncio.to_thread(self._ports.led))
        except (FairleadError, OSError, ValueError) as error:
            _log.debug("nobody knows which rollouts are under way: %s", error)
            return None

    async def _follow_catalog(self) -> None:
        while True:
            try:
                async with timeout(_STORE_SECONDS):
                    catalog = await asyncio.to_thread(self._ports.catalogs.read)
            except (FairleadError, OSError, ValueError) as error:
                await self._without_store(str(error) or type(error).__name__)
            else:
                if catalog != self._table.catalog:
                    self._table.asked_for(catalog)
                if catalog != self._kept:
                    await self._keep(catalog)
                self._store_problem("")
            await self._clock.sleep(self._settings.catalog_poll_seconds)

    async def _keep(self, catalog: Catalog) -> None:
        """Write the catalog down for a time without the store; tried again until the disk takes it."""
        path = self._home.node_catalog
        try:
            await asyncio.to_thread(lambda: write_atomic(path, catalog_to_bytes(catalog)))
        except OSError as error:
            self._note("catalog", path, "written", error)
        else:
            self._kept = catalog
            self._note("catalog", path)

    async def _without_store(self, why: str) -> None:
        """Go on with the catalog on the disk."""
        if self._table.catalog is None:
            try:
                data = await asyncio.to_thread(self._home.node_catalog.read_bytes)
                self._table.asked_for(catalog_from_bytes(data, str(self._home.node_catalog)))
            except FileNotFoundError:
                self._store_problem(f"the store cannot be read: {why}; nothing is known yet")
                return
            except (FairleadError, OSError) as error:
                self._store_problem(f"the store cannot be read: {why}; and {error}")
                return
        catalog = self._table.catalog
        generation = catalog.generation if catalog else 0
        self._store_problem(
            f"the store cannot be read: {why}; going on with generation {generation}"
        )

    def _store_problem(self, problem: str) -> None:
        if not self._table.note("store", problem):
            return
        if problem:
            _log.warning("%s", problem, extra={"event": "store-away"})
        else:
            _log.info("the store is back", extra={"event": "store-back"})

    def _note(self, about: str, path: Path, how: str = "", error: OSError | None = None) -> None:
        """This path cannot be read or written; or can be again. The agent goes on in any case."""
        # Without the error's own path: it may be another one with every try.
        problem = f"{path} cannot be {how}: {error.strerror or error}" if error else ""
        if not self._table.note(about, problem):
            return
        if problem:
            _log.error("%s", problem, extra={"event": "disk"})
        else:
            _log.info("%s is in order again", path, extra={"event": "disk"})

    async def _steer(self, actor: Actor) -> None:
        pace = Pace(self._clock)
        cleared = -1  # the generation for which leftover downloads were removed
        while True:
            self._table.changed.clear()
            began = self._clock.monotonic()
            self._gateway.look()
            self._table.gateway = self._gateway.status
            self._table.gateway_at = self._gateway.written_at
            catalog = self._table.catalog
            if catalog is not None:
                if catalog.generation != cleared and await self._clear_downloads():
                    cleared = catalog.generation
                self._table.touch_artifacts()
                plan = self._loads.plan = decide(self._table.snapshot(catalog), self._settings)
                for step in plan.steps:
                    actor.act(step)
                self._table.demands.settle(plan.cold)
                self._spare.keep(plan.cold, self._table.states(), self._clock.monotonic())
            self._write_status(self._loads.plan)
            took = self._clock.monotonic() - began
            await self._clock.sleep(pace.rest(took))
            try:
                async with timeout(pace.idle(took, self._settings.catalog_poll_seconds)):
                    await self._table.changed.wait()
            except TimeoutError:
                continue

    async def _clear_downloads(self) -> bool:
        path = self._home.downloads
        try:
            await asyncio.to_thread(pull.clear_downloads, self._home, self._table.awaited())
        except OSError as error:
            self._note("downloads", path, "cleared", error)
            return False
        self._note("downloads", path)
        return True

    def _write_status(self, plan: Plan) -> None:
        now = self._clock.monotonic()
        status = node_status(self._table, plan, self._settings, self._clock, os.getpid())
        if not _same(status, self._status):
            self._news.set()
        self._status = status
        fresh = now - self._written_at < self._settings.heartbeat_seconds
        if fresh and _same(status, self._written):
            return
        path = self._home.node_status
        try:
            write_atomic(path, node_status_to_bytes(status, self._texts), durable=False)
        except OSError as error:
            self._note("status", path, "written", error)
            return
        self._written, self._written_at = status, now
        self._note("status", path)

    async def _report(self) -> None:
        reports = self._ports.reports
        while reports is not None:
            if self._status is not None:
                self._news.clear()
                try:
                    await asyncio.to_thread(reports.write, self._status)
                except (FairleadError, OSError) as error:
                    _log.debug("the node's status cannot be reported: %s", error)
                    self._news.set()  # it is still news
            await self._clock.sleep(_REPORT_GAP_SECONDS)
            try:
                async with timeout(self._settings.report_seconds):
                    await self._news.wait()
            except TimeoutError:
                continue

    async def _scrape(self) -> None:
        while True:
            await self._clock.sleep(self._settings.scrape_seconds)
            await self._metrics.scrape()

    async def _end(self) -> None:
        self._spare.end()
        if self._settings.keep_workers and self._life_fd is None:
            self._write_status(self._loads.plan)
            _log.info("%d workers are left running", len(self._table.processes))
            return
        for worker in self._table.workers.values():
            self._table.became(worker, State.DRAINING)
        self._write_status(NO_PLAN)
        # By their records, not by the table: whoever was not adopted yet goes as well.
        names = records.known(self._home)
        found = [living(self._home, self._ports.launcher, name) for name in names]
        left = [record.process for record in found if record is not None and record.process]
        left = await self._ask_to_end(left, signal.SIGTERM, self._settings.shutdown_seconds)
        if left:
            _log.warning("%d workers did not end in time and are killed", len(left))
        await self._ask_to_end(left, signal.SIGKILL, _KILL_SECONDS)
        for name in names:
            records.remove(self._home, name)
        self._table.workers.clear()
        self._table.processes.clear()
        self._table.catalog = None  # nothing is wanted any more
        self._write_status(NO_PLAN)

    async def _ask_to_end(
        self, left: list[ProcessId], number: signal.Signals, seconds: float
    ) -> list[ProcessId]:
        """Signal these processes and wait; returns those that still run."""
        launcher = self._ports.launcher
        with contextlib.suppress(TimeoutError):
            async with timeout(seconds), asyncio.TaskGroup() as group:
                for process in left:
                    if launcher.signal(process, number):
                        group.create_task(launcher.wait(process))
        return [process for process in left if launcher.alive(process)]


def _same(one: NodeStatus, other: NodeStatus | None) -> bool:
    """Do both say the same, whenever they were written?"""
    return other is not None and replace(one, written_at=other.written_at) == other


async def _set_when_closed(event: asyncio.Event, handle: int) -> None:
    await processes.wait_closed(handle)
    event.set()


@contextlib.contextmanager
def _signals(told: asyncio.Event) -> Iterator[None]:
    loop = asyncio.get_running_loop()
    numbers = (signal.SIGTERM, signal.SIGINT)
    for number in numbers:
        loop.add_signal_handler(number, told.set)
    try:
        yield
    finally:
        for number in numbers:
            loop.remove_signal_handler(number)
