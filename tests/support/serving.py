"""Model servers in this process (for speed) and as real workers (for truth)."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import sys
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import httpx
import uvicorn

from fairlead.api.worker import ServingSettings, WorkerSpec
from fairlead.kits.clock import SystemClock
from fairlead.server.dataplane import DataPlane
from fairlead.server.endpoints import endpoints_of
from fairlead.server.http.app import ServerApp
from fairlead.server.http.protocol import HttpProtocol
from fairlead.server.http.routes import ServedRevision
from fairlead.server.loading import LoadedArtifact, load_artifact
from support.effort import PATIENCE
from support.plain import NO_TLS

ROOT = Path(__file__).parent.parent.parent


@dataclass
class InProcess:
    """An app over loaded artifacts, and a client that calls it without a network."""

    app: ServerApp
    plane: DataPlane
    client: httpx.AsyncClient
    artifacts: list[LoadedArtifact]


@contextlib.asynccontextmanager
async def in_process(*specs: WorkerSpec, versioned: bool = False) -> AsyncIterator[InProcess]:
    clock = SystemClock()
    plane = DataPlane()
    settings = specs[0].settings if specs else ServingSettings()
    app = ServerApp(plane, settings, clock, {"worker": "w1"})
    served = []
    for spec in specs:
        artifact = await load_artifact(spec.artifact, spec.digest, spec.threads, clock)
        for endpoint in await endpoints_of(spec, artifact, clock):
            plane.add(endpoint)
        served.append(ServedRevision(spec, artifact))
    if served:
        app.serve(served, versioned=versioned)
    transport = httpx.ASGITransport(app)
    try:
        async with httpx.AsyncClient(
            transport=transport, base_url="http://server", timeout=40
        ) as client:
            yield InProcess(app, plane, client, [one.artifact for one in served])
    finally:
        plane.close()


@contextlib.asynccontextmanager
async def listening(app: ServerApp, path: Path, idle_seconds: float = 30) -> AsyncIterator[Path]:
    """The HTTP protocol on a unix socket, with an idle limit shorter than uvicorn's settings take."""
    config = uvicorn.Config(
        app,
        loop="none",
        http=cast("type[asyncio.Protocol]", functools.partial(HttpProtocol, lane=app)),
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        timeout_keep_alive=cast("int", idle_seconds),
    )
    config.load()
    state = uvicorn.server.ServerState()
    server = await asyncio.get_running_loop().create_unix_server(
        lambda: HttpProtocol(lane=app, config=config, server_state=state, app_state={}), str(path)
    )
    try:
        yield path
    finally:
        server.close()
        for connection in list(state.connections):
            cast("HttpProtocol", connection).transport.abort()
        await server.wait_closed()


@dataclass
class Worker:
    """A real worker process on a unix socket. `log` is what it printed."""

    process: asyncio.subprocess.Process
    client: httpx.AsyncClient
    socket: Path
    log: Path

    async def identity(self) -> dict[str, object]:
        answer = await self.client.get("/internal/identity")
        found: dict[str, object] = answer.json()
        return found

    async def stop(self, seconds: float = 15.0) -> int:
        if self.process.returncode is None:
            self.process.terminate()
        async with asyncio.timeout(seconds):
            return await self.process.wait()


@contextlib.asynccontextmanager
async def worker(spec: WorkerSpec, directory: Path, *, ready: bool = True) -> AsyncIterator[Worker]:
    """Start a worker for `spec`; with `ready`, wait until it is."""
    assert spec.socket is not None
    orders = directory / "spec.json"
    orders.write_text(spec.to_json())
    log = directory / "worker.log"
    with log.open("wb") as output:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "fairlead", "worker", "--spec", str(orders)),
            stderr=output,
            stdout=output,
            pass_fds=(spec.life_fd,) if spec.life_fd is not None else (),
        )
    transport = httpx.AsyncHTTPTransport(uds=str(spec.socket), verify=NO_TLS)
    async with httpx.AsyncClient(
        transport=transport, base_url="http://worker", timeout=40
    ) as client:
        started = Worker(process, client, spec.socket, log)
        try:
            if ready:
                await until_ready(started)
            yield started
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()


async def until_ready(started: Worker, seconds: float = 30.0) -> None:
    async def is_ready() -> bool:
        assert started.process.returncode is None, started.log.read_text()
        try:
            return bool((await started.identity())["ready"])
        except httpx.TransportError:
            return False

    await eventually(is_ready, seconds)


async def eventually(condition: Callable[[], object], seconds: float = 10.0) -> None:
    """Wait for a condition (plain or async) with a deadline."""
    async with asyncio.timeout(seconds * PATIENCE):
        while True:
            found = condition()
            if asyncio.iscoroutine(found):
                found = await found
            if found:
                return
            await asyncio.sleep(0.01)
