"""Workers without processes: each is a thread that answers on a real unix socket from its golden examples."""

from __future__ import annotations

import asyncio
import json
import math
import signal
import socketserver
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

from fairlead.api.held import Held, held_to_json
from fairlead.api.load import LOAD_PATH, Load, loads_to_json
from fairlead.api.worker import (
    IDENTITY_PATH,
    METRICS_PATH,
    PROVED_PATH,
    REPLICAS_PATH,
    RETIRE_PATH,
    WorkerSpec,
    specs_from_json,
)
from fairlead.domain.golden import golden_from_bytes
from fairlead.domain.ids import EndpointId
from fairlead.kits.clock import Clock, SystemClock
from fairlead.kits.processes import Exit, ProcessId

_BOOT = "memory"
_FIRST_PID = 4_000_001  # above every real pid of a usual machine
_POLL_SECONDS = 0.01


@dataclass(slots=True)
class Behaviour:
    """How the next worker behaves. Change it while it runs."""

    loads: bool = True  # says that it is ready
    fails: str = ""  # says that it never will be, and why
    answers: Callable[[Any], Any] | None = None  # instead of the golden examples' responses
    exits: Exit | None = None  # ends right after its start
    silent: bool = False  # takes requests and never answers
    stubborn: bool = False  # SIGTERM does not end it
    digest: str | None = None  # claims to have this artifact
    metrics: str | None = None  # instead of a valid exposition
    busy: float = 0.0  # requests that it says it works on, for as long as this says so
    memory: int | None = None  # bytes its process has
    held: Held | None = None  # says that runs which do not end hold it


@dataclass(slots=True)
class FakeWorker:
    """One running fake."""

    spec: WorkerSpec
    process: ProcessId
    behaviour: Behaviour
    ended: asyncio.Event
    spec_file: Path
    exit: Exit | None = None
    retired: bool = False  # it has left a process that goes on
    company: list[FakeWorker] = field(default_factory=list)
    requests: int = 0
    server: socketserver.ThreadingUnixStreamServer | None = None
    ended_in_thread: threading.Event = field(default_factory=threading.Event)
    signals: list[signal.Signals] = field(default_factory=list)
    clock: Clock = field(default_factory=SystemClock)
    concurrency_seconds: float = 0.0
    seen_requests: int = 0
    looked_at: float = 0.0
    used_at: float = 0.0

    def __post_init__(self) -> None:
        """It begins now."""
        self.looked_at = self.used_at = self.clock.monotonic()

    def listen(self) -> None:
        """Answer from now on."""
        self.server = _Server(str(self.spec.socket), _handler(self))
        serve = self.server.serve_forever
        threading.Thread(target=serve, args=(_POLL_SECONDS,), daemon=True).start()

    def retire(self) -> dict[str, bool]:
        """Leave a process that goes on; a stubborn one does not."""
        if self.behaviour.stubborn:
            self.ended_in_thread.wait()
        self.retired = True
        Path(str(self.spec.socket)).unlink(missing_ok=True)
        return {"retired": True}

    def loads(self) -> dict[EndpointId, Load]:
        """How much each of its endpoints was asked: as `behaviour.busy` has it since it was last looked at."""
        now = self.clock.monotonic()
        busy = self.behaviour.busy
        self.concurrency_seconds += busy * (now - self.looked_at)
        self.looked_at = now
        if busy or self.requests > self.seen_requests:
            self.used_at, self.seen_requests = now, self.requests
        load = Load(
            self.concurrency_seconds,
            self.requests + math.ceil(self.concurrency_seconds),
            in_flight=math.ceil(busy),
            queued=0,
            idle_seconds=0.0 if busy else now - self.used_at,
        )
        return {self.spec.endpoint_id(one.name): load for one in self.spec.endpoints}

    def leave(self) -> None:
        """Answer no more; the last one to leave ends the process."""
        self.ended_in_thread.set()
        server, self.server = self.server, None
        if server is not None:
            server.shutdown()
            server.server_close()
        self.ended.set()


class MemoryLauncher:
    """A machine of fake workers, which outlive any agent that uses it. `behave` decides for each start."""

    def __init__(self, behave: Callable[[WorkerSpec], Behaviour] | None = None) -> None:
        self.behave = behave or (lambda _: Behaviour())
        self.workers: list[FakeWorker] = []
        self.started: list[ProcessId] = []
        self.spare = False  # shall one be ready?

    def start(self, specs: Sequence[WorkerSpec], spec_file: Path, log: Path) -> ProcessId:
        assert specs_from_json(spec_file.read_bytes()) == tuple(specs)
        log.parent.mkdir(parents=True, exist_ok=True)
        process = ProcessId(_FIRST_PID + len(self.started), 1, _BOOT)
        self.started.append(process)
        company = [
            FakeWorker(spec, process, self.behave(spec), asyncio.Event(), spec_file)
            for spec in specs
        ]
        self.workers += company
        for worker in company:
            worker.company = company
            if worker.behaviour.exits is not None:
                self._end_all(process, worker.behaviour.exits)
                return process
        for worker in company:
            worker.listen()
        return process

    def keep_spare(self, life_fd: int | None, *, wanted: bool) -> None:
        del life_fd
        self.spare = wanted

    def find(self, spec_file: Path) -> ProcessId | None:
        found = (one.process for one in self.running() if one.spec_file == spec_file)
        return next(found, None)

    def alive(self, process: ProcessId) -> bool:
        return any(worker.process == process for worker in self.running())

    def signal(self, process: ProcessId, number: signal.Signals) -> bool:
        there = [worker for worker in self.running() if worker.process == process]
        for worker in there:
            worker.signals.append(number)
        if number is signal.SIGKILL:
            self._end_all(process, Exit(signal=signal.SIGKILL))
        elif not any(worker.behaviour.stubborn for worker in there):
            self._end_all(process, Exit(code=0))
        return bool(there)

    def memory(self, process: ProcessId) -> int | None:
        there = [one.behaviour.memory for one in self.running() if one.process == process]
        return next((size for size in there if size is not None), None)

    async def wait(self, process: ProcessId) -> Exit:
        for worker in self.workers:
            if worker.process == process:
                await worker.ended.wait()
        return next((one.exit for one in self.workers if one.process == process), None) or Exit()

    def running(self) -> list[FakeWorker]:
        """The workers that have not ended."""
        return [worker for worker in self.workers if worker.exit is None]

    def kill(self, worker: str) -> None:
        """As `kill -9` of its process would."""
        for one in self.running():
            if one.spec.worker == worker:
                self._end_all(one.process, Exit(signal=signal.SIGKILL))

    def close(self) -> None:
        """End whatever still runs."""
        for worker in self.running():
            self._end_all(worker.process, Exit(code=0))

    def _end_all(self, process: ProcessId, how: Exit) -> None:
        for worker in self.workers:
            if worker.process == process and worker.exit is None:
                worker.exit = how
                worker.leave()


class _Server(socketserver.ThreadingUnixStreamServer):
    daemon_threads = True
    block_on_close = False


def _handler(worker: FakeWorker) -> type[BaseHTTPRequestHandler]:  # noqa: C901 - small methods
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            told = _TOLD.get(self.path)
            if told is not None:
                self._answer(told(worker))
            elif self.path == LOAD_PATH:
                self._send(_loads(worker), "application/json")
            elif self.path == METRICS_PATH:
                self._send(_metrics(worker), "text/plain; version=0.0.4")
            else:
                self.send_error(404)

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            if self.path == RETIRE_PATH:
                self._answer(worker.retire())
            elif self.path == PROVED_PATH:
                self._answer({"proved": True})
            elif self.path in _paths(worker.spec):
                worker.requests += 1
                self._answer(_answer(worker, json.loads(body)))
            else:
                self.send_error(404)

        def _answer(self, document: Any) -> None:  # noqa: ANN401 - a JSON value
            self._send(json.dumps(document).encode(), "application/json")

        def _send(self, data: bytes, content_type: str) -> None:
            # A thread of a worker that was killed meanwhile says nothing any more.
            if worker.exit is not None or worker.behaviour.silent:
                worker.ended_in_thread.wait()
                self.close_connection = True
                return
            self.send_response(200)
            self.send_header("content-type", content_type)
            self.send_header("content-length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002, ANN401 - the library's signature
            """Say nothing."""

    return Handler


def _paths(spec: WorkerSpec) -> tuple[str, str]:
    return spec.predict_path, spec.infer_path


def _identity(worker: FakeWorker) -> dict[str, Any]:
    behaviour = worker.behaviour
    return {
        "worker": worker.spec.worker,
        "digest": behaviour.digest or worker.spec.digest,
        "ready": behaviour.loads and not behaviour.fails,
        "failed": behaviour.fails,
        "held": held_to_json(behaviour.held),
    }


def _company(worker: FakeWorker) -> dict[str, Any]:
    there = [one for one in worker.company if not one.retired]
    return {
        "counted": sum(one.requests for one in worker.company),
        "replicas": [_identity(one) for one in there],
    }


def _loads(worker: FakeWorker) -> bytes:
    there = (one for one in worker.company if not one.retired)
    return loads_to_json({name: load for one in there for name, load in one.loads().items()})


_TOLD = {IDENTITY_PATH: _identity, REPLICAS_PATH: _company}


def _metrics(worker: FakeWorker) -> bytes:
    if worker.behaviour.metrics is not None:
        return worker.behaviour.metrics.encode()
    lines = (
        "# HELP fake_requests_total Requests answered.",
        "# TYPE fake_requests_total counter",
        f'fake_requests_total{{service="{worker.spec.revision.service}"}} {worker.requests}',
        "# HELP fake_busy Requests in hand.",
        "# TYPE fake_busy gauge",
        "fake_busy 0",
    )
    return "\n".join((*lines, "")).encode()


def _answer(worker: FakeWorker, request: Any) -> Any:  # noqa: ANN401 - JSON values
    if worker.behaviour.answers is not None:
        return worker.behaviour.answers(request)
    golden = golden_from_bytes((worker.spec.artifact / "golden.json").read_bytes())
    found = [one.response for one in golden.examples if one.request == request]
    return found[0] if found else None
