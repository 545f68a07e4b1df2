"""An object store in memory, with the same conditional writes as the real ones."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from pathlib import Path, PurePath

from fairlead.domain.errors import FairleadError, Kind, StoreConflict
from fairlead.domain.ports import ObjectMeta


class MemoryObjectStore:
    """Objects in a dictionary. `broken` makes every call fail, as a store that is away would."""

    def __init__(self) -> None:
        self._objects: dict[str, bytes] = {}
        self._lock = threading.Lock()
        self.broken = False

    def get(self, key: str) -> tuple[bytes, str]:
        data = self._read(key)
        return data, _etag(data)

    def get_range(self, key: str, start: int, length: int) -> bytes:
        return self._read(key)[start : start + length]

    def size(self, key: str) -> int | None:
        self._check()
        data = self._objects.get(key)
        return None if data is None else len(data)

    def put(
        self, key: str, data: bytes, *, if_absent: bool = False, if_match: str | None = None
    ) -> str:
        self._check()
        with self._lock:
            current = self._objects.get(key)
            if if_absent and current is not None:
                raise StoreConflict(f"{key} exists already")
            if if_match is not None and (current is None or _etag(current) != if_match):
                raise StoreConflict(f"{key} is not what it was")
            self._objects[key] = data
        return _etag(data)

    def put_file(self, key: str, path: PurePath) -> None:
        self.put(key, Path(path).read_bytes())

    def list(self, prefix: str) -> Iterator[ObjectMeta]:
        self._check()
        for key in sorted(self._objects):
            found = self._objects.get(key)  # None if somebody deleted it just now
            if key.startswith(prefix) and found is not None:
                yield ObjectMeta(key, len(found))

    def delete(self, key: str) -> None:
        self._check()
        self._objects.pop(key, None)

    def _read(self, key: str) -> bytes:
        self._check()
        try:
            return self._objects[key]
        except KeyError:
            raise FairleadError(f"the store has no {key}", kind=Kind.NOT_FOUND) from None

    def _check(self) -> None:
        if self.broken:
            raise FairleadError("the store does not answer", kind=Kind.UNAVAILABLE)


def _etag(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:16]
