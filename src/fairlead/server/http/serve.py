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
from collections.abc import Callable, Generator
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import uvicorn

from fairlead.domain.errors import Kind, Refused
from fairlead.server.http.app import ServerApp
from fairlead.server.http.protocol import HttpProtocol

_log = logging.getLogger(__name__)
_BACKLOG = 2048
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


class _Server(uvicorn.Server):
    """Signals are the process's business, not the server's."""

    def __init__(self, config: uvicorn.Config, listening: Callable[[], None]) -> None:
        super().__init__(config)
        self._listening = listening

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._listening()


async def serve(app: ServerApp, at: Socket, *, stop: asyncio.Event, drain_seconds: float) -> None:
    """Serve until `stop` is set and the requests under way are answered; the socket is gone after."""
    keep_alive = _TCP_KEEP_ALIVE_SECONDS if at.listen.uds is None else _UNIX_KEEP_ALIVE_SECONDS
    config = uvicorn.Config(
        app,
        loop="none",
        http=cast("type[asyncio.Protocol]", functools.partial(HttpProtocol, lane=app)),
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
    server = _Server(config, at.announce)
    try:
        async with asyncio.TaskGroup() as group:
            running = group.create_task(server.serve(sockets=[at.bound]))
            stopping = group.create_task(_stop(server, app, stop))
            await asyncio.wait({running})
            stopping.cancel()
    finally:
        at.close()


async def _stop(server: uvicorn.Server, app: ServerApp, stop: asyncio.Event) -> None:
    await stop.wait()
    app.stop()
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
