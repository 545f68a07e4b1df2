"""What the tree of processes, its files and Envoy itself hold, looked at from outside."""

import os
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from http.client import HTTPException
from pathlib import Path

import psutil

from soak.subject import Broken, Subject

MIB = 1 << 20
ROLES = ("up", "agent", "gateway", "envoy", "worker", "command")
_ENVOY_STATS = (
    "server.memory_(allocated|heap_size)|cluster_manager.active_clusters"
    r"|cluster\..*\.upstream_cx_active|http\.ingress\.downstream_cx_active"
)


@dataclass(frozen=True, slots=True)
class Process:
    """One process of the tree at one moment."""

    role: str
    pid: int
    pss: float
    own: float  # anonymous memory, and what of it is swapped out
    rss: float
    threads: int
    handles: Mapping[str, int]  # open file descriptors by kind


@dataclass(frozen=True, slots=True)
class Area:
    """A part of the home on disk."""

    files: int
    directories: int
    bytes: int


@dataclass(frozen=True, slots=True)
class Sample:
    """One moment. `rest` says that only the live revisions' workers ran."""

    at: float  # seconds since the load began
    revision: int
    processes: tuple[Process, ...]
    zombies: int
    envoy: Mapping[str, int]
    areas: Mapping[str, Area] = field(default_factory=dict)
    rest: bool = False

    def of(self, role: str) -> tuple[Process, ...]:
        return tuple(one for one in self.processes if one.role == role)

    def pss_mib(self, role: str) -> float:
        return sum(one.pss for one in self.of(role)) / MIB

    def own_mib(self, role: str) -> float:
        """Own memory of a role's process, the mean if there are several: what a leak adds to."""
        return sum(one.own for one in self.of(role)) / MIB / (len(self.of(role)) or 1)

    @property
    def own_total_mib(self) -> float:
        return sum(one.own for one in self.processes) / MIB

    @property
    def total_mib(self) -> float:
        return sum(one.pss for one in self.processes) / MIB


class Sampler:
    """Takes samples of one subject."""

    def __init__(self, subject: Subject, began: float) -> None:
        self._subject = subject
        self._began = began

    def take(self, now: float, revision: int, *, rest: bool = False, disk: bool = False) -> Sample:
        """Look once; `disk` looks through the home too, which takes longer."""
        members = self._subject.tree.members()
        seen = tuple(one for member in members for one in _process(member))
        pids = {one.pid for one in seen}
        return Sample(
            at=now - self._began,
            revision=revision,
            processes=seen,
            zombies=sum(1 for _ in _zombies(pids)),
            envoy=self._envoy(),
            areas=self._areas() if disk or rest else {},
            rest=rest,
        )

    def _envoy(self) -> dict[str, int]:
        found: dict[str, int] = {}
        with suppress(OSError, ValueError, HTTPException, Broken):
            answer = self._subject.envoy(f"/stats?format=json&filter={_ENVOY_STATS}")
            for stat in answer["stats"]:
                name, value = stat.get("name"), stat.get("value")
                if not isinstance(value, int):
                    continue
                if name.startswith("cluster."):
                    front = name.startswith("cluster.front.")
                    name = "front_connections" if front else "worker_connections"
                found[name] = found.get(name, 0) + value
        return found

    def _areas(self) -> dict[str, Area]:
        home = self._subject.home
        places = {
            "store/blobs": home / "store" / "blobs",
            "store/artifacts": home / "store" / "artifacts",
            "store/catalog": home / "store" / "catalog",
            "store/audit": home / "store" / "audit",
            "store/nodes": home / "store" / "nodes",
            "node/artifacts": home / "node" / "artifacts",
            "node/downloads": home / "node" / "downloads",
            "node/workers": home / "node" / "workers",
            "gateway": home / "gateway",
            "logs": home / "logs",
            "temporary files and sockets": self._subject.temporary,
        }
        found = {name: _area(place) for name, place in places.items()}
        whole = _area(home)
        parts = [area for name, area in found.items() if not name.startswith("temporary")]
        found["anything else in the home"] = Area(
            max(0, whole.files - sum(one.files for one in parts)),
            max(0, whole.directories - sum(one.directories for one in parts)),
            max(0, whole.bytes - sum(one.bytes for one in parts)),
        )
        return found


def _process(member: psutil.Process) -> Iterator[Process]:
    """One process, unless it ends meanwhile."""
    with suppress(psutil.Error, OSError):
        memory = _memory(member.pid)
        yield Process(
            role=_role(member.cmdline()),
            pid=member.pid,
            pss=memory["Pss"],
            own=memory["Anonymous"] + memory["Swap"],
            rss=memory["Rss"],
            threads=member.num_threads(),
            handles=_handles(member.pid),
        )


def _memory(pid: int) -> dict[str, float]:
    """Bytes by kind. Pages of files are left out of what is a process's own: whoever else maps the same file,
    anywhere on the machine, turns them from private to shared and back, by tens of MiB for Envoy.
    """
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii").splitlines()[1:]
    parts = (line.split() for line in lines)
    return {name.removesuffix(":"): int(size) * 1024.0 for name, size, *_ in parts}


def _role(command: list[str]) -> str:
    if command and Path(command[0]).name.startswith("envoy"):
        return "envoy"
    after = command[command.index("fairlead") + 1 :] if "fairlead" in command else []
    return after[0] if after and after[0] in ROLES else "command"


def _handles(pid: int) -> dict[str, int]:
    kinds: Counter[str] = Counter()
    for entry in os.scandir(f"/proc/{pid}/fd"):
        with suppress(OSError):
            kinds[_kind(os.readlink(entry.path))] += 1
    return dict(kinds)


def _kind(target: str) -> str:
    for kind in ("socket", "pipe", "anon_inode"):
        if target.startswith(f"{kind}:"):
            return kind
    return "deleted file" if target.endswith(" (deleted)") else "file"


def _zombies(parents: set[int]) -> Iterator[int]:
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if process.status() == psutil.STATUS_ZOMBIE and process.ppid() in parents:
                yield process.pid


def _area(place: Path) -> Area:
    files = directories = size = 0
    for folder, _, names in os.walk(place):
        directories += 1
        for name in names:
            with suppress(OSError):  # it may go while we look
                size += os.lstat(os.path.join(folder, name)).st_size  # noqa: PTH118 - thousands of files
                files += 1
    return Area(files, directories, size)
