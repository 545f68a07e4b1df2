"""One Envoy process: started or adopted, told new resources, ended.

It outlives the gateway's Python process: a record with its certain identity lies beside its configuration,
and the next gateway adopts it. While it is away, resources are still written: it reads them when it starts.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import logging
import re
import signal
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fairlead.adapters.envoy import words
from fairlead.adapters.envoy.admin import Admin, Away
from fairlead.adapters.envoy.encoding import Unwritable
from fairlead.adapters.envoy.files import KINDS, xds_file
from fairlead.adapters.envoy.refusals import refusal
from fairlead.domain.errors import FairleadError, Kind
from fairlead.kits import files, processes
from fairlead.kits.clock import Clock
from fairlead.kits.processes import ProcessId
from fairlead.kits.timeouts import timeout

Document = dict[str, Any]

_START_SECONDS = 10.0
_ADOPT_SECONDS = (
    10.0  # reading a large table, or on a crowded machine, it answers nobody for seconds
)
# Until Envoy has read a file: it takes milliseconds, a thousand services half a second, and loaded machines seconds.
_TAKE_SECONDS = 30.0
_KILL_SECONDS = 5.0
_PRIVATE = 0o600
_POLL_SECONDS = 0.003
_SLOW_POLL_SECONDS = 0.05
_REFUSAL_POLL_SECONDS = (
    0.1  # among a thousand services' counters the one of refusals costs it 50 ms
)
_STATS = {
    "cds": "cluster_manager.cds",
    "lds": "listener_manager.lds",
    "rds": "http.ingress.rds.fairlead",
    "sds": "sds.gateway",
}
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class EnvoyPlaces:
    """The binary, the directory it reads, its admin socket and the directory of its logs."""

    binary: str
    directory: Path
    admin: Path
    logs: Path


class EnvoyProcess:
    """The port's real side."""

    def __init__(self, places: EnvoyPlaces, concurrency: int, clock: Clock) -> None:
        self._places = places
        self._concurrency = concurrency
        self._clock = clock
        self._admin = Admin(places.admin)
        self._files = {kind: xds_file(places.directory, kind) for kind in KINDS}
        self._process: ProcessId | None = None
        # How many of each kind the process has refused, as far as that is known: asking takes it 50 ms.
        self._refusals: dict[str, int] = {}
        # Of each kind what an Envoy has read last, and what none could start with, where those differ.
        self._read = {kind: file.resources for kind, file in self._files.items()}
        self._unread: dict[str, list[Document]] = {}
        self._writing = asyncio.Lock()
        # Kinds whose file on disk Envoy may not have taken.
        self._unsure = {kind for kind, file in self._files.items() if file.torn}

    async def adopt(self, bootstrap: Document) -> bool:
        try:
            record: Any = files.read_json(self._record)
            process = processes.from_record(record)
            same = record["mark"] == self._mark(bootstrap)
        except (TypeError, KeyError, ValueError):
            return False
        if not processes.alive(process):
            return False
        if same and await self._serves(process):
            self._process = process
            self._refusals = {}
            return True
        _log.warning("the Envoy that runs here (pid %d) cannot be adopted: ending it", process.pid)
        await self._end(process, 1.0)
        return False

    async def _serves(self, process: ProcessId) -> bool:
        """Does it answer that it does? One that is only busy is not ended with everybody it serves."""
        deadline = self._clock.monotonic() + _ADOPT_SECONDS
        while processes.alive(process) and self._clock.monotonic() < deadline:
            with contextlib.suppress(Away):
                return await self._admin.state() == "LIVE"
            await self._clock.sleep(_SLOW_POLL_SECONDS)
        return False

    async def start(self, bootstrap: Document) -> None:
        for directory in (self._places.directory, self._places.logs):
            directory.mkdir(parents=True, exist_ok=True)
        try:
            files.private_directory(self._places.admin.parent)
        except PermissionError as error:
            raise FairleadError(str(error), kind=Kind.FORBIDDEN) from None
        for file in self._files.values():
            file.ensure()
        path = self._places.directory / "bootstrap.json"
        files.write_atomic(path, json.dumps(bootstrap).encode(), mode=_PRIVATE)
        self._places.admin.unlink(missing_ok=True)
        self._log_file.touch(mode=_PRIVATE)
        seen = self._log_file.stat().st_size
        process = self._spawn(path)
        if process is None:
            raise FairleadError(f"Envoy ended at once: {words.words_since(self._log_file, seen)}")
        self._process = process
        self._refusals = {}
        record = processes.to_record(process)
        marked = {**record, "mark": self._mark(bootstrap)}
        try:
            files.write_atomic(self._record, json.dumps(marked).encode())
            await self._wait_live(process, seen)
        except (FairleadError, OSError):
            # Without a record nobody would ever find it again.
            await self._end(process, 0.0)
            await self._exchange()
            raise
        self._read = {kind: file.resources for kind, file in self._files.items()}
        self._unread.clear()

    async def set_clusters(self, clusters: Sequence[Document]) -> bool:
        return await self._set("cds", clusters)

    async def set_routes(self, routes: Document) -> bool:
        return await self._set("rds", [routes])

    async def set_listeners(self, listeners: Sequence[Document]) -> bool:
        changed = await self._set("lds", listeners)
        if changed:  # whoever listens now reads what nobody may have read before
            self._refusals.pop("sds", None)
            await self._taken("rds", self._process, self._refusals.pop("rds", None))
        return changed

    async def set_certificate(self, certificate: Document | None) -> bool:
        return await self._set("sds", [certificate] if certificate else [])

    def clusters(self) -> Mapping[str, Document]:
        return {one["name"]: one for one in self._files["cds"].resources}

    def listeners(self) -> Mapping[str, Document]:
        return {one["name"]: one for one in self._files["lds"].resources}

    def routes(self) -> Document:
        return next(iter(self._files["rds"].resources), {})

    async def stats(self, pattern: str) -> Mapping[str, int]:
        try:
            found = await self._admin.stats(pattern)
        except Away:
            return {}
        return {name: value for name, value in found.items() if isinstance(value, int)}

    async def switched_off(self) -> Mapping[str, frozenset[str]] | None:
        try:
            return await self._admin.ejected()
        except Away:
            return None

    async def ended(self) -> str:
        if self._process is None:
            return "was never started"
        return str(await processes.wait_exit(self._process))

    async def reopen_logs(self) -> None:
        with contextlib.suppress(Away):
            await self._admin.post("/reopen_logs")

    async def drain(self, seconds: float) -> None:
        deadline = self._clock.monotonic() + seconds
        with contextlib.suppress(Away):
            await self._admin.post("/drain_listeners")
            # From here on every answer says that its connection closes (GOAWAY in HTTP/2): callers who keep theirs and ask
            # on would never be done, and the last of their requests would be cut off.
            await self._admin.post("/healthcheck/fail")
            while self._clock.monotonic() < deadline:
                active = await self._admin.stats(r"^http\.ingress\.downstream_rq_active$")
                if not any(active.values()):
                    return
                await self._clock.sleep(_SLOW_POLL_SECONDS)

    async def stop(self, seconds: float) -> None:
        process = self._process
        if process is None:
            return
        with contextlib.suppress(Away):
            await self._admin.post("/quitquitquit")
        await self._end(process, seconds)
        self._process = None
        for path in (self._record, self._places.admin):
            path.unlink(missing_ok=True)

    @property
    def _record(self) -> Path:
        return self._places.directory / "process.json"

    @property
    def _log_file(self) -> Path:
        return self._places.logs / "envoy.log"

    def _mark(self, bootstrap: Document) -> str:
        """Tells Envoys apart that were started otherwise and so cannot be adopted."""
        how = [bootstrap, self._places.binary, self._concurrency]
        return hashlib.sha256(json.dumps(how, sort_keys=True).encode()).hexdigest()

    def _spawn(self, bootstrap: Path) -> ProcessId | None:
        with self._log_file.open("ab") as log:
            child = subprocess.Popen(  # noqa: S603 - our own arguments
                self._command(bootstrap),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # Ctrl-C is for us: we drain it first
            )
        child.returncode = 0  # not waited for here: whoever watches it reaps it through its pidfd
        return processes.identify(child.pid)

    def _command(self, bootstrap: Path) -> list[str]:
        return [
            self._places.binary,
            "--config-path",
            str(bootstrap),
            "--disable-hot-restart",
            "--reject-unknown-dynamic-fields",
            "--concurrency",
            str(self._concurrency),
            *words.flags(self._log_file),
            "--file-flush-interval-msec",
            "500",
            "--drain-time-s",
            "5",
        ]

    async def _wait_live(self, process: ProcessId, seen: int) -> None:
        """Until it serves with what lies there; raises FairleadError."""
        deadline = self._clock.monotonic() + _START_SECONDS
        while processes.alive(process):
            with contextlib.suppress(Away):
                live = await self._admin.state() == "LIVE"
                if live and all([await self._wait_taken(kind, 0) for kind in KINDS]):
                    return
            if self._clock.monotonic() > deadline:
                raise FairleadError(f"Envoy was not ready after {_START_SECONDS:.0f} s")
            await self._clock.sleep(_SLOW_POLL_SECONDS / 5)
        raise FairleadError(f"Envoy ended at once: {words.words_since(self._log_file, seen)}")

    async def _end(self, process: ProcessId, seconds: float) -> None:
        if seconds > 0:
            processes.send_signal(process, signal.SIGTERM)
            with contextlib.suppress(TimeoutError):
                async with timeout(seconds):
                    await processes.wait_exit(process)
                    return
        processes.send_signal(process, signal.SIGKILL)
        with contextlib.suppress(TimeoutError):
            async with timeout(_KILL_SECONDS):
                await processes.wait_exit(process)

    async def _set(self, kind: str, resources: Sequence[Document]) -> bool:
        file = self._files[kind]
        before = file.resources
        wanted = list(resources)
        if kind not in self._unsure and await asyncio.to_thread(before.__eq__, wanted):
            return False
        process, rejected = self._process, self._refusals.pop(kind, None)
        if rejected is None:
            with contextlib.suppress(Away):
                rejected = await self._rejected(kind)
        unwatched = file.unwatched
        try:
            await self._write(kind, wanted)
        except Unwritable:
            raise await self._refused(kind, wanted) from None
        if unwatched and process is not None:
            # It watches a directory that somebody has removed, and would never see another file: whoever waits for its end
            # starts the next one, with what lies in the new one.
            _log.error("%s was removed: ending the Envoy that watched it", file.path.parent)
            await self._end(process, _KILL_SECONDS)
        try:
            read = await self._taken(kind, process, rejected)
        except FairleadError:
            # Should Envoy start anew, it must find what works.
            await self._write(kind, before)
            raise
        self._unread.pop(kind, None)
        if read:
            self._read[kind] = wanted
        return True

    async def _write(self, kind: str, resources: list[Document]) -> None:
        """A large file takes a while, and the status has to go on meanwhile."""
        async with self._writing:
            await asyncio.to_thread(self._files[kind].write, resources)

    async def _exchange(self) -> None:
        """None starts with what lies there: the next one finds what was read last, should the rest be to blame.

        The one after that finds this again: something else may have been wrong.
        """
        for kind, file in self._files.items():
            now, read = file.resources, self._read[kind]
            other = self._unread.pop(kind, None) if now is read else read
            if other is not None:
                with contextlib.suppress(OSError):
                    await self._write(kind, other)
                    self._unread.update({} if now is read else {kind: now})

    async def _taken(self, kind: str, process: ProcessId | None, rejected: int | None) -> bool:
        """Wait until Envoy has taken it (`_wait_taken`); until then nobody is sure.

        `rejected` is how many `process` had refused before.
        """
        self._unsure.add(kind)
        read = await self._wait_taken(kind, rejected)
        self._unsure.discard(kind)
        if rejected is not None and self._process == process:
            self._refusals[kind] = rejected
        return read

    def _runs(self) -> bool:
        return self._process is not None and processes.alive(self._process)

    async def _rejected(self, kind: str) -> int:
        """How many it has refused; raises Away."""
        name = re.escape(f"{_STATS[kind]}.update_rejected")
        found = await self._admin.stats(f"^{name}$", "Counters")
        return int(next(iter(found.values()), 0))

    async def _wait_taken(self, kind: str, rejected: int | None) -> bool:
        """Wait until Envoy says it runs with this version; at once if it has nobody to read it yet.

        False, and at once, if none runs: whoever watches it starts the next one, which reads the file. `rejected` is
        how many it had refused before; if that is not known, its first answer tells.
        """
        if not self._has_readers(kind):
            return True
        if not self._runs():
            return False
        file = self._files[kind]
        began = looked = self._clock.monotonic()
        while (now := self._clock.monotonic()) < began + _TAKE_SECONDS:
            try:
                version = await self._admin.text(f"{_STATS[kind]}.version_text")
                if version == str(file.version):
                    return True
                refused = None
                if rejected is None or now >= looked + _REFUSAL_POLL_SECONDS:
                    refused = await self._rejected(kind)
                    looked = self._clock.monotonic()
            except Away:
                if not self._runs():
                    raise FairleadError(f"Envoy ended while it read the new {kind}") from None
                refused = None  # it is busy reading
            if rejected is None:
                rejected = refused
            elif refused is not None and refused > rejected:
                raise await self._refused(kind, file.resources)
            await self._clock.sleep(_POLL_SECONDS)
        message = f"Envoy did not take the new {kind} within {_TAKE_SECONDS:.0f} s"
        raise FairleadError(message, kind=Kind.DEADLINE)

    async def _refused(self, kind: str, resources: Sequence[Document]) -> FairleadError:
        """The error that says why, with nobody's secret in it."""
        if kind == "sds":  # asked for its reason, Envoy would be given the private key once more
            return FairleadError("Envoy refused the certificate", kind=Kind.INVALID)
        all_kinds = {one: self._files[one].resources for one in KINDS}
        why = await refusal(self._places.binary, kind, {**all_kinds, kind: resources})
        return FairleadError(f"Envoy refused the new {kind}: {why}", kind=Kind.INVALID)

    def _has_readers(self, kind: str) -> bool:
        """Is there something to read, and a listener that does?"""
        listeners = self._files["lds"].resources
        if kind == "sds":
            return any("sds_config" in json.dumps(one) for one in listeners)
        return bool(listeners if kind == "rds" else self._files[kind].resources)
