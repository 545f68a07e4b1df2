"""The agent's own little server: `GET /metrics` on its unix socket."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Awaitable, Callable, Iterator, MutableMapping
from pathlib import Path
from typing import Any

import uvicorn
from prometheus_client import exposition

from fairlead.agent.metrics import Metrics
from fairlead.kits.files import private_directory

_Message = MutableMapping[str, Any]
_Receive = Callable[[], Awaitable[_Message]]
_Send = Callable[[_Message], Awaitable[None]]

_PRIVATE = 0o600


class _Server(uvicorn.Server):
    """A server inside a process that minds its signals itself."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


async def serve(metrics: Metrics, path: Path, stop: asyncio.Event) -> None:
    """Answer on `path` until `stop` is set."""
    with _listening(path) as listener:
        config = uvicorn.Config(
            _app(metrics), lifespan="off", access_log=False, log_config=None, log_level="warning"
        )
        server = _Server(config)
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(server.serve(sockets=[listener]))
                await stop.wait()
                server.should_exit = True
        finally:
            # Cancelled, it would leave its listener registered with the event loop.
            for listening in getattr(server, "servers", ()):
                listening.close()


@contextlib.contextmanager
def _listening(path: Path) -> Iterator[socket.socket]:
    private_directory(path.parent)
    path.unlink(missing_ok=True)
    with contextlib.closing(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)) as listener:
        listener.bind(str(path))
        path.chmod(_PRIVATE)
        yield listener
    path.unlink(missing_ok=True)


def _app(metrics: Metrics) -> Callable[[_Message, _Receive, _Send], Awaitable[None]]:
    async def app(scope: _Message, receive: _Receive, send: _Send) -> None:  # noqa: ARG001 - ASGI's own
        if scope["path"] != "/metrics" or scope["method"] not in ("GET", "HEAD"):
            await _answer(send, 404, b"only GET /metrics is here\n", "text/plain")
            return
        accept = dict(scope["headers"]).get(b"accept", b"").decode("latin-1")
        encode, content_type = exposition.choose_encoder(accept)
        await metrics.scrape()
        await _answer(send, 200, encode(metrics), content_type)

    return app


async def _answer(send: _Send, status: int, body: bytes, content_type: str) -> None:
    headers = [(b"content-type", content_type.encode()), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
