"""Checks of the machine: interpreter, libraries, Envoy, limits, disk, memory, sockets, port, clock."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path

from fairlead.domain.findings import Finding

OLDEST_PYTHON = (3, 11)
LIBRARIES = (
    *("click", "httptools", "httpx", "msgspec", "numpy", "onnxruntime", "psutil"),
    *("pydantic_core", "rjsonnet", "uvloop", "xxhash", "yaml"),
)
ENVOY_VERSION = "1.40"
FEWEST_DESCRIPTORS = (
    1024  # a connection through the gateway takes two, and a worker's sockets come on top
)
LEAST_DISK_BYTES = 512 << 20
FEWEST_INODES = 10_000
LEAST_MEMORY_BYTES = 256 << 20  # a small model's worker takes about 100 MiB
_CHILD_SECONDS = 60.0  # a cold disk, and a library of hundreds of megabytes
_ENVOY_SECONDS = 20.0
_OLDEST_NOW = 1_767_225_600.0  # the start of 2026: no clock that is right shows less
_FUTURE_SECONDS = 120.0
_REINSTALL = "reinstall: make clean setup, or pip install --force-reinstall fairlead"

_BUILT_PLAINLY = Finding(
    "python",
    "this Python was built without optimisations (--enable-optimizations)",
    "starts take about a third more processor time than they need, requests a seventh",
    "run: make clean setup, with your system's Python or one built with --enable-optimizations on the PATH",
    optional=True,
)


def python(version: Sequence[int], *, slow: bool) -> list[Finding]:
    """Is this Python new enough, and as fast as it could be?"""
    if tuple(version[:2]) >= OLDEST_PYTHON:
        return [_BUILT_PLAINLY] if slow else []
    found = ".".join(map(str, version[:2]))
    needed = ".".join(map(str, OLDEST_PYTHON))
    return [
        Finding(
            "python",
            f"Python {found} runs Fairlead",
            f"it needs {needed} or newer",
            f"install Python {needed}, then: PYTHON=python{needed} make setup",
        )
    ]


def libraries(names: Iterable[str], python: str = sys.executable) -> list[Finding]:
    """Can each library be imported? In a child, because a wrong binary may crash."""
    program = (
        "import importlib, sys\n"
        "for name in sys.argv[1:]:\n"
        "    print(name, end=' ', flush=True)\n"
        "    try:\n"
        "        importlib.import_module(name)\n"
        "    except BaseException as error:\n"
        "        print(type(error).__name__, str(error).partition('\\n')[0], flush=True)\n"
        "    else:\n"
        "        print('-', flush=True)\n"
    )
    done = subprocess.run(  # noqa: S603 - our own interpreter
        [python, "-c", program, *names],
        capture_output=True,
        text=True,
        timeout=_CHILD_SECONDS,
        check=False,
    )
    found = []
    for line in done.stdout.splitlines():
        name, _, outcome = line.strip().partition(" ")
        if outcome != "-":
            said = outcome or f"it ended the process (code {done.returncode})"
            why = "Fairlead does not work without it"
            found.append(Finding("libraries", f"{name} cannot be used: {said}", why, _REINSTALL))
    return found


def envoy(binary: Path) -> list[Finding]:
    """Does Envoy run here, and is it the version whose configuration we write?"""
    why = "the gateway is Envoy, configured by Fairlead"
    try:
        done = subprocess.run(  # noqa: S603 - the packaged binary
            [str(binary), "--version"],
            capture_output=True,
            text=True,
            timeout=_ENVOY_SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        said = getattr(error, "strerror", None) or str(error)
        return [Finding("envoy", f"{binary} does not run: {said}", why, _REINSTALL)]
    if done.returncode != 0:
        said = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        mend = "use a system with glibc 2.28 or newer, or macOS 13 or newer; else " + _REINSTALL
        return [Finding("envoy", f"{binary} does not run: {said}", why, mend)]
    if ENVOY_VERSION not in done.stdout:
        wrong = f"{binary} is {done.stdout.strip().rpartition('version: ')[2] or 'unknown'}"
        return [Finding("envoy", wrong, f"{why} for {ENVOY_VERSION}", _REINSTALL)]
    return []


def descriptors(soft: int) -> list[Finding]:
    """May a process open enough files?"""
    if soft < 0 or soft >= FEWEST_DESCRIPTORS:
        return []
    why = "each connection takes two; when none is left, callers get no answer"
    return [Finding("limits", f"a process may open {soft} files only", why, "run: ulimit -n 65536")]


def disk(path: Path, free_bytes: int, free_inodes: int | None) -> list[Finding]:
    """Is there room for artifacts and logs? `free_inodes` is None where the file system counts none."""
    why = "artifacts cannot be pulled and changes cannot be written"
    mend = f"free some, or put the home elsewhere with --home; what is large here: du -xh {path} | sort -h | tail"
    found = []
    if free_bytes < LEAST_DISK_BYTES:
        wrong = f"{free_bytes >> 20} MiB are free where {path} lies"
        found.append(Finding("disk", wrong, why, mend))
    if free_inodes is not None and free_inodes < FEWEST_INODES:
        wrong = f"{free_inodes} files can still be made where {path} lies (inodes)"
        found.append(Finding("disk", wrong, why, mend.replace("du -xh", "du -x --inodes")))
    return found


def room(path: Path) -> list[Finding]:
    """Disk, asked of the file system; of the nearest directory that is there."""
    there = next(one for one in (path, *path.parents) if one.exists())
    counts = os.statvfs(there)
    inodes = counts.f_favail if counts.f_files else None
    return disk(there, shutil.disk_usage(there).free, inodes)


def memory(available_bytes: int) -> list[Finding]:
    """Is there memory for a worker?"""
    if available_bytes >= LEAST_MEMORY_BYTES:
        return []
    wrong = f"{available_bytes >> 20} MiB of memory are available"
    why = "a worker takes about 100 MiB and its model; the kernel kills what does not fit"
    return [Finding("memory", wrong, why, "see what takes it: ps aux --sort=-rss | head")]


def temporary(directory: Path) -> list[Finding]:
    """Can temporary files be written?"""
    try:
        with tempfile.TemporaryFile(dir=directory) as file:
            file.write(b"x")
    except OSError as error:
        wrong = f"{directory} takes no file: {error.strerror or error}"
        why = "models are checked and sockets are made there"
        return [
            Finding(
                "temporary files", wrong, why, "run: export TMPDIR=DIRECTORY, one you may write"
            )
        ]
    return []


def port(host: str, number: int) -> list[Finding]:
    """Can the gateway listen? Not asked while our own gateway does."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, number))
        except OSError as error:
            wrong = f"{host}:{number} cannot be listened on: {error.strerror or error}"
            mend = f"see who has it: ss -ltnp 'sport = :{number}'; or: fairlead up --port {_free(host, family)}"
            return [Finding("port", wrong, "the gateway listens there", mend)]
    return []


def _free(host: str, family: socket.AddressFamily) -> int:
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        try:
            probe.bind((host, 0))
        except OSError:
            return 8081
        return int(probe.getsockname()[1])


def clock(now: float, newest_write: float | None) -> list[Finding]:
    """Is the clock right, as far as the newest file we wrote can tell?"""
    why = "statuses look old, certificates wrong, and times in logs lie"
    mend = "set the clock: sudo timedatectl set-ntp true"
    if now < _OLDEST_NOW:
        return [Finding("clock", "the clock shows a time before 2026", why, mend)]
    if newest_write is not None and newest_write > now + _FUTURE_SECONDS:
        seconds = newest_write - now
        wrong = f"the home was written {seconds:.0f} s in the future: the clock was set back"
        return [Finding("clock", wrong, why, mend)]
    return []


def tools(checkout: Path, path: str | None) -> list[Finding]:
    """In a checkout: is there what its commands need?"""
    if not (checkout / "bench" / "run.py").is_file() or not (checkout / "Makefile").is_file():
        return []
    found = []
    if not (checkout / ".venv" / "bin" / "python").exists() and not _in_environment():
        wrong = "this checkout has no virtual environment"
        found.append(Finding("checkout", wrong, "`make` commands use it", "run: make setup"))
    if shutil.which("wrk", path=path) is None:
        wrong, why = "wrk is not installed", "`make bench` measures with it; nothing else needs it"
        found.append(Finding("checkout", wrong, why, "run: sudo apt install wrk", optional=True))
    return found


def _in_environment() -> bool:
    return sys.prefix != sys.base_prefix
