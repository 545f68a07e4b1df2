"""One record for each worker on disk, so that the next agent can adopt what this one started.

`<worker>.spec` is what the worker itself reads; `<worker>.json` is written before the worker starts, and
again, with who it is, right after. So whatever moment the agent dies, a running worker has a record.
"""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass, replace
from pathlib import Path

from fairlead.api.worker import WorkerSpec
from fairlead.domain.errors import FairleadError
from fairlead.domain.layout import Home
from fairlead.domain.manifest import check_schema
from fairlead.domain.reading import Node
from fairlead.kits.files import write_atomic
from fairlead.kits.processes import ProcessId, to_record

SCHEMA = 1
_MODE = 0o600  # settings may hold a token

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Record:
    """What is known of one worker. No `process`: the agent died while it started it."""

    spec: WorkerSpec
    process: ProcessId | None = None


def spec_file(home: Home[Path], worker: str) -> Path:
    """Where a worker's spec lies."""
    return home.workers / f"{worker}.spec"


def announce(home: Home[Path], spec: WorkerSpec) -> Record:
    """Write down that this worker is about to be started."""
    # Not flushed to the disk: after a power cut there is no process to adopt either.
    write_atomic(spec_file(home, spec.worker), spec.to_json().encode(), mode=_MODE, durable=False)
    record = Record(spec)
    _write(home, record)
    return record


def started(home: Home[Path], record: Record, process: ProcessId) -> Record:
    """Write down who the worker's process is.

    If the disk does not take it, what `announce` wrote stays, by which the process is found as well.
    """
    record = replace(record, process=process)
    try:
        _write(home, record)
    except OSError as error:
        _log.warning("worker %s: its process cannot be written down: %s", record.spec.worker, error)
    return record


def remove(home: Home[Path], worker: str) -> None:
    """Forget a worker: its record, its spec and its socket; what cannot be removed, the next agent finds."""
    socket = home.worker_socket(worker)
    for path in (
        home.workers / f"{worker}.json",
        spec_file(home, worker),
        socket,
        socket.with_name(f"{socket.name}~"),  # where it is until somebody listens behind it
    ):
        try:
            path.unlink()
        except FileNotFoundError:
            continue
        except OSError as error:
            _log.warning("worker %s has ended, and its file stays: %s", worker, error)


def known(home: Home[Path]) -> list[str]:
    """Every worker that left anything in the records, in order of name."""
    if not home.workers.is_dir():
        return []
    return sorted(
        {path.stem for path in home.workers.iterdir() if path.suffix in (".json", ".spec")}
    )


def read(home: Home[Path], worker: str) -> Record | None:
    """A worker's record; None if it is not there or cannot be read, so that nobody was started by it."""
    path = home.workers / f"{worker}.json"
    try:
        data = path.read_bytes()
        document = json.loads(data)
        check_schema(document, SCHEMA, str(path))
        spec = WorkerSpec.from_json(json.dumps(document["spec"]))
        return Record(spec, _process(Node(document["process"]), str(path)))
    except (OSError, ValueError, KeyError, FairleadError):
        return None


def _write(home: Home[Path], record: Record) -> None:
    process = record.process
    document = {
        "schema": SCHEMA,
        "spec": json.loads(record.spec.to_json()),
        "process": to_record(process) if process else None,
    }
    path = home.workers / f"{record.spec.worker}.json"
    write_atomic(path, json.dumps(document).encode(), mode=_MODE, durable=False)


def _process(node: Node, source: str) -> ProcessId | None:
    if node.value is None:
        return None
    process = ProcessId(
        node.child("pid").integer(1), node.child("started").integer(0), node.child("boot").text()
    )
    node.done(source)
    return process
