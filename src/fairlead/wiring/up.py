"""`fairlead up`: the whole of Fairlead on one machine, as one command.

Publishes what the release files name and the store lacks, applies them, starts the agent and the gateway,
waits until every model is proved ready, and supervises both until it is told to stop.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import shutil
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from fairlead.control import catalogs as changing, keys, releases
from fairlead.domain.catalog import Catalog, with_pin
from fairlead.domain.errors import FairleadError, Kind
from fairlead.domain.ids import LineId
from fairlead.domain.layout import Home
from fairlead.kits import files, jsonlog, processes
from fairlead.kits.supervise import Child, ChildSpec, Supervisor, life_pipe
from fairlead.wiring.homes import Control
from fairlead.wiring.logs import LogFollower
from fairlead.wiring.observe import Observed, observe
from fairlead.wiring.running import REFUSED
from fairlead.wiring.settings import child_environment

_log = logging.getLogger(__name__)

DEMO = "demo"
# Exit codes of the gateway and the agent that a second start would not mend.
FATAL = frozenset({2, REFUSED})
_LOOK_SECONDS = 0.05  # while somebody waits for it to be ready
_IDLE_LOOK_SECONDS = 0.3
_KEPT_WORKER_LOGS = 20

Tell = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class UpOptions:
    """What `fairlead up` was asked for. `pins` hold only for services that nobody has pinned by hand."""

    host: str
    port: int
    models: tuple[Path, ...]
    pins: tuple[LineId, ...] = ()
    tls_cert: Path | None = None
    tls_key: Path | None = None

    @property
    def url(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        host = "127.0.0.1" if host in ("0.0.0.0", "[::]") else host  # noqa: S104 - compared, not bound
        return f"{'https' if self.tls_cert else 'http'}://{host}:{self.port}"


def prepare(
    control: Control, sourced: list[releases.SourcedRelease], options: UpOptions
) -> Catalog:
    """Bring the catalog up to the files: apply them, set pins, make the demo key."""
    plan, catalog = releases.apply(control.catalogs, control.artifacts, control.clock, sourced)
    for line in (*plan.changes, *plan.drift):
        _log.info(line, extra={"event": "plan"})
    for line_id in options.pins:

        def pinned(catalog: Catalog, line_id: LineId = line_id) -> Catalog:
            by_hand = catalog.service(line_id.service).pin.by_hand
            return catalog if by_hand else with_pin(catalog, line_id, by_hand=True)

        catalog = changing.change(control.catalogs, control.clock, pinned, f"pin {line_id}")
    return _demo_key(control, catalog)


def missing_artifacts(
    control: Control, sourced: list[releases.SourcedRelease], models: tuple[Path, ...]
) -> list[Path]:
    """The folders to publish first: of artifacts the releases name, the store lacks and a models folder has."""
    there = set(control.artifacts.refs())
    found: dict[str, Path] = {}
    for one in sourced:
        ref = one.release.artifact
        if ref is None or ref in there:
            continue
        for directory in models:
            folder = directory / ref.name / str(ref.version)
            if (folder / "model.yaml").is_file():
                found.setdefault(str(ref), folder)
    return list(found.values())


async def publish_folders(control: Control, folders: list[Path]) -> None:
    """Publish in a process of its own, so that the engines' memory goes when it is done."""
    command = [
        sys.executable,
        "-m",
        "fairlead",
        "publish",
        "--home",
        str(control.home.root),
        *map(str, folders),
    ]
    process = await asyncio.create_subprocess_exec(
        *command, env=child_environment(), start_new_session=True
    )
    try:
        code = await process.wait()
    except BaseException:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()
        raise
    if code != 0:
        raise FairleadError("publishing failed (see above)", kind=Kind.MODEL)


def check_port(home: Home[Path], options: UpOptions) -> None:
    """Raise FairleadError if somebody else listens on the gateway's address.

    An Envoy of this home that outlived its gateway and its `up` is not somebody else: the gateway adopts it.
    """
    if _own_envoy(home):
        return
    family = socket.AF_INET6 if ":" in options.host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((options.host, options.port))
        except OSError as error:
            message = (
                f"cannot listen on {options.host}:{options.port} ({(error.strerror or str(error)).lower()}): "
                "end what uses that port, or choose another with --port or FAIRLEAD_PORT"
            )
            raise FairleadError(message, kind=Kind.CONFLICT) from None


@contextlib.contextmanager
def only_one(home: Home[Path]) -> Iterator[None]:
    """Hold the home's lock. Raises FairleadError that names who holds it."""
    handle = files.try_lock(home.lock)
    if handle is None:
        running = files.read_json(home.running) or {}
        message = f"Fairlead runs here already ({home.root}, pid {running.get('pid', '?')}, {running.get('url', '')})"
        raise FairleadError(message, kind=Kind.CONFLICT)
    try:
        yield
    finally:
        home.running.unlink(missing_ok=True)
        os.close(handle)


async def run(
    control: Control, options: UpOptions, tell: Tell, ready: Callable[[float], None]
) -> int:
    """Run until SIGINT or SIGTERM. `ready` is called once, with the seconds it took.

    Returns the process's exit code.
    """
    home = control.home
    _tidy_logs(home)
    jsonlog.setup("up", file=home.logs / "up.jsonl")
    record = {"pid": os.getpid(), "url": options.url, "host": options.host, "port": options.port}
    files.write_atomic(home.running, json.dumps(record).encode())
    life, keep = life_pipe()
    stop = asyncio.Event()
    _stop_on_signals(stop)
    supervisor = Supervisor(
        control.clock, life, lambda line: _log.warning(line, extra={"event": "supervisor"})
    )
    agent, gateway = (Child(spec) for spec in _children(home, options, life))
    started = control.clock.monotonic()
    follower = LogFollower(home.logs, requests=False)
    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(supervisor.run(agent), name="agent")
            group.create_task(supervisor.run(gateway), name="gateway")
            announced = False
            while not stop.is_set() and agent.failed is None and gateway.failed is None:
                _tell_events(follower, tell)
                if not announced and _ready(observe(control), agent, gateway):
                    announced = True
                    _tell_events(follower, tell)
                    ready(control.clock.monotonic() - started)
                with contextlib.suppress(TimeoutError):
                    look = _IDLE_LOOK_SECONDS if announced else _LOOK_SECONDS
                    await asyncio.wait_for(stop.wait(), look)
            if stop.is_set():
                tell("stopping: finishing what is under way")
            # Intake first, then the models: nobody is sent to a worker that has gone.
            await supervisor.stop(gateway)
            await supervisor.stop(agent)
            _tell_events(follower, tell)
    finally:
        os.close(keep)
        os.close(life)
        shutil.rmtree(home.sockets, ignore_errors=True)
    if gateway.failed is not None or agent.failed is not None:
        _tell_last_errors(home, tell)
        return 1
    tell("stopped; nothing is left running")
    return 0


def _children(home: Home[Path], options: UpOptions, life: int) -> tuple[ChildSpec, ChildSpec]:
    common = ["--home", str(home.root), "--life-fd", str(life)]
    fairlead = [sys.executable, "-m", "fairlead"]
    address = ["--host", options.host, "--port", str(options.port)]
    if options.tls_cert and options.tls_key:
        address += ["--tls-cert", str(options.tls_cert), "--tls-key", str(options.tls_key)]
    environment = child_environment()
    return (
        ChildSpec(
            "agent", [*fairlead, "agent", *common], environment, home.logs / "agent.out", FATAL
        ),
        ChildSpec(
            "gateway",
            [*fairlead, "gateway", *common, *address],
            environment,
            home.logs / "gateway.out",
            FATAL,
        ),
    )


def _ready(seen: Observed, agent: Child, gateway: Child) -> bool:
    """Does everything serve, by the word of these very processes and not of earlier ones?"""
    if seen.node is None or seen.gateway is None:
        return False
    ours = (seen.node.pid, seen.gateway.pid) == (agent.pid, gateway.pid)
    return ours and seen.serves_everything()


def _own_envoy(home: Home[Path]) -> bool:
    record = files.read_json(home.gateway / "envoy" / "process.json")
    return record is not None and processes.alive(
        processes.ProcessId(record["pid"], record["started"], record["boot"])
    )


def _demo_key(control: Control, catalog: Catalog) -> Catalog:
    known = control.secrets.read().get(DEMO)
    there = control.home.demo_key
    if DEMO in catalog.keys and known is not None:
        if not there.exists():
            files.write_atomic(there, known.encode(), mode=0o600)
        return catalog
    if DEMO in catalog.keys:
        secret = keys.rotate(control.catalogs, control.secrets, control.clock, DEMO)
    elif there.exists():
        return catalog  # revoked on purpose
    else:
        secret = keys.create(control.catalogs, control.secrets, control.clock, DEMO, ())
    files.write_atomic(there, secret.encode(), mode=0o600)
    return control.catalogs.read()


def _stop_on_signals(stop: asyncio.Event) -> None:
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, stop.set)


def _tell_events(follower: LogFollower, tell: Tell) -> None:
    for record in follower.new():
        if "event" in record:
            moment = str(record.get("asctime", ""))[11:19]
            tell(f"{moment} {record.get('service', ''):<8} {record.get('message', '')}")


def _tell_last_errors(home: Home[Path], tell: Tell) -> None:
    for name in ("agent.out", "gateway.out"):
        path = home.logs / name
        lines = path.read_text(errors="replace").splitlines() if path.exists() else []
        for line in lines[-5:]:
            tell(line)


def _tidy_logs(home: Home[Path]) -> None:
    home.logs.mkdir(parents=True, exist_ok=True)
    for name in ("agent.out", "gateway.out"):
        (home.logs / name).unlink(missing_ok=True)
    workers = sorted(home.logs.glob("worker-*"), key=lambda path: path.stat().st_mtime)
    for old in workers[:-_KEPT_WORKER_LOGS]:
        old.unlink(missing_ok=True)
