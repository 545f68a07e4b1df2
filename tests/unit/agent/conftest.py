"""A node in memory: store, fake workers, and an agent that really runs on them."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import os
import tempfile
from collections.abc import AsyncIterator, Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from fairlead.adapters.memory.store import MemoryObjectStore
from fairlead.adapters.memory.workers import MemoryLauncher
from fairlead.adapters.store.artifacts import StoredArtifacts
from fairlead.adapters.store.catalogs import StoredCatalogs
from fairlead.agent.loop import run_agent
from fairlead.agent.ports import NodeReports, Ports
from fairlead.agent.settings import AgentSettings
from fairlead.domain.catalog import Catalog, Revision, with_revision, with_traffic
from fairlead.domain.ids import ArtifactRef, LineId, RevisionId
from fairlead.domain.layout import Home
from fairlead.domain.manifest import Manifest, ManifestFile
from fairlead.domain.release import EndpointSpec, TrafficShare
from fairlead.domain.signature import DocumentSignature
from fairlead.domain.status import (
    GatewayStatus,
    NodeStatus,
    State,
    gateway_status_to_bytes,
    node_status_from_bytes,
)
from fairlead.kits.clock import Clock, SystemClock
from fairlead.kits.files import try_lock, write_atomic
from support.effort import PATIENCE

QUICK = AgentSettings(
    cores=2,
    catalog_poll_seconds=0.02,
    heartbeat_seconds=0.1,
    ready_poll_seconds=0.005,
    startup_seconds=20.0,  # these end what never comes; a test that waits for the end sets its own
    proof_seconds=20.0,
    adoption_seconds=1.0,
    retire_pause_seconds=0.05,
    drain_seconds=0.3,
    stop_grace_seconds=0.1,
    shutdown_seconds=1.0,
)


@dataclass
class World:
    """One machine with a store. `settings` are the agent's."""

    home: Home[Path]
    scratch: Path
    launcher: MemoryLauncher
    settings: AgentSettings = QUICK
    store: MemoryObjectStore = field(default_factory=MemoryObjectStore)
    reports: NodeReports | None = None
    clock: Clock = field(default_factory=SystemClock)
    led: Callable[[], Collection[LineId]] = tuple  # lines that a rollout leads
    looks: int = 0  # how often somebody asked for them
    gateway_lock: int | None = None  # held while this test is the gateway

    def __post_init__(self) -> None:
        self.artifacts = StoredArtifacts(self.store)
        self.catalogs = StoredCatalogs(self.store, SystemClock())

    def publish(
        self,
        name: str,
        version: int = 1,
        files: Mapping[str, bytes] | None = None,
        engine: str = "python",
    ) -> Manifest:
        """Publish an artifact of these files and a golden example `{"q": 1}` -> `{"a": version}`."""
        golden = {"examples": [{"request": {"q": 1}, "response": {"a": version}}]}
        contents = {
            "model.py": b"# a model",
            **(files or {}),
            "golden.json": json.dumps(golden).encode(),
        }
        directory = self.scratch / f"{name}-{version}"
        for path, data in contents.items():
            (directory / path).parent.mkdir(parents=True, exist_ok=True)
            (directory / path).write_bytes(data)
        manifest = Manifest(
            ref=ArtifactRef(name, version),
            engine=engine,
            entry="model.py",
            files=tuple(
                ManifestFile(path, len(data), hashlib.sha256(data).hexdigest())
                for path, data in contents.items()
            ),
            signature=DocumentSignature(),
            golden="golden.json",
        )
        self.artifacts.publish(manifest, directory)
        return manifest

    def release(
        self, revision: str, manifest: Manifest, replicas: int = 1, *endpoints: EndpointSpec
    ) -> RevisionId:
        """Put all traffic of `service/line.revision` on a new revision, of one endpoint unless others are given."""
        service, _, rest = revision.partition("/")
        line, _, tag = rest.partition(".")
        revision_id = RevisionId(service, line, tag)
        catalog = self.catalogs.read()
        entry = Revision(
            revision_id,
            manifest.ref,
            manifest.digest,
            endpoints or (EndpointSpec("predict", replicas, replicas),),
            "",
            0.0,
        )
        catalog = with_revision(catalog, entry)
        catalog = with_traffic(catalog, revision_id.line_id, (TrafficShare(tag, 100),))
        self.catalogs.commit(catalog, f"release {revision}")
        return revision_id

    def clear_catalog(self) -> None:
        """Ask for nothing any more."""
        self.catalogs.commit(Catalog(self.catalogs.read().generation), "nothing")

    def gateway_says(self, workers: list[str], tag: str, **changes: Any) -> None:
        """Be the gateway: all of `digits/v1` flows to `tag`, and `workers` may still get requests."""
        self.gateway_lock = self.gateway_lock or try_lock(self.home.gateway_lock)
        status = GatewayStatus(
            written_at=SystemClock().now(),
            pid=os.getpid(),
            generation=self.catalogs.read().generation,
            url="http://127.0.0.1:8080",
            workers=tuple(workers),
            effective={LineId("digits", "v1"): (TrafficShare(tag, 100),)},
        )
        write_atomic(self.home.gateway_status, gateway_status_to_bytes(replace(status, **changes)))

    def gateway_dies(self) -> None:
        """As `kill -9` would have it: what it said stays."""
        if self.gateway_lock is not None:
            os.close(self.gateway_lock)
        self.gateway_lock = None

    def status(self) -> NodeStatus | None:
        """The node's status as its file says."""
        try:
            return node_status_from_bytes(self.home.node_status.read_bytes())
        except FileNotFoundError:
            return None

    def ready(self) -> dict[str, list[str]]:
        """The ready workers by revision."""
        status = self.status()
        found = status.ready() if status else {}
        return {str(key): [one.worker for one in value] for key, value in found.items()}

    def state(self, revision: RevisionId) -> tuple[State, str] | None:
        """State and reason of the last-named replica of a revision."""
        status = self.status()
        for replica in reversed(status.replicas if status else ()):
            if replica.revision == revision:
                return replica.state, replica.reason
        return None

    def _led(self) -> Collection[LineId]:
        self.looks += 1
        return self.led()

    @contextlib.asynccontextmanager
    async def agent(self, *, kill: bool = False) -> AsyncIterator[None]:
        """Run an agent; at the end its owner dies, or with `kill` it is killed itself."""
        read, write = os.pipe()
        ports = Ports(
            self.catalogs, self.artifacts, self.launcher, self.clock, self.reports, self._led
        )
        try:
            async with asyncio.TaskGroup() as group:
                task = group.create_task(run_agent(self.settings, self.home, ports, read))
                try:
                    yield
                finally:
                    if kill:
                        task.cancel()
                    else:
                        os.close(write)
        finally:
            os.close(read)
            if kill:
                os.close(write)


@pytest.fixture
def world() -> Iterator[World]:
    # A short path: a unix socket's may have no more than 107 bytes.
    with tempfile.TemporaryDirectory(prefix="fl-") as directory:
        root = Path(directory)
        launcher = MemoryLauncher()
        found = World(Home(root / "home", root / "s"), root / "scratch", launcher)
        yield found
        found.gateway_dies()
        launcher.close()


@pytest.fixture
def eventually() -> Callable[..., Any]:
    """Wait until a condition holds and return its value; fails with a clear message at the deadline."""

    async def wait(condition: Callable[[], Any], seconds: float = 4.0) -> Any:
        value = None
        try:
            async with asyncio.timeout(seconds * PATIENCE):
                while not (value := condition()):  # noqa: ASYNC110 - files and threads set no event
                    await asyncio.sleep(0.005)
        except TimeoutError:
            pytest.fail(f"not within {seconds * PATIENCE} s; last: {value!r}")
        return value

    return wait
