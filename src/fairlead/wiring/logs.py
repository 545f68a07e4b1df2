"""Following the logs of a home: new lines of every process, oldest first."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

_MOST_BYTES = 1 << 20  # read from one file in one go


class LogFollower:
    """Remembers how far each file of a directory was read; `new` returns what came since."""

    def __init__(self, directory: Path, *, from_start: bool = False) -> None:
        self._directory = directory
        self._read: dict[Path, tuple[int, int]] = {}
        if not from_start:
            for path in self._files():
                self._read[path] = (path.stat().st_ino, path.stat().st_size)

    def new(self) -> list[dict[str, Any]]:
        """Records written since the last call, in order of time; lines that are no records are left out."""
        records = [record for path in self._files() for record in self._lines(path)]
        return sorted(records, key=lambda record: str(record.get("asctime", "")))

    def _files(self) -> list[Path]:
        return sorted(self._directory.glob("*.jsonl"))

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


def _record(line: bytes) -> dict[str, Any] | None:
    try:
        record = json.loads(line)
    except ValueError:
        return None
    return record if isinstance(record, dict) else None
