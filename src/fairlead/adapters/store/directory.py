"""An object store in a directory: rename makes a write whole, a lock makes a condition hold."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path, PurePath

from fairlead.domain.errors import FairleadError, Kind, StoreConflict
from fairlead.domain.manifest import path_problem
from fairlead.domain.ports import ObjectMeta
from fairlead.kits import files

_LOCK = ".lock"
_TEMPORARY = "."  # a name that starts with a dot is being written; no listing shows it


class DirectoryObjectStore:
    """Each object is a file of the same relative path; several processes may use it at once.

    Where the directory itself is gone (a disk that is not mounted) every call fails: an empty store would
    be a lie.
    """

    def __init__(self, root: Path, *, create: bool = False) -> None:
        self._root = root
        if create:
            root.mkdir(parents=True, exist_ok=True)

    def get(self, key: str) -> tuple[bytes, str]:
        path = self._path(key)
        try:
            data = path.read_bytes()
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
            raise _missing(key) from None
        return data, _etag(data)

    def get_range(self, key: str, start: int, length: int) -> bytes:
        try:
            with self._path(key).open("rb") as file:
                file.seek(start)
                return file.read(length)
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
            raise _missing(key) from None

    def size(self, key: str) -> int | None:
        path = self._path(key)
        return path.stat().st_size if path.is_file() else None

    def put(
        self, key: str, data: bytes, *, if_absent: bool = False, if_match: str | None = None
    ) -> str:
        path = self._path(key)
        if not if_absent and if_match is None:
            files.write_atomic(path, data)
            return _etag(data)
        if path.is_dir():
            raise FairleadError(f"{path} is a directory: remove it", kind=Kind.CONFLICT)
        with files.locked(self._root / _LOCK):
            if if_absent and path.exists():
                raise StoreConflict(f"{key} exists already")
            if if_match is not None and (not path.exists() or _etag(path.read_bytes()) != if_match):
                raise StoreConflict(f"{key} is not what it was")
            files.write_atomic(path, data)
        return _etag(data)

    def put_file(self, key: str, path: PurePath) -> None:
        target = self._path(key)
        target.parent.mkdir(parents=True, exist_ok=True)
        handle, beside = tempfile.mkstemp(
            prefix=f"{_TEMPORARY}{target.name[:80]}.", dir=target.parent
        )
        try:
            with os.fdopen(handle, "wb") as written, Path(path).open("rb") as source:
                shutil.copyfileobj(source, written, 1 << 20)
                written.flush()
                os.fsync(written.fileno())
            Path(beside).chmod(0o644)
            Path(beside).replace(target)
        except BaseException as error:
            Path(beside).unlink(missing_ok=True)
            files.name_it(error, target)
            raise
        files.sync_directory(target.parent)

    def list(self, prefix: str) -> Iterator[ObjectMeta]:
        self._check_there()
        start = self._root / prefix.rpartition("/")[0]
        if not start.is_dir():
            return
        found = [
            (path.relative_to(self._root).as_posix(), path)
            for path in start.rglob("*")
            if path.is_file() and not path.name.startswith(_TEMPORARY)
        ]
        for key, path in sorted(found):
            if key.startswith(prefix):
                with contextlib.suppress(FileNotFoundError):  # somebody deleted it just now
                    yield ObjectMeta(key, path.stat().st_size)

    def delete(self, key: str) -> None:
        self._path(key).unlink(missing_ok=True)

    def _check_there(self) -> None:
        if not self._root.is_dir():
            raise FairleadError(f"the store {self._root} is not there", kind=Kind.UNAVAILABLE)

    def _path(self, key: str) -> Path:
        problem = path_problem(key)
        if problem is not None:
            raise FairleadError(f"{key!r} is no key of a store: it {problem}", kind=Kind.INVALID)
        self._check_there()
        return self._root / key


def _etag(data: bytes) -> str:
    # Content decides: two writers of the same bytes wrote the same thing.
    return hashlib.sha256(data).hexdigest()[:32]


def _missing(key: str) -> FairleadError:
    return FairleadError(f"the store has no {key}", kind=Kind.NOT_FOUND)
