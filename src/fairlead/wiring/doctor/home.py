"""Checks of a home: its store, locks, leavings of dead processes, permissions, statuses."""

from __future__ import annotations

import errno
import os
import shlex
import socket
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

from fairlead.agent import records
from fairlead.domain.errors import FairleadError
from fairlead.domain.findings import Finding
from fairlead.domain.layout import Home
from fairlead.domain.status import gateway_status_from_bytes, node_status_from_bytes
from fairlead.kits import files, processes
from fairlead.kits.clock import Clock
from fairlead.wiring.homes import record_in

_LOCK_SECONDS = 1.0  # a healthy writer holds the store's lock for milliseconds
_LOOK_SECONDS = 0.05
SILENT_SECONDS = 10.0
_PRIVATE_BITS = 0o077
_FULL = (errno.ENOSPC, errno.EDQUOT)


def writable(home: Home[Path]) -> list[Finding]:
    """Can what commands and processes write be written?"""
    found = []
    for directory in (
        home.root,
        home.store,
        home.store / "catalog",
        home.gateway,
        home.root / "node",
    ):
        if not directory.exists():
            continue
        probe = directory / f".doctor-{os.getpid()}"
        try:
            files.write_atomic(probe, b"x", durable=False)
            probe.unlink()
        except OSError as error:
            wrong = f"{directory} cannot be written: {error.strerror or error}"
            mend = mending(error, directory)
            found.append(Finding("home", wrong, "commands and processes write there", mend))
            if error.errno in _FULL:
                break  # what else lies there cannot be written either, and room mends it all
    return found


def mending(error: OSError, directory: Path) -> str:
    """What lets a directory be used again: that depends on why it cannot be."""
    there = shlex.quote(str(directory))
    if error.errno in _FULL:
        return f"free some room; what is large here: du -xh {there} | sort -h | tail"
    if error.errno in (errno.EROFS, errno.EIO):
        return f"see how it is mounted: findmnt -T {there}; and what the system says of it: dmesg | tail"
    if isinstance(error, PermissionError):
        return f"run: sudo chown -R $(id -u) {there} && chmod -R u+rwX {there}"
    return "restore the home from a backup, or name another with --home"


def store_lock(home: Home[Path], clock: Clock) -> list[Finding]:
    """Does somebody sit on the store's lock?"""
    path = home.store / ".lock"
    if not path.exists():
        return []
    started = clock.monotonic()
    if not os.access(path, os.W_OK):
        return []  # `writable` tells that nothing can be written there
    while (handle := files.try_lock(path)) is None:
        if clock.monotonic() - started > _LOCK_SECONDS:
            pids = [pid for pid in _pids() if processes.holds_open(pid, path)]
            who = (
                ", ".join(f"pid {pid} ({_command(pid)})" for pid in pids)
                or "another user's process"
            )
            mend = f"end it: kill {pids[0]}" if pids else f"find it: sudo fuser {path}"
            wrong = f"the store's lock is held by {who}"
            return [Finding("store", wrong, "every change of the catalog waits for it", mend)]
        clock.pause(_LOOK_SECONDS)
    os.close(handle)
    return []


def leavings(home: Home[Path]) -> list[Finding]:
    """What dead processes left: records, sockets, workers and an Envoy that nobody leads."""
    found = []
    up = held(home.lock)
    if home.running.exists() and not up:
        wrong = f"{home.running} is left of a `fairlead up` that died"
        mend = f"run: fairlead up --home {home.root}; or: rm {home.running}"
        found.append(Finding("leavings", wrong, "it names a process that is gone", mend))
    if not up and not held(home.agent_lock):
        found += list(_workers(home))
    if not up and not held(home.gateway_lock):
        record = record_in(home.envoy_process)
        if _lives(record):
            wrong = f"an Envoy (pid {record['pid']}) runs without its gateway"
            why = "it serves on with the last routes, and learns of no change"
            mend = f"run: fairlead up --home {home.root}; or end it: kill {record['pid']}"
            found.append(Finding("leavings", wrong, why, mend))
    return [*found, *_sockets(home)]


def permissions(home: Home[Path]) -> list[Finding]:
    """Are the files that hold secrets this user's alone?"""
    told_to_envoy = [
        *home.envoy.glob("*.json"),
        *home.envoy.glob("*/*.json"),
        *home.envoy.glob("*/*.pb"),
    ]
    # Envoy's own record holds no secret.
    secret = [
        home.keys,
        home.demo_key,
        *(one for one in told_to_envoy if one != home.envoy_process),
    ]
    found = []
    for path in secret:
        try:
            seen = path.lstat()
        except OSError:
            continue
        if seen.st_uid != os.getuid():
            wrong = f"{path} belongs to user {seen.st_uid}, not to you"
            mend = f"run: sudo chown $(id -u) {path}"
            found.append(Finding("secrets", wrong, "it holds keys, and cannot be kept", mend))
        elif seen.st_mode & _PRIVATE_BITS:
            wrong = f"{path} can be read by others (mode {stat.S_IMODE(seen.st_mode):04o})"
            why = "it holds the keys of callers"
            found.append(Finding("secrets", wrong, why, f"run: chmod 600 {path}"))
    if home.sockets.exists():
        try:
            files.private_directory(home.sockets)
        except OSError:
            wrong = f"{home.sockets} can be entered by others"
            why = "who enters it can call workers without a key"
            found.append(Finding("secrets", wrong, why, f"run: chmod 700 {home.sockets}"))
    return found


def statuses(home: Home[Path], now: float) -> list[Finding]:
    """Do the agent and the gateway that run here still say so?"""
    found = []
    readers: tuple[tuple[str, Path, Path, Callable[[bytes], float]], ...] = (
        ("agent", home.agent_lock, home.node_status, _node_written),
        ("gateway", home.gateway_lock, home.gateway_status, _gateway_written),
    )
    for name, lock, path, written in readers:
        if not path.exists():
            continue
        why = "commands and the gateway act on what it says"
        try:
            at = written(path.read_bytes())
        except (OSError, FairleadError) as error:
            wrong = f"the {name}'s status cannot be read: {error}"
            mend = f"run: rm {path}; a running {name} writes it again"
            found.append(Finding("status", wrong, why, mend))
            continue
        if held(lock) and now - at > SILENT_SECONDS:
            wrong = f"the {name} runs, but has said nothing for {now - at:.0f} s"
            mend = (
                f"see why: fairlead logs --home {home.root}; then end it, and it is started again"
            )
            found.append(Finding("status", wrong, why, mend))
    return found


def reachable(home: Home[Path]) -> list[Finding]:
    """Have the agent and the gateway that run here the sockets they listen on?"""
    found = []
    for name, lock, path in (
        ("agent", home.agent_lock, home.agent_socket),
        ("gateway", home.gateway_lock, home.front_socket),
    ):
        if held(lock) and not path.exists():
            wrong = f"the {name} runs, and its socket {path} is gone"
            why = "nobody reaches it; what tidies that directory must leave it alone"
            mend = "`fairlead up` starts it anew within seconds; one that was started on its own: end it, and start it"
            found.append(Finding("sockets", wrong, why, mend))
    return found


def problems(home: Home[Path], now: float) -> list[Finding]:
    """What the agent and the gateway that run here say is wrong with them."""
    found = []
    for name, path, said_by in (
        ("agent", home.node_status, node_status_from_bytes),
        ("gateway", home.gateway_status, gateway_status_from_bytes),
    ):
        try:
            said = said_by(path.read_bytes())
        except (OSError, FairleadError):
            continue  # `statuses` tells what can be told of that
        if said.problem and abs(now - said.written_at) <= SILENT_SECONDS:
            why = "it goes on with what it had, and tries again"
            mend = f"do what it says; if it says the same in a minute: fairlead logs --home {home.root}"
            found.append(Finding(name, f"the {name} says: {said.problem}", why, mend))
    return found


def held_workers(home: Home[Path], now: float) -> list[Finding]:
    """Do runs that do not end keep workers from answering anybody?"""
    try:
        node = node_status_from_bytes(home.node_status.read_bytes())
    except (OSError, FairleadError):
        return []  # `statuses` tells what can be told of that
    if now - node.written_at > SILENT_SECONDS:
        return []
    why = "its code does not come back, and a thread cannot be ended from outside"
    return [
        Finding(
            "workers",
            f"worker {one.worker} (pid {one.pid}, {one.unit}): {said}",
            why,
            f"wait: it is replaced by itself; or run: kill -9 {one.pid}; what hung: fairlead logs --home {home.root}",
        )
        for one in node.replicas
        if (said := one.held(node.written_at))
    ]


def held(lock: Path) -> bool:
    """Does a running process hold this lock?"""
    try:
        handle = files.try_lock(lock) if lock.exists() else -1
    except OSError:
        return False  # not ours to ask; that is a finding of its own
    if handle is None:
        return True
    if handle >= 0:
        os.close(handle)
    return False


def _node_written(data: bytes) -> float:
    return node_status_from_bytes(data).written_at


def _gateway_written(data: bytes) -> float:
    return gateway_status_from_bytes(data).written_at


def _workers(home: Home[Path]) -> Iterator[Finding]:
    for name in records.known(home):
        record = records.read(home, name)
        if record is None or record.process is None or not processes.alive(record.process):
            continue
        pid = record.process.pid
        whom = ", ".join(str(spec.revision) for spec in record.specs)
        wrong = f"worker {name} (pid {pid}, {whom}) runs without an agent"
        mend = f"run: fairlead up --home {home.root}, which adopts it; or end it: kill {pid}"
        yield Finding("leavings", wrong, "nobody watches it, and it holds memory", mend)


def _sockets(home: Home[Path]) -> Iterator[Finding]:
    if not home.sockets.is_dir():
        return
    for path in sorted(home.sockets.glob("*.sock")):
        with socket.socket(socket.AF_UNIX) as probe:
            probe.settimeout(1.0)
            try:
                probe.connect(str(path))
            except (ConnectionRefusedError, OSError):
                wrong = f"nobody listens on {path}"
                why = "a process that died left it; what connects there gets no answer"
                yield Finding("leavings", wrong, why, f"run: rm {path}")


def _lives(record: dict[str, object]) -> bool:
    try:
        return processes.alive(processes.from_record(record))
    except (KeyError, TypeError):
        return False


def _pids() -> Iterator[int]:
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            yield int(entry.name)


def _command(pid: int) -> str:
    try:
        words = (Path("/proc") / str(pid) / "cmdline").read_bytes().split(b"\0")
    except OSError:
        return "?"
    return " ".join(word.decode(errors="replace") for word in words[:4]).strip()
