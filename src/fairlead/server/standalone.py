"""`fairlead serve`: inference over TCP without a gateway; several revisions at once, a model's name is its service.

One worker process serves by itself. With more, this process only watches: every worker listens on the same
port, the kernel spreads the connections, and each worker has its own metrics. Workers that die are
replaced; they end with this process, however it ends. A worker that refuses what it is to serve says so over
a pipe of its own: an exit code could be the model's.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from fairlead.api.worker import WorkerSpec
from fairlead.domain.errors import FairleadError, Kind, Refused
from fairlead.domain.ids import RevisionId
from fairlead.engines.pickles import refuse_pickles
from fairlead.kits import jsonlog
from fairlead.kits.clock import Clock, SystemClock
from fairlead.kits.ending import Ending
from fairlead.kits.loops import new_event_loop
from fairlead.kits.supervise import ending
from fairlead.kits.timeouts import timeout
from fairlead.server.http.serve import Listen, Socket
from fairlead.server.worker import DONE, ended_with, owner_gone, serve_revisions, stop_signals

_log = logging.getLogger(__name__)
_END_SECONDS = 5.0  # beyond the drain time, before a worker is killed
_RESTART_SECONDS = 1.0
_REPORT_BYTES = 32 * 1024  # a pipe holds that much without a reader
_LINE_BYTES = 16 * 1024 * 1024  # a worker's specs, as one line


@dataclass(frozen=True, slots=True)
class Standalone:
    """Where and with how many processes to serve."""

    host: str = "127.0.0.1"
    http_port: int = 8501
    workers: int = 1


async def run_standalone(specs: Sequence[WorkerSpec], options: Standalone, clock: Clock) -> int:
    """Serve these revisions until SIGTERM or SIGINT; returns the process's exit code.

    Raises FairleadError if the address is taken, or if a revision cannot be served.
    """
    _check(specs)
    stop = asyncio.Event()
    with stop_signals(stop):
        if options.workers == 1:
            listen = Listen(host=options.host, port=options.http_port)
            await serve_revisions(specs, listen, clock, {"worker": "1"}, stop)
            return DONE
        # Bound, never listening: it finds out whether the port is free, and keeps it while workers change.
        held = Socket(Listen(host=options.host, port=options.http_port, shared=True))
        try:
            port = held.bound.getsockname()[1]
            refusals = await _watch(specs, options, port, clock, stop)
        finally:
            held.close()
    if refusals:
        raise refusals[0]
    return DONE


def _check(specs: Sequence[WorkerSpec]) -> None:
    """Raises Refused (INVALID) if two say the same version, or nothing is to be served."""
    if not specs:
        raise Refused(Kind.INVALID, "nothing to serve: name at least one artifact")
    seen: set[RevisionId] = set()
    for spec in specs:
        if spec.revision in seen:
            raise Refused(
                Kind.INVALID,
                f"{spec.revision} is to be served twice; give each a version of its own",
            )
        seen.add(spec.revision)


async def _watch(
    specs: Sequence[WorkerSpec], options: Standalone, port: int, clock: Clock, stop: asyncio.Event
) -> list[Refused]:
    refusals: list[Refused] = []
    async with asyncio.TaskGroup() as group:
        for number in range(1, options.workers + 1):
            orders = {
                "worker": str(number),
                "host": options.host,
                "port": port,
                "specs": [json.loads(spec.to_json()) for spec in specs],
            }
            group.create_task(_keep(orders, specs[0].drain_seconds, clock, stop, refusals))
    return refusals


async def _keep(
    orders: dict[str, Any],
    drain_seconds: float,
    clock: Clock,
    stop: asyncio.Event,
    refusals: list[Refused],
) -> None:
    """Keep one worker alive until `stop`; one that refuses what it is to serve stops all."""
    while not stop.is_set():
        refusal, code = await _once(orders, drain_seconds, stop)
        if refusal is not None:
            refusals.append(refusal)
            stop.set()
        elif not stop.is_set():
            message = "worker %s ended (%s); a new one is started"
            _log.warning(message, orders["worker"], ending(code), extra={"event": "worker"})
            await clock.sleep(_RESTART_SECONDS)


async def _once(
    orders: dict[str, Any], drain_seconds: float, stop: asyncio.Event
) -> tuple[Refused | None, int]:
    """Run one worker to its end: what it refused, and its exit code."""
    report, write = os.pipe()
    try:
        try:
            worker = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "fairlead.server.standalone"),
                stdin=asyncio.subprocess.PIPE,
                pass_fds=(write,),
            )
        finally:
            os.close(write)
        assert worker.stdin is not None
        line = json.dumps({**orders, "report": write}).encode() + b"\n"
        worker.stdin.write(line)  # and it stays open: its end is our end
        code = await _ended(worker, drain_seconds, stop)
        return _refusal(report), code
    finally:
        os.close(report)


def _refusal(report: int) -> Refused | None:
    """What an ended worker reported, if anything."""
    os.set_blocking(report, False)
    try:
        data = os.read(report, 2 * _REPORT_BYTES)
    except BlockingIOError:  # a process the model has started still holds the other end
        return None
    if not data:
        return None
    said = json.loads(data)
    return Refused(Kind(said["kind"]), said["message"])


async def _ended(
    worker: asyncio.subprocess.Process, drain_seconds: float, stop: asyncio.Event
) -> int:
    """Wait for the worker's end, and bring it about once `stop` is set; returns its code."""
    async with asyncio.TaskGroup() as group:
        ending = group.create_task(worker.wait())
        stopping = group.create_task(stop.wait())
        await asyncio.wait({ending, stopping}, return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
        if not ending.done():
            worker.terminate()
            try:
                async with timeout(drain_seconds + _END_SECONDS):
                    await asyncio.shield(ending)
            except TimeoutError:
                worker.kill()
    return ending.result()


def main() -> int:
    """A worker of a stand-alone server: its orders are the first line of standard input."""
    orders = json.loads(sys.stdin.buffer.readline(_LINE_BYTES))
    specs = [WorkerSpec.from_json(json.dumps(spec)) for spec in orders["specs"]]
    settings = specs[0].settings
    jsonlog.setup(
        settings.logconfig_service,
        level=settings.logconfig_level,
        json_format=settings.logconfig_json_format,
        access_to_stdout=True,
    )
    if not specs[0].allow_pickle:
        refuse_pickles()
    listen = Listen(host=orders["host"], port=orders["port"], shared=True)
    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        return runner.run(_work(specs, listen, {"worker": orders["worker"]}, orders["report"]))


async def _work(
    specs: Sequence[WorkerSpec], listen: Listen, identity: dict[str, object], report: int
) -> int:
    os.set_inheritable(report, False)  # noqa: FBT003 - the library's signature
    stop = asyncio.Event()
    with stop_signals(stop), owner_gone(sys.stdin.fileno(), stop):
        try:
            await serve_revisions(specs, listen, SystemClock(), identity, stop)
        except FairleadError as refusal:
            said = {"kind": refusal.kind, "message": refusal.message[: _REPORT_BYTES // 8]}
            os.write(report, json.dumps(said).encode())
            return ended_with(refusal)
    return DONE


if __name__ == "__main__":
    last = Ending()
    last.exit(main())
