"""Files that are whole or not there: write beside, flush, rename in."""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import json
import os
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

_PRIVATE = 0o700


def write_atomic(path: Path, data: bytes, *, mode: int = 0o644, durable: bool = True) -> None:
    """Replace `path` with `data` in one step; nobody ever reads half of it.

    With `durable`, the bytes and the name survive a power cut once this returns.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, beside = tempfile.mkstemp(prefix=f".{path.name[:80]}.", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            os.fchmod(file.fileno(), mode)
            file.write(data)
            if durable:
                file.flush()
                os.fsync(file.fileno())
        Path(beside).replace(path)
    except BaseException as error:
        with contextlib.suppress(FileNotFoundError):
            Path(beside).unlink()
        name_it(error, path)
        raise
    if durable:
        sync_directory(path.parent)


def name_it(error: BaseException, path: Path) -> None:
    """Let what the system refused name the file that was written: a full disk does not say whose write it refused."""
    if isinstance(error, OSError) and error.filename is None:
        error.filename = str(path)


def shift(path: Path, keep: int) -> None:
    """Rename `path` to `path.1`, that to `path.2`, and so on; what comes after `keep` (at least 1) goes.

    Whoever has it open writes on under its new name.
    """
    beyond = keep + 1  # of a time when more were kept
    while (one := path.with_name(f"{path.name}.{beyond}")).exists():
        one.unlink(missing_ok=True)
        beyond += 1
    older = [path, *(path.with_name(f"{path.name}.{number}") for number in range(1, keep + 1))]
    for source, target in reversed(list(itertools.pairwise(older))):
        with contextlib.suppress(FileNotFoundError):
            source.replace(target)


def sync_directory(path: Path) -> None:
    """Make renames inside a directory survive a power cut."""
    handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def private_directory(path: Path) -> None:
    """Make a directory that only this user may enter, or check that it is one.

    Raises PermissionError if somebody else made it first, as anybody can in a directory that all may write,
    or if anybody could put another in its place.
    """
    path.mkdir(mode=_PRIVATE, parents=True, exist_ok=True)
    found = path.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o077:
        raise PermissionError(f"{path} is not a directory that only you may enter; remove it")
    above = path.parent.stat().st_mode
    if above & stat.S_IWOTH and not above & stat.S_ISVTX:
        message = f"anybody may replace {path}: {path.parent} can be written by all and has no sticky bit; chmod +t it"
        raise PermissionError(message)


def read_json(path: Path) -> Any | None:  # noqa: ANN401 - a JSON value
    """The JSON value in a file; None if there is no such file. Raises ValueError if it is not JSON."""
    try:
        return json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    except RecursionError:
        raise ValueError("nested too deeply") from None


def mark(path: Path) -> str:
    """Tells one state of a file from the next, as far as it is replaced and never written into; empty without one."""
    try:
        found = path.stat()
    except OSError:
        return ""
    return f"{found.st_ino}-{found.st_size}-{found.st_mtime_ns}"


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold an exclusive lock among processes; waits for its turn, freed even by kill -9."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def try_lock(path: Path) -> int | None:
    """Take an exclusive lock for the life of this process; None if somebody else holds it.

    Returns the file descriptor that holds the lock (not inherited by children).
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(handle)
        return None
    return handle
