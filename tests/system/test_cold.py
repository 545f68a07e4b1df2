"""Real workers that go cold when nobody asks, and come back when somebody does; this test is the gateway."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import pytest

from fairlead.api.agent import WAKE_PATH, Wake, wakes_to_json
from fairlead.control.publish import publish
from fairlead.domain.catalog import Revision, with_revision, with_traffic
from fairlead.domain.ids import EndpointId, LineId, RevisionId
from fairlead.domain.release import EndpointSpec, TrafficShare
from fairlead.domain.status import (
    GatewayStatus,
    NodeStatus,
    gateway_status_to_bytes,
    node_status_from_bytes,
)
from fairlead.kits import processes
from fairlead.kits.files import try_lock, write_atomic
from fairlead.wiring.homes import Control, open_home
from support.plain import NO_TLS
from support.running import until

MODEL = """
import time

class Model:
    def load(self, directory):
        self.ballast = b"x" * (200 * 1024 * 1024)  # far more than what workers differ by

    def predict(self, request: int) -> int:
        time.sleep(request / 1000)
        return request * 2
"""
GOLDEN = {"examples": [{"request": 3, "response": 6}]}
NAMES = ("ants", "bees", "cats")


@dataclass
class Node:
    """A home, its agent, and a gateway that leads to whoever is ready."""

    control: Control
    agent: subprocess.Popen[bytes] | None = None
    lock: int | None = None
    lines: list[LineId] = field(default_factory=list)

    def start(self, **variables: str) -> None:
        """Start the agent, with this environment besides."""
        root = self.control.home.root
        self.lock = try_lock(self.control.home.gateway_lock)
        self.route()
        with (root / "agent.txt").open("ab") as out:
            self.agent = subprocess.Popen(
                [sys.executable, "-m", "fairlead", "agent", "--home", str(root)],
                env={**os.environ, **variables},
                stdout=out,
                stderr=out,
            )

    def release(self, name: str, endpoint: EndpointSpec) -> EndpointId:
        """Publish a model of its own, and put all traffic of `name/v1` on it."""
        directory = self.control.home.root.parent / name
        directory.mkdir()
        (directory / "model.py").write_text(MODEL)
        (directory / "golden.json").write_text(json.dumps(GOLDEN))
        description = {"name": name, "version": 1, "engine": "python"}
        work = publish(directory, description, self.control.artifacts, lambda _: None)
        manifest = asyncio.run(work).manifest
        identity = RevisionId(name, "v1", "1")
        entry = Revision(identity, manifest.ref, manifest.digest, (endpoint,), "", 0.0)
        catalog = with_revision(self.control.catalogs.read(), entry)
        catalog = with_traffic(catalog, identity.line_id, (TrafficShare("1", 100),))
        self.control.catalogs.commit(catalog, "test")
        self.lines.append(identity.line_id)
        return EndpointId(name, "v1", "1", endpoint.name)

    def status(self) -> NodeStatus | None:
        try:
            return node_status_from_bytes(self.control.home.node_status.read_bytes())
        except FileNotFoundError:
            return None

    def ready(self) -> dict[str, list[str]]:
        """The sockets of the ready workers by service; the gateway leads to them, and to nobody else."""
        self.route()
        status = self.status()
        found = status.ready() if status else {}
        return {key.service: [one.socket for one in value] for key, value in found.items()}

    def route(self) -> None:
        status = self.status()
        workers = (
            [one.worker for every in status.ready().values() for one in every] if status else []
        )
        said = GatewayStatus(
            written_at=time.time(),
            pid=os.getpid(),
            generation=self.control.catalogs.read().generation,
            url="http://127.0.0.1:1",
            workers=tuple(workers),
            effective={line: (TrafficShare("1", 100),) for line in self.lines},
        )
        write_atomic(self.control.home.gateway_status, gateway_status_to_bytes(said))

    def wake(self, *endpoints: EndpointId) -> None:
        transport = httpx.HTTPTransport(uds=str(self.control.home.agent_socket), verify=NO_TLS)
        with httpx.Client(transport=transport, timeout=40) as client:
            body = wakes_to_json(Wake(one, 1) for one in endpoints)
            assert client.post(f"http://agent{WAKE_PATH}", content=body).status_code == 202

    def workers(self) -> list[processes.ProcessId]:
        """Every worker process there is a record of."""
        records = self.control.home.workers.glob("*.json")
        found = [json.loads(path.read_bytes())["process"] for path in records]
        return [processes.from_record(one) for one in found if one]

    def close(self) -> None:
        if self.agent is not None:
            with contextlib.suppress(ProcessLookupError):
                self.agent.kill()
            self.agent.wait(10)
        for worker in self.workers():
            processes.send_signal(worker, signal.SIGKILL)
        if self.lock is not None:
            os.close(self.lock)


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    found = Node(open_home(tmp_path / "home", create=True))
    yield found
    found.close()


def ask(socket: str, service: str, number: int) -> object:
    """One request through a worker's own socket."""
    with httpx.Client(
        transport=httpx.HTTPTransport(uds=socket, verify=NO_TLS), timeout=40
    ) as client:
        return client.post(f"http://worker/v1/model/{service}/predict", json=number).json()


@pytest.mark.timeout(120)
def test_a_worker_goes_when_nobody_asks_and_comes_back_within_seconds(node: Node) -> None:
    endpoint = node.release("ants", EndpointSpec("predict", 0, 2, 1))
    node.start(FAIRLEAD_SCALE_WINDOW="6")
    (socket,) = until(lambda: node.ready().get("ants"))
    assert ask(socket, "ants", 21) == 42
    (worker,) = node.workers()

    def gone() -> bool:
        node.route()
        return not processes.alive(worker) and not node.workers()

    began = time.monotonic()
    until(gone)
    assert time.monotonic() - began > 4, "not before a window without a request is over"
    status = node.status()
    assert status is not None
    assert status.cold == (endpoint,)
    assert not list(node.control.home.sockets.glob("????????.sock"))
    began = time.monotonic()
    node.wake(endpoint)
    (socket,) = until(lambda: node.ready().get("ants"))
    assert ask(socket, "ants", 4) == 8
    assert time.monotonic() - began < 5, "a second on an idle machine"


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_memory_for_two_is_shared_by_three(node: Node) -> None:
    ends = {name: node.release(name, EndpointSpec("predict", 1, 1)) for name in NAMES}
    node.start(FAIRLEAD_MEMORY_BUDGET="660Mi")

    def two() -> dict[str, list[str]] | None:
        found, status = node.ready(), node.status()
        return found if len(found) == 2 and status and len(status.cold) == 1 else None

    before = until(two)
    cold = next(name for name in NAMES if name not in before)
    used, unused = sorted(before)

    def up() -> dict[str, list[str]] | None:
        # One of the others is asked all the time; and wakes are said again while somebody waits.
        with contextlib.suppress(httpx.HTTPError):
            ask(before[used][0], used, 7)
        node.wake(ends[cold])
        found = two()
        return found if found and cold in found else None

    learned = time.monotonic() + 3  # the agent asks every two seconds who was asked
    until(lambda: ask(before[used][0], used, 7) and time.monotonic() > learned)
    after = until(up)
    assert ask(after[cold][0], cold, 1) == 2
    assert set(after) == {used, cold}, "the least recently used went"
    status = node.status()
    assert status is not None
    (why,) = [one.why for one in status.scales if one.unit.revision.service == unused]
    assert "the memory budget of 660 MiB is full" in why
