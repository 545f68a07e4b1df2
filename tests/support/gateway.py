"""A gateway in front of tiny workers that say who they are: the real Envoy, everything else in this process."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import socket
import sys
import tempfile
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import httpx

from fairlead.adapters.envoy import EnvoyPlaces, EnvoyProcess, envoy_binary
from fairlead.adapters.memory.store import MemoryObjectStore
from fairlead.adapters.secrets import SecretsFile
from fairlead.adapters.store.catalogs import StoredCatalogs
from fairlead.adapters.store.directory import DirectoryObjectStore
from fairlead.api.http_status import NO_FAULT
from fairlead.domain.catalog import Catalog, Line, Pin, Revision, Service
from fairlead.domain.ids import ArtifactRef, EndpointId, LineId, RevisionId
from fairlead.domain.keys import KeyRecord, Scope
from fairlead.domain.layout import Home
from fairlead.domain.ports import ObjectStore
from fairlead.domain.release import EndpointSpec, TrafficShare
from fairlead.domain.status import NodeStatus, Replica, State, node_status_to_bytes
from fairlead.gateway.run import run_gateway
from fairlead.gateway.settings import GatewaySettings
from fairlead.kits import files
from fairlead.kits.clock import SystemClock
from support.effort import PATIENCE
from support.plain import NO_TLS

CLOCK = SystemClock()
MAIN = Path(__file__).with_name("gateway_main.py")
DIGEST = "sha256:" + "0" * 64


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def revision(
    name: str, artifact: int = 1, paths: Mapping[str, tuple[str, ...]] | None = None
) -> Revision:
    """`speech/v9.2`, with the endpoints that `paths` names."""
    service, _, version = name.partition("/")
    line, _, tag = version.partition(".")
    endpoints = tuple(
        EndpointSpec(endpoint, paths=own) for endpoint, own in (paths or {"predict": ()}).items()
    )
    one = RevisionId(service, line, tag)
    return Revision(one, ArtifactRef(service, artifact), DIGEST, endpoints, "", 0.0)


def catalog(
    *revisions: Revision,
    traffic: Mapping[str, Mapping[str, int]],
    pins: Mapping[str, str],
    keys: Mapping[str, tuple[str, ...]],
) -> Catalog:
    """`traffic` maps `speech/v9` to percents by revision, `keys` clients to their scopes."""
    services: dict[str, Service] = {}
    for one in revisions:
        line_id = one.id.line_id
        service = services.get(line_id.service) or Service(
            line_id.service, {}, Pin(pins[line_id.service], by_hand=False)
        )
        line = service.lines.get(line_id.line) or Line(line_id, {}, _shares(traffic, line_id))
        line = replace(line, revisions={**line.revisions, one.id.revision: one})
        services[line_id.service] = replace(service, lines={**service.lines, line_id.line: line})
    records = {
        client: KeyRecord(client, tuple(map(Scope.parse, allowed)), 0.0, "fingerprint")
        for client, allowed in keys.items()
    }
    return Catalog(1, services, records)


def _shares(traffic: Mapping[str, Mapping[str, int]], line_id: LineId) -> tuple[TrafficShare, ...]:
    return tuple(TrafficShare(tag, percent) for tag, percent in traffic[str(line_id)].items())


class Worker:
    """Answers every request with its own name, or slowly: `x-wait` seconds later; or with `x-status`, `x-code` and `x-excuse`; or breaks off (`x-break`)."""

    def __init__(self, name: str, one: RevisionId, path: Path) -> None:
        self.replica = Replica(name, one, DIGEST, State.READY, socket=str(path))
        self.seen: list[tuple[str, dict[str, str]]] = []
        self.status = 200
        self.code = ""
        self.open = 0  # requests that it is at
        self._path = path
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()
        self._gone = asyncio.Event()

    async def start(self) -> None:
        self._server = await asyncio.start_unix_server(self._serve, str(self._path))

    async def stop(self) -> None:
        """Go away at once, open connections too."""
        if self._server is None:
            return
        self._server.close()
        self._gone.set()
        for writer in list(self._writers):
            writer.transport.abort()
        self._server = None
        self._path.unlink(missing_ok=True)

    async def _leaves(self, reader: asyncio.StreamReader, seconds: float) -> bool:
        """Be at a request for so long; does the caller leave meanwhile, or the worker?"""
        self.open += 1
        gone = asyncio.ensure_future(self._gone.wait())
        left = asyncio.ensure_future(reader.read(1))
        done, pending = await asyncio.wait(
            (gone, left), timeout=seconds, return_when="FIRST_COMPLETED"
        )
        for task in pending:
            task.cancel()
        await asyncio.wait((gone, left))  # before the next request is read
        self.open -= 1
        return bool(done)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
                headers = dict(line.split(": ", 1) for line in head[1:] if line)
                await reader.readexactly(int(headers.get("content-length", 0)))
                self.seen.append((head[0], headers))
                if "x-wait" in headers and await self._leaves(reader, float(headers["x-wait"])):
                    return
                if headers.get("x-break") == "chunked":
                    writer.write(
                        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n6\r\nbroken\r\n"
                    )
                    return
                if "x-break" in headers:
                    writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nbroken")
                    return
                body = json.dumps({"worker": self.replica.worker}).encode()
                said = headers.get("x-code", self.code)
                code = f"x-error-code: {said}\r\n" if said else ""
                code += f"{NO_FAULT}: deadline\r\n" if "x-excuse" in headers else ""
                writer.write(
                    b"HTTP/1.1 %b OK\r\nserver: worker\r\ncontent-type: application/json\r\n%b"
                    b"x-served-version: %b\r\nx-service: %b\r\ncontent-length: %d\r\n\r\n%b"
                    % (
                        headers.get("x-status", str(self.status)).encode(),
                        code.encode(),
                        self.replica.revision.served_version.encode(),
                        self.replica.revision.service.encode(),
                        len(body),
                        body,
                    )
                )
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            self._writers.discard(writer)
            writer.close()


@dataclass
class World:
    """One home with a gateway: change the catalog, the workers, the keys, and ask."""

    home: Home[Path]
    settings: GatewaySettings
    store: ObjectStore = field(default_factory=MemoryObjectStore)
    workers: dict[str, Worker] = field(default_factory=dict)
    cold: set[EndpointId] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.catalogs = StoredCatalogs(self.store, CLOCK)
        self.envoy = self.new_envoy()

    def new_envoy(self) -> EnvoyProcess:
        places = EnvoyPlaces(
            envoy_binary(),
            self.home.envoy,
            self.home.envoy_admin_socket,
            self.home.logs,
        )
        return EnvoyProcess(places, self.settings.concurrency, CLOCK)

    def set_catalog(self, wanted: Catalog) -> None:
        self.catalogs.commit(replace(wanted, generation=self.catalogs.read().generation), "test")

    def set_keys(self, keys: Mapping[str, str]) -> None:
        """Secrets by client."""
        secrets = SecretsFile(self.home.keys)
        for client in secrets.read():
            secrets.remove(client)
        for client, secret in keys.items():
            secrets.put(client, secret)

    async def add_worker(self, name: str, version: str) -> Worker:
        service, _, served = version.partition("/")
        line, _, tag = served.partition(".")
        worker = Worker(name, RevisionId(service, line, tag), self.home.sockets / f"{name}.sock")
        await worker.start()
        self.workers[name] = worker
        return worker

    async def drop_worker(self, name: str) -> None:
        await self.workers.pop(name).stop()

    def write_status(self) -> None:
        """What an agent would write: every worker there is."""
        replicas = tuple(worker.replica for worker in self.workers.values())
        status = NodeStatus("node", CLOCK.now(), os.getpid(), 1, replicas, cold=tuple(self.cold))
        files.write_atomic(self.home.node_status, node_status_to_bytes(status), durable=False)

    async def beat(self) -> None:
        """Be an agent: write the status again and again, until cancelled."""
        while True:
            self.write_status()
            await asyncio.sleep(0.2)

    def gateway_status(self) -> dict[str, Any]:
        try:
            return dict(json.loads(self.home.gateway_status.read_bytes()))
        except FileNotFoundError:
            return {}

    async def routed(self, seconds: float = 5.0) -> None:
        """Wait until the newest catalog is routed, whole."""
        newest = self.catalogs.read().generation
        await eventually(
            lambda: self.gateway_status().get("generation") == newest, seconds, "routed"
        )

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[asyncio.Task[int]]:
        """The gateway, in this process; ended by its life pipe."""
        life, owner = os.pipe()
        async with asyncio.TaskGroup() as group:
            task = group.create_task(
                run_gateway(self.settings, self.home, self.catalogs, self.envoy, CLOCK, life)
            )
            try:
                await eventually(lambda: task.done() or self.gateway_status(), 10, "started")
                yield task
            finally:
                os.close(owner)
        os.close(life)

    def envoy_pid(self) -> int:
        record = files.read_json(self.home.envoy / "process.json")
        return int(record["pid"]) if record else 0

    def client(self, **more: Any) -> httpx.AsyncClient:
        limits = httpx.Limits(max_connections=64, max_keepalive_connections=64)
        return httpx.AsyncClient(
            base_url=self.settings.url,
            timeout=40,
            limits=limits,
            trust_env=False,
            **{"verify": NO_TLS, **more},
        )


@contextlib.asynccontextmanager
async def new_world(*, on_disk: bool = False, **settings: Any) -> AsyncIterator[World]:
    """A home of its own; whatever lives in it is ended. `on_disk`: other processes see the store too."""
    # Not pytest's directory: a socket's path has to be short.
    root = Path(tempfile.mkdtemp(prefix="fl-"))
    (root / "s").mkdir(mode=0o700)
    home = Home(root, root / "s")
    store: ObjectStore = (
        DirectoryObjectStore(home.store, create=True) if on_disk else MemoryObjectStore()
    )
    world = World(home, GatewaySettings(**{"port": free_port(), **settings}), store)
    try:
        yield world
    finally:
        for name in list(world.workers):
            await world.drop_worker(name)
        await world.new_envoy().adopt({})  # an Envoy that was left behind is none of ours: it ends
        shutil.rmtree(root, ignore_errors=True)


@contextlib.asynccontextmanager
async def gateway_process(world: World, life: int) -> AsyncIterator[asyncio.subprocess.Process]:
    """A gateway in a process of its own; whatever it left is ended."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, str(MAIN), str(world.home.root), str(world.settings.port), str(life)),
        pass_fds=[life],
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()


async def eventually(condition: Any, seconds: float, what: str) -> None:
    """Wait for a condition with a deadline."""
    end = CLOCK.monotonic() + seconds * PATIENCE
    while True:
        found = condition()
        if asyncio.iscoroutine(found):
            found = await found
        if found:
            return
        if CLOCK.monotonic() > end:
            raise AssertionError(f"not within {seconds * PATIENCE} s: {what}")
        await asyncio.sleep(0.01)
