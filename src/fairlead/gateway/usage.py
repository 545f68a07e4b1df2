"""When each key was last used, and how often: counted from the access log, far from any request.

The log is read from where the last look ended, a chunk at a time, by one pattern over many lines at once (about 2 µs
a line). The counts are kept with the place they were counted to, so a gateway that was killed goes on exactly
there, also through one rotation. They are bounded by the keys there are.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import re
from collections import Counter
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

from fairlead.domain.errors import FairleadError
from fairlead.domain.layout import ACCESS_LOG, Home
from fairlead.domain.uses import Use, Uses, uses_from_bytes, uses_to_bytes
from fairlead.gateway.state import View
from fairlead.kits import files
from fairlead.kits.clock import Clock

_LOOK_SECONDS = 1.0
_SAVE_SECONDS = 5.0
_CHUNK_BYTES = 1 << 18
_HEAD_BYTES = 4096
# Envoy sorts the fields of a line by name.
_LINE = re.compile(rb'"client":"([^"]+)".*"status":([0-9]+),.*?"time":"([^"]+)"')
_ABOUT_THE_KEY = frozenset({403, 429})
_QUIET_LOOKS = 3  # after which a log that was renamed is done: Envoy writes into it for a moment
_log = logging.getLogger(__name__)


class KeyUse:
    """Follows the access log into `view.uses`; the only writer of the file beside it."""

    def __init__(self, home: Home[Path], view: View, clock: Clock) -> None:
        self._log = home.logs / ACCESS_LOG
        self._path = home.key_uses
        self._view = view
        self._clock = clock
        self._saved = self._read()
        self._saved_at = float("-inf")
        self._quiet = 0
        view.uses = self._saved

    async def follow(self) -> None:
        """Look and keep, until cancelled."""
        try:
            while True:
                for chunk in self._new():
                    # Parsed in a thread, a chunk at a time: the front desk goes on meanwhile.
                    await asyncio.to_thread(self._count, chunk)
                if self._clock.monotonic() - self._saved_at >= _SAVE_SECONDS:
                    await asyncio.to_thread(self.save)
                await self._clock.sleep(_LOOK_SECONDS)
        finally:
            self.save()

    def look(self) -> None:
        """Count what was written since the last look."""
        for chunk in self._new():
            self._count(chunk)

    def save(self) -> None:
        """Keep the counts, if there are other ones than those kept."""
        self._saved_at = self._clock.monotonic()
        known = self._view.catalog.keys
        uses = self._view.uses
        # Generation 0 is a store that is away, not one without keys.
        empty = self._view.catalog.generation == 0
        gone = [] if empty else [client for client in uses.keys if client not in known]
        if gone:
            keys = {client: use for client, use in uses.keys.items() if client in known}
            uses = self._view.uses = Uses(keys, uses.log, uses.offset)
        if uses == self._saved:
            return
        try:
            files.write_atomic(self._path, uses_to_bytes(uses), durable=False)
        except OSError as error:
            self._view.note("uses", f"{self._path} cannot be written: {error}")
        else:
            self._view.note("uses", "")
            self._saved = uses

    def _read(self) -> Uses:
        try:
            return uses_from_bytes(self._path.read_bytes(), str(self._path))
        except FileNotFoundError:
            return Uses()
        except (OSError, ValueError, FairleadError) as error:
            _log.warning("the uses of keys are counted anew: %s", error, extra={"event": "keys"})
            return Uses()

    def _new(self) -> Iterator[bytes]:
        """Whole lines nobody has counted, of the log that was renamed first."""
        old = self._log.with_name(f"{self._log.name}.1")
        uses = self._view.uses
        before = _first(old)
        if before and uses.log != _first(self._log):
            yield from self._lines(old, before)
            self._quiet = self._quiet + 1 if self._view.uses == uses else 0
            if self._quiet < _QUIET_LOOKS:
                return
        self._quiet = 0
        yield from self._lines(self._log, _first(self._log))

    def _lines(self, path: Path, first: str) -> Iterator[bytes]:
        if not first:
            return
        offset = self._view.uses.offset if first == self._view.uses.log else 0
        with path.open("rb") as file:
            while True:
                file.seek(offset)
                data = file.read(_CHUNK_BYTES)
                whole = data[: data.rfind(b"\n") + 1]
                if not whole and len(data) < _CHUNK_BYTES:
                    return
                offset += len(whole) or len(data)  # no line of ours is that long: it is damaged
                self._at = first, offset
                yield whole

    def _count(self, chunk: bytes) -> None:
        found = _LINE.findall(chunk)
        counts = Counter((client, status) for client, status, _ in found)
        last = {client: time for client, _, time in found}
        keys = dict(self._view.uses.keys)
        for (name, status), count in counts.items():
            client = name.decode("latin-1")
            before = keys.get(client, Use())
            refused = dict(before.refused)
            if int(status) in _ABOUT_THE_KEY:
                refused[int(status)] = refused.get(int(status), 0) + count
            used = max(before.last_used, _seconds(last[name]))
            keys[client] = Use(used, before.requests + count, refused)
        self._view.uses = Uses(keys, *self._at)


def _first(path: Path) -> str:
    """Tells one log from another by its first line, which has a time and an id; empty while there is none.

    Not by its inode: the next file may get the one that has just become free.
    """
    try:
        with path.open("rb") as file:
            head = file.read(_HEAD_BYTES)
    except OSError:
        return ""
    line, end, _ = head.partition(b"\n")
    whole = end or len(head) == _HEAD_BYTES
    return hashlib.sha256(line).hexdigest()[:16] if whole else ""


def _seconds(time: bytes) -> float:
    try:
        return datetime.fromisoformat(time.decode("latin-1")).timestamp()
    except ValueError:
        return 0.0
