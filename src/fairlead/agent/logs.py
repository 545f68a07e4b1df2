"""The workers' logs: where each lies, why its worker ended, and which may go."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Collection, Sequence
from pathlib import Path

from fairlead.api.worker import WorkerSpec
from fairlead.domain.layout import Home

_TAIL_BYTES = 16 * 1024
_SHOWN = 300  # characters a reason may have
_SERIOUS = ("ERROR", "CRITICAL")


def log_file(home: Home[Path], specs: Sequence[WorkerSpec], name: str) -> Path:
    """Where everything a worker prints goes."""
    if len(specs) > 1:
        return home.logs / f"worker-pool-{name}.jsonl"
    spec, revision = specs[0], specs[0].revision
    return home.logs / f"worker-{revision.service}-{revision.served_version}-{spec.worker}.jsonl"


def logs_of(home: Home[Path], name: str) -> list[Path]:
    """The log of the worker with this name, if it is there."""
    return list(home.logs.glob(f"worker-*-{name}.jsonl"))


def prune(home: Home[Path], living: Collection[str], keep: int) -> None:
    """Remove the logs of workers that have ended, all but the newest `keep`."""
    ended = [
        path
        for path in home.logs.glob("worker-*.jsonl")
        if path.stem.rpartition("-")[2] not in living
    ]
    ended.sort(key=lambda path: path.stat().st_mtime_ns, reverse=True)
    for path in ended[keep:]:
        path.unlink(missing_ok=True)
        before(path).unlink(missing_ok=True)


def before(log: Path) -> Path:
    """Where the part of a log lies that was too much for one file."""
    return log.with_name(f"{log.name}.1")


def bound(home: Home[Path], most_bytes: int) -> None:
    """Keep every worker's log below `most_bytes`, and as much of what came before in a file beside it.

    The worker appends to an open file, so that is emptied in place; a line written in that moment is lost.
    """
    for log in home.logs.glob("worker-*.jsonl"):
        with contextlib.suppress(FileNotFoundError):
            if log.stat().st_size > most_bytes:
                with contextlib.suppress(OSError):  # a full disk is no reason to let it grow
                    _copy_end(log, before(log), most_bytes)
                os.truncate(log, 0)


def _copy_end(source: Path, target: Path, most_bytes: int) -> None:
    with source.open("rb") as old, target.open("wb") as new:
        target.chmod(0o600)
        old.seek(max(0, old.seek(0, os.SEEK_END) - most_bytes))
        shutil.copyfileobj(old, new)


def last_words(log: Path) -> str:
    """The last error of a log of JSON lines, or its last line that is none; empty if it says nothing."""
    try:
        with log.open("rb") as file:
            size = file.seek(0, 2)
            file.seek(max(0, size - _TAIL_BYTES))
            lines = file.read().decode(errors="replace").splitlines()
    except OSError:
        return ""
    plain = ""
    for line in reversed(lines):
        text = line.strip()
        try:
            entry = json.loads(text)
        except ValueError:
            plain = plain or text
            continue
        if isinstance(entry, dict) and entry.get("levelname") in _SERIOUS:
            return str(entry.get("message", ""))[:_SHOWN]
    return plain[:_SHOWN]
