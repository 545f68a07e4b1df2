"""Requests as bytes over a unix socket, and what ASGI would have answered to them."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from fairlead.api.worker import WorkerSpec
from fairlead.server.http.serve import Listen, Socket, serve
from support.serving import InProcess, eventually, in_process


@dataclass
class Served:
    """A server on a unix socket in this process, and its app without a server."""

    running: InProcess
    path: Path
    stop: asyncio.Event
    task: asyncio.Task[None]


@contextlib.asynccontextmanager
async def served_at(
    directory: Path, spec: WorkerSpec, drain_seconds: float = 5
) -> AsyncIterator[Served]:
    """Serve this in `directory`, until the context is left."""
    async with in_process(spec) as running, asyncio.TaskGroup() as group:
        at = Socket(Listen(uds=directory / "s"))
        stop = asyncio.Event()
        task = group.create_task(serve(running.app, at, stop=stop, drain_seconds=drain_seconds))
        await eventually((directory / "s").exists)
        yield Served(running, directory / "s", stop, task)
        stop.set()


@contextlib.contextmanager
def standing_at(directory: Path, spec: WorkerSpec) -> Iterator[tuple[asyncio.Runner, Served]]:
    """The same for many examples of a property test; its loop runs only while an example does."""
    with asyncio.Runner() as runner:
        stack = contextlib.AsyncExitStack()

        async def enter() -> Served:
            running = await stack.enter_async_context(in_process(spec))
            at = Socket(Listen(uds=directory / "s"))
            stop = asyncio.Event()
            task = asyncio.ensure_future(serve(running.app, at, stop=stop, drain_seconds=5))
            await eventually((directory / "s").exists)
            return Served(running, directory / "s", stop, task)

        async def leave(found: Served) -> None:
            found.stop.set()
            await found.task
            await stack.aclose()

        found = runner.run(enter())
        yield runner, found
        runner.run(leave(found))


async def refuses(path: Path) -> bool:
    """Does nobody listen here any more?"""
    try:
        _, writer = await asyncio.open_unix_connection(str(path))
    except OSError:
        return True
    writer.close()
    return False


@dataclass(frozen=True)
class Asked:
    """One request as it goes over the wire. `body` in several chunks is sent chunked."""

    method: str
    target: str
    headers: tuple[tuple[str, str], ...]
    body: tuple[bytes, ...]

    def wire(self) -> bytes:
        lines = [f"{self.method} {self.target} HTTP/1.1", "host: here"]
        lines += [f"{name}: {value}" for name, value in self.headers]
        if len(self.body) == 1:
            lines.append(f"content-length: {len(self.body[0])}")
            body = self.body[0]
        else:
            lines.append("transfer-encoding: chunked")
            chunks = (b"%x\r\n%b\r\n" % (len(part), part) for part in self.body if part)
            body = b"".join(chunks) + b"0\r\n\r\n"
        return "\r\n".join([*lines, "", ""]).encode("latin-1") + body


async def send_cut(writer: asyncio.StreamWriter, wire: bytes, cuts: Sequence[int]) -> None:
    """Send it in pieces that end at these places, those beyond its end left out."""
    places = sorted({cut for cut in cuts if cut < len(wire)})
    for start, end in zip([0, *places], [*places, len(wire)], strict=True):
        writer.write(wire[start:end])
        await writer.drain()
        await asyncio.sleep(0)  # let the server read this much


async def read_answer(reader: asyncio.StreamReader) -> tuple[int, dict[str, str], bytes]:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    pairs = (line.partition(": ") for line in head[1:] if line)
    headers = {name.lower(): value for name, _, value in pairs}
    body = await reader.readexactly(int(headers["content-length"]))
    return int(head[0].split()[1]), headers, body


async def by_asgi(running: InProcess, one: Asked) -> tuple[int, str, str, bytes]:
    answer = await running.client.request(
        one.method, one.target, headers=list(one.headers), content=b"".join(one.body)
    )
    kind, code = (answer.headers.get(name, "") for name in ("content-type", "x-error-code"))
    return answer.status_code, kind, code, answer.content
