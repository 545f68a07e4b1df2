"""`fairlead up`: the whole of Fairlead on one machine, as one command.

Publishes what the release files name and the store lacks, applies them, starts the agent and the gateway,
waits until every model is proved ready, and supervises both until it is told to stop.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
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

from fairlead.control import catalogs as changing, releases
from fairlead.domain.catalog import Catalog, with_pin
from fairlead.domain.errors import FairleadError, Kind
from fairlead.domain.explanations import REFUSED
from fairlead.domain.ids import LineId
from fairlead.domain.layout import Home
from fairlead.domain.manifest import DESCRIPTION
from fairlead.kits import files, jsonlog, processes
from fairlead.kits.supervise import Child, ChildSpec, Supervisor, life_pipe
from fairlead.wiring.homes import Control, make_sockets, record_in
from fairlead.wiring.logs import LogFollower
from fairlead.wiring.observe import Observer
from fairlead.wiring.settings import child_environment
from fairlead.wiring.sockets import SocketWatch

_log = logging.getLogger(__name__)

DEMO = "demo"
# Exit codes of the gateway and the agent that a second start would not mend.
FATAL = frozenset({2, REFUSED})
# A killed `up` leaves processes that drain; the longest drain there is, and some more.
_PREDECESSOR_SECONDS = 45.0
_LOOK_SECONDS = 0.05  # while somebody waits for it to be ready
_IDLE_LOOK_SECONDS = 0.3
_PATIENCE_SECONDS = 10.0  # before it is said what is missing
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
    root: str = "/v1"  # what the project API's paths start with

    @property
    def url(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        host = "127.0.0.1" if host in ("0.0.0.0", "[::]") else host  # noqa: S104 - compared, not bound
        return f"{'https' if self.tls_cert else 'http'}://{host}:{self.port}"


def prepare(
    control: Control, sourced: list[releases.SourcedRelease], options: UpOptions, tell: Tell
) -> None:
    """Bring the catalog up to the files: apply them, set pins, make the demo key."""
    plan, catalog = releases.apply(
        control.catalogs, control.artifacts, control.clock, sourced, control.in_use()
    )
    for line in (*plan.changes, *plan.drift):
        tell(line)
    for line_id in options.pins:

        def pinned(catalog: Catalog, line_id: LineId = line_id) -> Catalog:
            by_hand = catalog.service(line_id.service).pin.by_hand
            return catalog if by_hand else with_pin(catalog, line_id, by_hand=True)

        catalog = changing.change(control.catalogs, control.clock, pinned, f"pin {line_id}")
    _demo_key(control, catalog)


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
            if (folder / DESCRIPTION).is_file():
                found.setdefault(str(ref), folder)
    return list(found.values())


async def publish_folders(control: Control, folders: list[Path]) -> None:
    """Publish in a process of its own, so that the engines' memory goes when it is done.

    Told to stop meanwhile, it takes that process along.
    """
    home = str(control.home.root)
    command = [sys.executable, "-m", "fairlead", "publish", "--home", home, *map(str, folders)]
    process = await asyncio.create_subprocess_exec(*command, env=child_environment())
    told = asyncio.Event()
    _stop_on_signals(told)
    async with asyncio.TaskGroup() as group:
        ending = group.create_task(process.wait())
        stopping = group.create_task(told.wait())
        await asyncio.wait({ending, stopping}, return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
        if not ending.done():
            with contextlib.suppress(ProcessLookupError):
                process.kill()
    if told.is_set():
        raise KeyboardInterrupt
    if process.returncode != 0:
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
            why = (error.strerror or str(error)).lower()
            mend = "end what uses that port, or choose another with --port or FAIRLEAD_PORT"
            if error.errno != errno.EADDRINUSE:
                mend = "choose an address of this machine with --host or FAIRLEAD_HOST"
            message = f"cannot listen on {options.host}:{options.port} ({why}): {mend}"
            raise FairleadError(message, kind=Kind.CONFLICT) from None


def wait_for_predecessors(control: Control, tell: Tell) -> None:
    """Wait until no agent and no gateway hold this home: those of a killed `up` still finish what they have.

    Raises FairleadError if one stays: it was started on its own.
    """
    started = control.clock.monotonic()
    told = False
    for name, lock in (("agent", control.home.agent_lock), ("gateway", control.home.gateway_lock)):
        while (handle := files.try_lock(lock)) is None:
            if control.clock.monotonic() - started > _PREDECESSOR_SECONDS:
                message = f"a Fairlead {name} that was started on its own runs in {control.home.root}: end it first"
                raise FairleadError(message, kind=Kind.CONFLICT)
            if not told:
                tell(f"waiting for the {name} that still runs in {control.home.root} to end")
                told = True
            control.clock.pause(_LOOK_SECONDS)
        os.close(handle)


@contextlib.contextmanager
def only_one(home: Home[Path]) -> Iterator[None]:
    """Hold the home's lock. Raises FairleadError that names who holds it."""
    handle = files.try_lock(home.lock)
    if handle is None:
        running = record_in(home.running)
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
    make_sockets(home)
    record = {**_identity(), "url": options.url, "root": options.root}
    files.write_atomic(home.running, json.dumps(record).encode())
    life, keep = life_pipe()
    stop = asyncio.Event()
    _stop_on_signals(stop)
    supervisor = Supervisor(
        control.clock, life, lambda line: _log.warning(line, extra={"event": "supervisor"})
    )
    agent, gateway = (Child(spec) for spec in _children(home, options, life))
    follower = LogFollower(home.logs, requests=False)
    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(supervisor.run(agent), name="agent")
            group.create_task(supervisor.run(gateway), name="gateway")
            watch = _Watch(control, Observer(control), agent, gateway, follower, tell)
            await watch.until(stop, ready)
            if stop.is_set():
                tell("stopping: finishing what is under way")
            # Intake first, then the models: nobody is sent to a worker that has gone.
            await supervisor.stop(gateway)
            await supervisor.stop(agent)
            watch.tell_events()
    finally:
        os.close(keep)
        os.close(life)
        shutil.rmtree(home.sockets, ignore_errors=True)
    if gateway.failed is not None or agent.failed is not None:
        _tell_last_errors(home, tell)
        return 1
    tell("stopped; nothing is left running")
    return 0


@dataclass(slots=True)
class _Watch:
    """Tells what happens while the children run."""

    control: Control
    observer: Observer
    agent: Child
    gateway: Child
    follower: LogFollower
    tell: Tell

    async def until(self, stop: asyncio.Event, ready: Callable[[float], None]) -> None:
        """Until told to stop, or until a child ended in a way that starting it again would not mend."""
        started = self.control.clock.monotonic()
        announced, told = False, [""]
        sockets = SocketWatch(self.control.home, self.control.clock, self.tell)
        while not stop.is_set() and self.agent.failed is None and self.gateway.failed is None:
            self.tell_events()
            sockets.look(self.gateway, self.agent, self.observer.node)
            if not announced and self._ready():
                announced = True
                self.tell_events()
                announce(ready, self.control.clock.monotonic() - started, self.tell)
            elif not announced and self.control.clock.monotonic() - started > _PATIENCE_SECONDS:
                told = self._tell_problems(told)
            with contextlib.suppress(TimeoutError):
                look = _IDLE_LOOK_SECONDS if announced else _LOOK_SECONDS
                await asyncio.wait_for(stop.wait(), look)

    def _tell_problems(self, told: list[str]) -> list[str]:
        """Say what is missing, each time it changes; what is ready serves all the same."""
        problems = self.observer.look().problems()
        if problems != told:
            for problem in problems:
                self.tell(f"not ready: {problem}")
        return problems

    def tell_events(self) -> None:
        """Tell every event since the last time."""
        for record in self.follower.new():
            if "event" in record:
                at = str(record.get("asctime", ""))[11:19]
                self.tell(f"{at} {record.get('service', ''):<8} {record.get('message', '')}")

    def _ready(self) -> bool:
        """Does everything serve, by the word of these very processes and not of earlier ones?"""
        seen = self.observer.look()
        if seen.node is None or seen.gateway is None:
            return False
        ours = (seen.node.pid, seen.gateway.pid) == (self.agent.pid, self.gateway.pid)
        return ours and seen.serves_everything()


def announce(ready: Callable[[float], None], seconds: float, tell: Tell) -> None:
    """Say that everything is ready. What serves goes on, whatever becomes of what is only words."""
    try:
        ready(seconds)
    except Exception as error:  # noqa: BLE001 - see above
        _log.warning("the banner failed", exc_info=True)
        why = f"{type(error).__name__}: {error}"
        tell(
            f"Ready after {seconds:.1f} s. Lines to try cannot be shown ({why}): see `fairlead status`"
        )


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


def _identity() -> dict[str, int | str]:
    me = processes.identify(os.getpid())
    assert me is not None
    return processes.to_record(me)


def _own_envoy(home: Home[Path]) -> bool:
    with contextlib.suppress(KeyError, TypeError):
        return processes.alive(processes.from_record(record_in(home.envoy_process)))
    return False


def _demo_key(control: Control, catalog: Catalog) -> None:
    """Make the demo key in a new home; later keep its file true: as rotated, gone if it was revoked."""
    there = control.home.demo_key
    known = control.secrets.read().get(DEMO)
    if DEMO not in catalog.keys:
        if control.home.keys.exists():  # revoked, or somebody made keys of their own first
            there.unlink(missing_ok=True)
            return
        known = control.keys.create(DEMO)
    elif known is None:
        known = control.keys.rotate(DEMO)
    if not there.exists() or there.read_bytes() != known.encode():
        files.write_atomic(there, known.encode(), mode=0o600)


def _stop_on_signals(stop: asyncio.Event) -> None:
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, stop.set)


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
