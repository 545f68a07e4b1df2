"""Listening: an ASGI app on a unix socket or a TCP port, until told to stop.

Stopping has an order: no new connections, the requests under way finish (for at most the drain time),
then the caller unloads. The socket file appears only when somebody listens behind it, and is gone after.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import socket
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from pathlib import Path

import uvicorn

from fairlead.api.worker import RETIRE_PATH
from fairlead.domain.errors import Kind, Refused
from fairlead.kits.clock import Clock
from fairlead.server.http.app import ServerApp
from fairlead.server.http.protocol import HttpProtocol

_log = logging.getLogger(__name__)
_BACKLOG = 2048
_DRAIN_LOOK_SECONDS = 0.02
# A gateway closes idle connections itself; were the server first, it would cut a request on its way.
_UNIX_KEEP_ALIVE_SECONDS = 24 * 3600
_TCP_KEEP_ALIVE_SECONDS = 75


@dataclass(frozen=True, slots=True)
class Listen:
    """Where to listen: a unix socket, or a TCP address (`shared`: with other processes on the same port)."""

    uds: Path | None = None
    host: str = "127.0.0.1"
    port: int = 0
    shared: bool = False


class Socket:
    """A bound socket, and its name in the world once somebody listens behind it."""

    def __init__(self, listen: Listen) -> None:
        """Raises Refused (CONFLICT) if the address is taken."""
        self.listen = listen
        self.bound = _bind(listen)

    def announce(self) -> None:
        if self.listen.uds is not None:
            _beside(self.listen.uds).replace(self.listen.uds)
            _log.info("listening on %s", self.listen.uds)
        else:
            host, port = self.bound.getsockname()[:2]
            _log.info("listening on http://%s:%d", host, port)

    def close(self) -> None:
        self.bound.close()
        if self.listen.uds is not None:
            self.listen.uds.unlink(missing_ok=True)
            _beside(self.listen.uds).unlink(missing_ok=True)


@dataclass(slots=True, eq=False)
class Way:
    """One app and where it answers."""

    app: ServerApp
    at: Socket
    listener: asyncio.Server | None = None


class Server(uvicorn.Server):
    """One server for all the ways into a process. Signals are the process's business, not the server's."""

    def __init__(self, config: uvicorn.Config, ways: Sequence[Way]) -> None:
        super().__init__(config)
        self._ways = ways

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        del sockets  # each way has its own
        await self.lifespan.startup()
        loop = asyncio.get_running_loop()
        self.servers = []
        for way in self._ways:
            make = functools.partial(self._protocol, way.app, loop)
            way.listener = await loop.create_server(make, sock=way.at.bound, backlog=_BACKLOG)
            self.servers.append(way.listener)
        self.started = True
        for way in self._ways:
            way.at.announce()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        await super().shutdown(sockets)
        for connection in list(self.server_state.connections):
            if isinstance(connection, HttpProtocol):
                connection.give_up()

    def _protocol(self, app: ServerApp, loop: asyncio.AbstractEventLoop) -> HttpProtocol:
        made = HttpProtocol(
            lane=app, config=self.config, server_state=self.server_state, app_state={}, _loop=loop
        )
        made.app = app
        return made

    async def retire(self, way: Way, seconds: float, clock: Clock) -> None:
        """Close one way as the whole server is closed, while the others go on; whoever asked for it is not waited for."""
        if way.listener is None or way.listener not in self.servers:
            return
        way.app.stop()
        self.servers.remove(way.listener)
        way.listener.close()
        way.at.close()
        for connection in self._connections(way):
            connection.shutdown()
        until = clock.monotonic() + seconds
        while self._connections(way) and clock.monotonic() < until:
            await clock.sleep(_DRAIN_LOOK_SECONDS)
        for connection in self._connections(way):
            connection.transport.abort()

    def _connections(self, way: Way) -> list[HttpProtocol]:
        return [
            one
            for one in self.server_state.connections
            if isinstance(one, HttpProtocol) and one.app is way.app and not _retires(one)
        ]


def _retires(connection: HttpProtocol) -> bool:
    scope = getattr(connection.active, "scope", None)
    return scope is not None and scope["raw_path"] == RETIRE_PATH.encode()


async def serve(app: ServerApp, at: Socket, *, stop: asyncio.Event, drain_seconds: float) -> None:
    """Serve until `stop` is set and the requests under way are answered; the socket is gone after."""
    ways = [Way(app, at)]
    await serve_ways(ways, server_of(ways, drain_seconds), stop)


def server_of(ways: Sequence[Way], drain_seconds: float) -> Server:
    """What listens at all these ways, which are of one kind."""
    first = ways[0]
    unix = first.at.listen.uds is not None
    keep_alive = _UNIX_KEEP_ALIVE_SECONDS if unix else _TCP_KEEP_ALIVE_SECONDS
    config = uvicorn.Config(
        first.app,
        loop="none",
        http=HttpProtocol,
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        date_header=False,
        proxy_headers=False,
        backlog=_BACKLOG,
        timeout_keep_alive=keep_alive,
        timeout_graceful_shutdown=max(1, round(drain_seconds)),
    )
    return Server(config, ways)


async def serve_ways(ways: Sequence[Way], server: Server, stop: asyncio.Event) -> None:
    """Serve until `stop` is set and the requests under way are answered; the sockets are gone after."""
    try:
        async with asyncio.TaskGroup() as group:
            running = group.create_task(server.serve())
            stopping = group.create_task(_stop(server, ways, stop))
            await asyncio.wait({running})
            stopping.cancel()
    finally:
        for way in ways:
            way.at.close()


async def _stop(server: uvicorn.Server, ways: Sequence[Way], stop: asyncio.Event) -> None:
    await stop.wait()
    for way in ways:
        way.app.stop()
    server.should_exit = True


def _bind(listen: Listen) -> socket.socket:
    if listen.uds is not None:
        return _bind_unix(_beside(listen.uds))
    family = socket.AF_INET6 if ":" in listen.host else socket.AF_INET
    bound = socket.socket(family, socket.SOCK_STREAM)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if listen.shared:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    try:
        bound.bind((listen.host, listen.port))
    except OSError as error:
        bound.close()
        message = f"{listen.host}:{listen.port} cannot be listened on: {error.strerror or error}; choose another host or port"
        raise Refused(Kind.CONFLICT, message) from None
    bound.setblocking(False)  # noqa: FBT003 - the standard library's signature
    return bound


def _bind_unix(path: Path) -> socket.socket:
    path.unlink(missing_ok=True)
    bound = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        bound.bind(str(path))
    except OSError as error:
        bound.close()
        raise Refused(Kind.CONFLICT, f"{path} cannot be listened on: {error}") from None
    path.chmod(0o600)  # who may ask a worker is who runs it
    bound.setblocking(False)  # noqa: FBT003 - the standard library's signature
    return bound


def _beside(path: Path) -> Path:
    """Where the socket lives until somebody listens."""
    return path.with_name(path.name + "~")
