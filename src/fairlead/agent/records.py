"""One record for each worker on disk, so that the next agent can adopt what this one started.

`<worker>.spec` is what the worker itself reads; `<worker>.json` is written before the worker starts, and
again, with who it is, right after. So whatever moment the agent dies, a running worker has a record. A worker that
serves several revisions goes by the name of the first.
"""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass, replace
from pathlib import Path

from fairlead.api.worker import WorkerSpec, specs_from_json, specs_to_json
from fairlead.domain.errors import FairleadError
from fairlead.domain.layout import Home
from fairlead.domain.manifest import check_schema
from fairlead.domain.reading import Node
from fairlead.kits.files import write_atomic
from fairlead.kits.processes import ProcessId, to_record

SCHEMA = 2  # 2: a list of specs
_MODE = 0o600  # settings may hold a token

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Record:
    """What is known of one process. No `process`: the agent died while it started it.

    `specs` are those who have not been retired; `name` stays when the first of them is.
    """

    specs: tuple[WorkerSpec, ...]
    process: ProcessId | None = None
    name: str = ""

    def __post_init__(self) -> None:
        """A process is named after the first it serves."""
        if not self.name:
            object.__setattr__(self, "name", self.specs[0].worker)


def spec_file(home: Home[Path], worker: str) -> Path:
    """Where a worker's spec lies."""
    return home.workers / f"{worker}.spec"


def announce(home: Home[Path], *specs: WorkerSpec) -> Record:
    """Write down that a worker for these is about to be started."""
    record = Record(specs)
    # Not flushed to the disk: after a power cut there is no process to adopt either.
    data = specs_to_json(specs).encode()
    write_atomic(spec_file(home, record.name), data, mode=_MODE, durable=False)
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
        _log.warning("worker %s: its process cannot be written down: %s", record.name, error)
    return record


def left(home: Home[Path], record: Record, worker: str) -> Record:
    """Write down that one of several has been retired."""
    record = replace(record, specs=tuple(one for one in record.specs if one.worker != worker))
    try:
        _write(home, record)
    except OSError as error:
        _log.warning("worker %s is retired, and its record stays: %s", worker, error)
    return record


def remove(home: Home[Path], worker: str) -> None:
    """Forget a process: its record, its spec and its sockets; what cannot be removed, the next agent finds."""
    record = read(home, worker)
    for name in {worker, *(spec.worker for spec in (record.specs if record else ()))}:
        remove_socket(home, name)
    _unlink(worker, home.workers / f"{worker}.json", spec_file(home, worker))


def remove_socket(home: Home[Path], worker: str) -> None:
    """Remove the socket of one that does not answer there any more."""
    socket = home.worker_socket(worker)
    beside = socket.with_name(f"{socket.name}~")  # where it is until somebody listens behind it
    _unlink(worker, socket, beside)


def _unlink(worker: str, *paths: Path) -> None:
    for path in paths:
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
        # An agent of an earlier version wrote one spec.
        specs = specs_from_json(json.dumps(document.get("specs") or document["spec"]))
        return Record(specs, _process(Node(document["process"]), str(path)), worker)
    except (OSError, ValueError, KeyError, FairleadError):
        return None


def _write(home: Home[Path], record: Record) -> None:
    process = record.process
    document = {
        "schema": SCHEMA,
        "specs": json.loads(specs_to_json(record.specs)),
        "process": to_record(process) if process else None,
    }
    path = home.workers / f"{record.name}.json"
    write_atomic(path, json.dumps(document).encode(), mode=_MODE, durable=False)


def _process(node: Node, source: str) -> ProcessId | None:
    if node.value is None:
        return None
    process = ProcessId(
        node.child("pid").integer(1), node.child("started").integer(0), node.child("boot").text()
    )
    node.done(source)
    return process
