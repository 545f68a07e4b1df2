"""`fairlead why`: finds a request in the access log and explains it."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import xxhash

from fairlead.domain.catalog import Catalog
from fairlead.domain.errors import FairleadError, Kind, Refused
from fairlead.domain.layout import ACCESS_LOG
from fairlead.domain.requests import LoggedRequest, read_request
from fairlead.domain.why import Explanation, Then, explain, explain_by_workers
from fairlead.kits.lines import first_line, lines_with
from fairlead.kits.sizes import mebibytes
from fairlead.server.settings import serving_settings_from
from fairlead.wiring.homes import Control
from fairlead.wiring.observe import running
from fairlead.wiring.settings import environment

_LONGEST_ID = 128  # what the gateway keeps of a caller's id
# Envoy writes its log every half a second; a request that has just been answered is worth the wait.
_UNWRITTEN_SECONDS = 1.5
_LOOK_SECONDS = 0.1
_MOST_WORKER_LINES = 20


@dataclass(frozen=True, slots=True)
class Found:
    """One request, and what its worker wrote about it."""

    explanation: Explanation
    worker_log: tuple[dict[str, Any], ...]


def find_requests(control: Control, request_id: str) -> list[Found]:
    """Every request of the access log with this id, oldest first; raises Refused (NOT_FOUND) if there is none."""
    wanted = request_id[:_LONGEST_ID]
    records = _records(control, wanted)
    until = control.clock.monotonic() + _UNWRITTEN_SECONDS
    while not records and running(control) is not None and control.clock.monotonic() < until:
        control.clock.pause(_LOOK_SECONDS)
        records = _records(control, wanted)
    if not records:
        logged = tuple(_worker_lines(control, request_id, "*"))
        if not logged:
            raise Refused(Kind.NOT_FOUND, _nothing(control, request_id))
        return [Found(explain_by_workers(request_id), logged)]
    return [_explained(control, read_request(record)) for record in records]


def access_logs(logs: Path) -> list[Path]:
    """The access log and its older ones, newest first: one that is renamed meanwhile is seen twice, not never."""
    older = [path for path in logs.glob(f"{ACCESS_LOG}.*") if path.suffix[1:].isdecimal()]
    return [logs / ACCESS_LOG, *sorted(older, key=lambda path: int(path.suffix[1:]))]


def _records(control: Control, request_id: str) -> list[dict[str, Any]]:
    needle = json.dumps(request_id, ensure_ascii=False).encode()
    found: dict[bytes, dict[str, Any]] = {}
    for path in access_logs(control.home.logs):
        for line in lines_with(path, needle):
            record = _record(line)
            if record.get("request_id") == request_id:
                found.setdefault(line, record)
    return sorted(found.values(), key=lambda record: str(record.get("time")))


def _explained(control: Control, request: LoggedRequest) -> Found:
    explanation = explain(request, _then(control, request), xxhash.xxh64_intdigest)
    if request.worker is None or request.revision is None:
        return Found(explanation, ())
    return Found(explanation, tuple(_worker_lines(control, request.id, request.worker)))


def _then(control: Control, request: LoggedRequest) -> Then:
    """What was configured at that time, or if nobody knows that any more, what is now."""
    here = running(control)
    root = str(here["root"]) if here else serving_settings_from(environment().serving).root
    api_version = root.strip("/")
    try:
        then = control.catalogs.at(request.time)
        if then is not None:
            return Then(then, api_version)
        return Then(control.catalogs.read(), api_version, exact=False)
    except (
        FairleadError,
        ValueError,
        KeyError,
    ):  # a store that is gone or damaged: the log has its own words
        return Then(Catalog(), api_version, exact=False)


def _worker_lines(control: Control, request_id: str, worker: str) -> Iterator[dict[str, Any]]:
    """What workers of this name (`*`: any) wrote about a request, up to a bound."""
    needle = json.dumps(request_id, ensure_ascii=False).encode()
    lines = (
        _record(line)
        for path in sorted(
            {
                *control.home.logs.glob(f"worker-*-{worker}.jsonl"),
                *control.home.logs.glob("worker-pool-*.jsonl"),
            }
        )
        for line in lines_with(path, needle)
    )
    mine = (record for record in lines if record.get("request_id") == request_id)
    return itertools.islice(mine, _MOST_WORKER_LINES)


def _nothing(control: Control, request_id: str) -> str:
    logs = access_logs(control.home.logs)
    begins = [since for path in logs if (since := _record(first_line(path)).get("time"))]
    if not begins:
        return f"no request {request_id!r}: the access log in {control.home.logs} is empty"
    size = sum(path.stat().st_size for path in logs if path.exists())
    return (
        f"no request {request_id!r} in the access log, which reaches back to {min(begins)} "
        f"({mebibytes(size)} in {len(begins)} files); requests before that are not kept"
    )


def _record(line: bytes) -> dict[str, Any]:
    try:
        record = json.loads(line)
    except ValueError:
        return {}
    return record if isinstance(record, dict) else {}
