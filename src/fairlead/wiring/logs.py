"""Following the logs of a home: new lines of every process, oldest first."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from fairlead.domain.layout import ACCESS_LOG

_MOST_BYTES = 8 << 20  # read from one file in one go; of an older log only its end


class LogFollower:
    """Remembers how far each file of a directory was read; `new` returns what came since.

    Without `requests` the access log is left out: following it costs as much as writing it.
    """

    def __init__(self, directory: Path, *, from_start: bool = False, requests: bool = True) -> None:
        self._directory = directory
        self._left_out = frozenset() if requests else frozenset({ACCESS_LOG})
        self._read: dict[Path, tuple[int, int]] = {}
        for path in self._files():
            size = path.stat().st_size
            start = max(0, size - _MOST_BYTES) if from_start else size
            self._read[path] = (path.stat().st_ino, start)

    @property
    def followed(self) -> set[Path]:
        """The files whose reading place is remembered."""
        return set(self._read)

    def new(self) -> list[dict[str, Any]]:
        """Records written since the last call, in order of time; lines that are no records are left out."""
        files = self._files()
        for gone in self._read.keys() - set(files):
            del self._read[gone]
        records = [record for path in files for record in self._lines(path)]
        return sorted(records, key=moment)

    def _files(self) -> list[Path]:
        found = self._directory.glob("*.jsonl")
        return sorted(path for path in found if path.name not in self._left_out)

    def _lines(self, path: Path) -> list[dict[str, Any]]:
        try:
            with path.open("rb") as file:
                inode = path.stat().st_ino
                before, offset = self._read.get(path, (inode, 0))
                if before != inode or path.stat().st_size < offset:
                    offset = 0  # it was rotated
                file.seek(offset)
                data = file.read(_MOST_BYTES)
        except FileNotFoundError:
            return []
        whole = data[: data.rfind(b"\n") + 1]
        self._read[path] = (inode, offset + len(whole))
        return [record for line in whole.splitlines() if (record := _record(line)) is not None]


def moment(record: dict[str, Any]) -> str:
    """When a record was written, as it says itself; the access log calls it `time`."""
    return str(record.get("asctime") or record.get("time") or "")


def _record(line: bytes) -> dict[str, Any] | None:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return record if isinstance(record, dict) else None
