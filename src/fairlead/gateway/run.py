"""The gateway's process: Envoy, the follower, the front desk, and an orderly end."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import socket
from collections.abc import Coroutine, Iterator
from pathlib import Path
from typing import Any

import uvicorn

from fairlead.domain.errors import FairleadError, Kind
from fairlead.domain.layout import ACCESS_LOG, Home
from fairlead.domain.ports import Catalogs
from fairlead.domain.table import RoutingTable
from fairlead.gateway.activator import Activator
from fairlead.gateway.certificates import Certificate, Pair, forget
from fairlead.gateway.follow import Follower, first_catalog, watch_catalog
from fairlead.gateway.front import FrontDesk
from fairlead.gateway.health import Health
from fairlead.gateway.index import index
from fairlead.gateway.listener import ENVOY_LOG, bootstrap
from fairlead.gateway.metrics import Metrics
from fairlead.gateway.ports import Envoy
from fairlead.gateway.settings import GatewaySettings, PortBusy, check
from fairlead.gateway.site import Site
from fairlead.gateway.state import CatalogCache, View, read_gateway_status, table_before
from fairlead.gateway.switches import Switches
from fairlead.gateway.usage import KeyUse
from fairlead.kits import files, processes
from fairlead.kits.clock import Clock

_RESTART_SECONDS = 0.2  # between tries to start an Envoy that does not start
_LONGEST_PAUSE_SECONDS = 5.0
_ROTATE_SECONDS = 1.0
_KEEP_ALIVE_SECONDS = 24 * 3600  # only Envoy connects, and it closes idle connections itself
_BACKLOG = 1024
_PRIVATE = 0o600
_log = logging.getLogger(__name__)


async def run_gateway(
    settings: GatewaySettings,
    home: Home[Path],
    catalogs: Catalogs,
    envoy: Envoy,
    clock: Clock,
    life_fd: int | None = None,
) -> int:
    """Serve until SIGTERM, SIGINT or the end of `life_fd`; returns the exit code.

    Raises InvalidInput for wrong settings and FairleadError if the port is taken, another gateway runs on
    this home, or Envoy does not start.
    """
    check(settings)
    if files.try_lock(home.gateway_lock) is None:
        raise FairleadError(f"another gateway runs on {home.root}", kind=Kind.CONFLICT)
    for directory in (home.gateway, home.logs):
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    try:
        files.private_directory(home.sockets)
    except PermissionError as error:
        raise FairleadError(str(error), kind=Kind.FORBIDDEN) from None
    view = _first_view(settings, home, catalogs)
    return await _Gateway(settings, home, envoy, view, clock).run(catalogs, life_fd)


def _first_view(settings: GatewaySettings, home: Home[Path], catalogs: Catalogs) -> View:
    empty = index(RoutingTable(api_version=settings.api_version))
    view = View(empty, empty)
    view.catalog = first_catalog(catalogs, CatalogCache(home.gateway_catalog), view)
    status = read_gateway_status(home.gateway_status) or read_gateway_status(
        home.gateway_last_status
    )
    view.index = index(table_before(view.catalog, status, settings.api_version))
    view.previous = view.index
    view.switches = status.switches if status else ()
    return view


class _Gateway:
    """One run of the gateway."""

    def __init__(
        self,
        settings: GatewaySettings,
        home: Home[Path],
        envoy: Envoy,
        view: View,
        clock: Clock,
    ) -> None:
        self._settings = settings
        self._home = home
        self._envoy = envoy
        self._view = view
        self._clock = clock
        self._stopping = asyncio.Event()
        self._activator = Activator(view, home, clock, settings)

    async def run(self, catalogs: Catalogs, life_fd: int | None) -> int:
        desk = _Desk(self._desk(), self._home.front_socket)
        held = _unix_socket(self._home.activator_socket)
        with _signals(self._stopping), held as listening:
            async with asyncio.TaskGroup() as group:
                group.create_task(desk.serve())
                holding = group.create_task(self._activator.serve(listening))
                failed: FairleadError | None = None
                try:
                    first = await self._start()
                    await self._work(catalogs, life_fd, first=first)
                except FairleadError as error:
                    failed = error
                finally:
                    desk.stop()
                    holding.cancel()
        if failed is not None:
            raise failed
        return 0

    def _desk(self) -> FrontDesk:
        health = Health(self._view, self._clock)
        metrics = Metrics(self._home, self._envoy, self._view, self._activator.held)
        site = Site(self._settings, self._home, self._view, health, metrics)
        return FrontDesk(self._view, self._settings, site.pages(), self._clock)

    async def _start(self) -> bool:
        """Says whether this is the first start: no routes were ever set here.

        What fails at a first start is for the one who starts it. Later it passes, or `_keep_envoy` waits
        for it: a gateway that has served before does not give up.
        """
        wanted = bootstrap(self._home)
        if await self._envoy.adopt(wanted):
            _log.info("adopted the running Envoy", extra={"event": "gateway"})
            self._view.envoy_up = True
            return False
        first = not self._envoy.routes()
        claim_port(self._settings)
        try:
            await self._envoy.start(wanted)
        except (FairleadError, OSError) as error:
            if first:
                raise FairleadError(str(error)) from error
            self._view.note("envoy", str(error))
        else:
            self._view.envoy_up = True
        return first

    def _switches(self) -> Switches:
        switch, held = self._settings.kill_switch, self._activator.switched_off
        return Switches(self._envoy, self._view, switch, self._clock, held)

    async def _work(self, catalogs: Catalogs, life_fd: int | None, *, first: bool) -> None:
        using = self._activator.using
        follower = Follower(self._settings, self._home, self._envoy, self._view, self._clock, using)
        certificate = self._certificate()
        if certificate is not None:
            await self._first_certificate(certificate, first=first)
        if first:
            await follower.step()
            if follower.refused:
                await self._envoy.stop(0.0)
                raise FairleadError(follower.refused)
        _log.info("listening on %s", self._settings.url, extra={"event": "gateway"})
        cache = CatalogCache(self._home.gateway_catalog)
        works: list[Coroutine[Any, Any, None]] = [
            watch_catalog(catalogs, cache, self._view, self._clock),
            follower.follow(),
            follower.heartbeat(),
            self._keep_envoy(follower, certificate),
            self._rotate(),
            self._switches().follow(),
            KeyUse(self._home, self._view, self._clock).follow(),
        ]
        if certificate is not None:
            works.append(certificate.follow())
        else:
            works.append(forget(self._envoy, self._clock))
        if life_fd is not None:
            works.append(self._watch_owner(life_fd))
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(work) for work in works]
            await self._stopping.wait()
            for task in tasks:
                task.cancel()
        _log.info("draining", extra={"event": "gateway"})
        await self._envoy.drain(self._settings.stop_seconds)
        await self._envoy.stop(self._settings.stop_seconds)
        # Nobody routes any more, and says so; the next gateway still learns what flowed until now: traffic
        # that had not moved to a revision yet, because that was not ready, has not moved at a restart either.
        with contextlib.suppress(FileNotFoundError):
            self._home.gateway_status.replace(self._home.gateway_last_status)

    def _certificate(self) -> Certificate | None:
        settings = self._settings
        if settings.certificate is None or settings.private_key is None:
            return None
        pair = Pair(settings.certificate, settings.private_key)
        return Certificate(pair, self._envoy, self._view, self._clock)

    async def _first_certificate(self, certificate: Certificate, *, first: bool) -> None:
        """Before any listener asks for it. One who has served before goes on with the pair it had."""
        try:
            await certificate.set()
        except (FairleadError, OSError) as error:
            if first:
                await self._envoy.stop(0.0)
                raise FairleadError(str(error)) from error

    async def _keep_envoy(self, follower: Follower, certificate: Certificate | None) -> None:
        """Start Envoy again as soon as it has ended; it finds its last configuration on disk.

        Or the one before, if none starts with the last: so it is told once more what it should have.
        """
        pause = _RESTART_SECONDS
        while True:
            how = await self._envoy.ended()
            self._view.envoy_up = False
            _log.error("Envoy has ended (%s): starting it again", how, extra={"event": "gateway"})
            while not self._view.envoy_up:
                try:
                    await self._envoy.start(bootstrap(self._home))
                except (FairleadError, OSError) as error:
                    self._view.note("envoy", str(error))
                    await self._clock.sleep(pause)
                    pause = min(2 * pause, _LONGEST_PAUSE_SECONDS)
                else:
                    self._view.envoy_up = True
            follower.again()
            if certificate is not None:
                certificate.again()
            pause = _RESTART_SECONDS
            self._view.envoy_restarts += 1
            self._view.note("envoy", "")

    async def _rotate(self) -> None:
        """Keep Envoy's logs below their bound, and as many older ones as the settings say."""
        logs = [self._home.logs / name for name in (ACCESS_LOG, ENVOY_LOG)]
        while True:
            for log in logs:
                with contextlib.suppress(OSError):  # a log that cannot be renamed goes on growing
                    if log.stat().st_size > self._settings.access_log_bytes:
                        files.shift(log, self._settings.access_log_files)
                        await self._envoy.reopen_logs()
            await self._clock.sleep(_ROTATE_SECONDS)

    async def _watch_owner(self, life_fd: int) -> None:
        await processes.wait_closed(life_fd)
        _log.warning("the owner of this gateway has ended", extra={"event": "gateway"})
        self._stopping.set()


class _Desk(uvicorn.Server):
    """The front desk on its unix socket; signals are the gateway's to handle."""

    def __init__(self, app: FrontDesk, path: Path) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                lifespan="off",
                log_config=None,
                access_log=False,
                server_header=False,
                proxy_headers=False,
                timeout_keep_alive=_KEEP_ALIVE_SECONDS,
                timeout_graceful_shutdown=1,
                ws="none",
            )
        )
        self._path = path

    async def serve(self, sockets: list[socket.socket] | None = None) -> None:  # noqa: ARG002 - the base's signature
        with _unix_socket(self._path) as listening:
            await super().serve([listening])

    def stop(self) -> None:
        self.should_exit = True

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


@contextlib.contextmanager
def _unix_socket(path: Path) -> Iterator[socket.socket]:
    """Listen on a path, which leads to the old listener until the new one is ready."""
    beside = path.with_suffix(".new")
    beside.unlink(missing_ok=True)
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(beside))
        beside.chmod(_PRIVATE)
        listening.listen(_BACKLOG)
        beside.replace(path)
        yield listening


@contextlib.contextmanager
def _signals(stopping: asyncio.Event) -> Iterator[None]:
    loop = asyncio.get_running_loop()
    numbers = (signal.SIGTERM, signal.SIGINT)
    for number in numbers:
        loop.add_signal_handler(number, stopping.set)
    try:
        yield
    finally:
        for number in numbers:
            loop.remove_signal_handler(number)


def claim_port(settings: GatewaySettings) -> None:
    """Raises PortBusy if somebody listens there; asked before Envoy, which would share the port with them."""
    family = socket.AF_INET6 if ":" in settings.address else socket.AF_INET
    with socket.socket(family) as trial:
        trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            trial.bind((settings.address, settings.port))
        except PermissionError:
            raise FairleadError(
                f"port {settings.port} needs more rights than this user has: choose one from 1024"
            ) from None
        except OSError as error:
            raise PortBusy(settings) from error
