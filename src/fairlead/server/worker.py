"""A worker: one process, one revision, one unix socket.

It listens at once (so `/livez` tells that it runs), loads and proves its model, and only then is ready. It
ends on SIGTERM or SIGINT, or when its owner is gone, after the requests under way are answered.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import sys
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fairlead.api.worker import ServingSettings, WorkerSpec
from fairlead.domain.errors import FairleadError, Kind, Refused
from fairlead.kits import memory
from fairlead.kits.addresses import is_loopback
from fairlead.kits.clock import Clock
from fairlead.server.dataplane import DataPlane
from fairlead.server.http.app import ServerApp
from fairlead.server.http.oip import NO_CONTROL
from fairlead.server.http.routes import ServedRevision
from fairlead.server.http.serve import Listen, Socket, serve
from fairlead.server.loading import LoadedArtifact
from fairlead.server.repository import Repository, load_revision

if TYPE_CHECKING:
    from fairlead.server.grpc.serve import Server as GrpcServer

_log = logging.getLogger(__name__)

_SEVERAL = "several processes serve here, and each would have to: start the server with one worker for that"
_EXPOSED = (
    "others can reach this server: it lets callers do that on loopback only, or with "
    "FAIRLEAD_SERVING_MODEL_CONTROL=true"
)

DONE = 0
_SWITCH_SECONDS = 0.0005
FAILED = 1  # it cannot be served; the log says why (a model's own exit may give any code)


class NotServed(Refused):
    """A revision cannot be served."""

    def __init__(self, spec: WorkerSpec, error: Exception) -> None:
        kind = error.kind if isinstance(error, FairleadError) else Kind.MODEL
        what = (
            str(error) if isinstance(error, FairleadError) else f"{type(error).__name__}: {error}"
        )
        super().__init__(kind, f"{spec.revision} is not served: {what}")
        self.digest = spec.digest


def no_control(listen: Listen, settings: ServingSettings) -> str:
    """Why the callers of a server that listens there may not load and unload models; empty if they may."""
    if listen.uds is not None:
        return NO_CONTROL
    if listen.shared:
        return _SEVERAL
    return "" if settings.model_control or is_loopback(listen.host) else _EXPOSED


@dataclass(slots=True)
class _Outcome:
    repository: Repository | None  # of a server whose callers may load and unload
    refusal: NotServed | None = None


def ended_with(refusal: FairleadError) -> int:
    """Log why nothing is served; the exit code that tells it to who started this process."""
    extra = {"event": "worker"}
    if isinstance(refusal, NotServed):
        extra["digest"] = refusal.digest
    _log.error("%s", refusal, extra=extra)
    return FAILED


async def run_worker(spec: WorkerSpec, clock: Clock) -> int:
    """Serve one revision until told to stop; returns the process's exit code."""
    if spec.socket is None:
        raise ValueError("a worker needs a socket")
    stop = asyncio.Event()
    with stop_signals(stop), owner_gone(spec.life_fd, stop):
        listen = Listen(uds=spec.socket)
        try:
            await serve_revisions([spec], listen, clock, identity_of(spec), stop)
        except FairleadError as refusal:
            return ended_with(refusal)
        return DONE


def identity_of(spec: WorkerSpec) -> dict[str, object]:
    """Who answers on a replica's socket."""
    return {
        "worker": spec.worker,
        "service": spec.revision.service,
        "line": spec.revision.line,
        "revision": spec.revision.revision,
        "digest": spec.digest,
    }


def set_up_process() -> None:
    """What holds for all of a process that serves models; before it has threads.

    A thread that has run a model has its turn soon, also when the event loop is busy: the default, 5 ms, is as long
    as many a run. And there is one heap, so that what a model took goes back to the system with the model.
    """
    sys.setswitchinterval(_SWITCH_SECONDS)
    memory.one_heap()


async def serve_revisions(
    specs: Sequence[WorkerSpec],
    listen: Listen,
    clock: Clock,
    identity: Mapping[str, object],
    stop: asyncio.Event,
) -> None:
    """Listen, load everything, be ready, serve until `stop`; the settings are the first revision's.

    Raises Refused (CONFLICT) if the address is taken, NotServed if a revision cannot be loaded or proved.
    """
    first = specs[0]
    set_up_process()
    plane = DataPlane()
    app = ServerApp(plane, first.settings, clock, identity, first.pod_name)
    refused = no_control(listen, first.settings)
    outcome = _Outcome(None if refused else Repository(specs, plane, app, clock))
    app.give_control(None, refused)
    if listen.uds is not None:  # an agent's, which nobody else can reach
        app.plain.forget_proofs()
    at = Socket(listen)
    try:
        calls = _grpc(app, first, listen, clock)
        async with asyncio.TaskGroup() as group:
            if calls is not None:
                group.create_task(calls.serve(stop, first.drain_seconds))
            serving = group.create_task(
                serve(app, at, stop=stop, drain_seconds=first.drain_seconds)
            )
            loading = group.create_task(_load(specs, plane, app, clock, outcome, stop))
            serving.add_done_callback(lambda _: loading.cancel())
    finally:
        plane.close()
    if outcome.refusal is not None:
        raise outcome.refusal


def _grpc(app: ServerApp, first: WorkerSpec, listen: Listen, clock: Clock) -> GrpcServer | None:
    """The gRPC port beside a TCP port, if there is to be one; behind a gateway calls come over HTTP."""
    port = first.settings.grpc_port
    if listen.uds is not None or not port:
        return None
    from fairlead.server.grpc.serve import Server  # noqa: PLC0415 - only who wants gRPC pays for it

    host = f"[{listen.host}]" if ":" in listen.host else listen.host
    limit = first.settings.body_limit_bytes
    return Server(app, f"{host}:{port}", clock, most_bytes=limit, shared=listen.shared)


async def _load(
    specs: Sequence[WorkerSpec],
    plane: DataPlane,
    app: ServerApp,
    clock: Clock,
    outcome: _Outcome,
    stop: asyncio.Event,
) -> None:
    """Load every revision; if one cannot be, nothing is served and the process ends."""
    artifacts: dict[str, LoadedArtifact] = {}
    served = []
    for spec in specs:
        try:
            served.append(await load_one(spec, plane, artifacts, clock))
        except NotServed as refusal:
            outcome.refusal = refusal
            stop.set()
            return
    if outcome.repository is None:
        memory.settle()  # nothing is unloaded here before the process ends
    app.serve(served, versioned=specs[0].socket is None)
    if outcome.repository is not None:
        outcome.repository.start(served)
        app.give_control(outcome.repository, "")
    await asyncio.to_thread(memory.give_back)  # what proofs and measuring took


async def load_one(
    spec: WorkerSpec, plane: DataPlane, artifacts: dict[str, LoadedArtifact], clock: Clock
) -> ServedRevision:
    """Load and prove one revision, into `artifacts` if it is not there yet, and add it to the plane.

    Raises NotServed.
    """
    try:
        return await load_revision(spec, plane, clock, artifacts)
    except Exception as error:  # noqa: BLE001 - whatever a model's library raises becomes a line
        if not isinstance(error, FairleadError):
            _log.error("%s failed while it was loaded", spec.revision, exc_info=error)
        raise NotServed(spec, error) from None


@contextlib.contextmanager
def stop_signals(stop: asyncio.Event) -> Generator[None, None, None]:
    """Let SIGTERM and SIGINT set `stop` while inside."""
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    try:
        yield
    finally:
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)


@contextlib.contextmanager
def owner_gone(life_fd: int | None, stop: asyncio.Event) -> Generator[None, None, None]:
    """Set `stop` when the other end of `life_fd` is closed: its holder is gone."""
    if life_fd is None:
        yield
        return
    loop = asyncio.get_running_loop()

    def readable() -> None:
        if not os.read(life_fd, 1):
            loop.remove_reader(life_fd)
            stop.set()

    os.set_blocking(life_fd, False)
    loop.add_reader(life_fd, readable)
    try:
        yield
    finally:
        loop.remove_reader(life_fd)
