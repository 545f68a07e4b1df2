"""The agent's own little server on its unix socket: `GET /metrics`, and `POST /internal/wake` for the gateway."""

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
from fairlead.api.agent import WAKE_PATH, Wake, wakes_from_json
from fairlead.domain.errors import InvalidInput
from fairlead.kits.files import private_directory

_Message = MutableMapping[str, Any]
_Receive = Callable[[], Awaitable[_Message]]
_Send = Callable[[_Message], Awaitable[None]]

_Woken = Callable[[list[Wake]], None]

_PRIVATE = 0o600
_LARGEST_WAKE = 4 * 1024 * 1024  # a thousand endpoints are some hundred kilobytes


class _Server(uvicorn.Server):
    """A server inside a process that minds its signals itself."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


async def serve(metrics: Metrics, wake: _Woken, path: Path, stop: asyncio.Event) -> None:
    """Answer on `path` until `stop` is set; `wake` is told whom somebody waits for."""
    with _listening(path) as listener:
        config = uvicorn.Config(
            _app(metrics, wake),
            lifespan="off",
            access_log=False,
            log_config=None,
            log_level="warning",
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


def _app(metrics: Metrics, wake: _Woken) -> Callable[[_Message, _Receive, _Send], Awaitable[None]]:
    async def app(scope: _Message, receive: _Receive, send: _Send) -> None:
        asked = scope["method"], scope["path"]
        if asked == ("POST", WAKE_PATH):
            await _wake(wake, receive, send)
        elif asked in (("GET", "/metrics"), ("HEAD", "/metrics")):
            accept = dict(scope["headers"]).get(b"accept", b"").decode("latin-1")
            encode, content_type = exposition.choose_encoder(accept)
            await metrics.scrape()
            await _answer(send, 200, encode(metrics), content_type)
        else:
            told = f"only GET /metrics and POST {WAKE_PATH} are here\n"
            await _answer(send, 404, told.encode(), "text/plain")

    return app


async def _wake(wake: _Woken, receive: _Receive, send: _Send) -> None:
    body, more = b"", True
    while more:
        message = await receive()
        body += message.get("body", b"")
        more = message.get("more_body", False)
        if len(body) > _LARGEST_WAKE:
            await _answer(send, 413, b"too long\n", "text/plain")
            return
    try:
        wakes = wakes_from_json(body)
    except InvalidInput as error:
        await _answer(send, 400, f"{error}\n".encode(), "text/plain")
        return
    wake(wakes)
    await _answer(send, 202, b"", "text/plain")


async def _answer(send: _Send, status: int, body: bytes, content_type: str) -> None:
    headers = [(b"content-type", content_type.encode()), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
