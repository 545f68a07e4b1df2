"""What the gateway of this node routes, as its status file says: whoever it lists may still get requests.

A gateway that is slow, stopped or killed has said nothing new, but its Envoy routes on by what it last
said. So a status counts however old it is, until it is removed, as an orderly end does, or until neither the
process that wrote it nor its Envoy lives any more.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from fairlead.domain.errors import FairleadError
from fairlead.domain.layout import Home
from fairlead.domain.status import GatewayStatus, KeptTraffic, gateway_status_from_bytes
from fairlead.kits import processes
from fairlead.kits.clock import Clock
from fairlead.kits.files import read_json

_QUIET_SECONDS = 2.0  # it writes twice a second; only one that does not is looked at closely
_NEVER = float("-inf")

# Something routes here and nobody knows what: it has read no catalog, so nobody may be retired.
_UNKNOWN = GatewayStatus(written_at=0.0, pid=0, generation=-1, url="")

_log = logging.getLogger(__name__)


class GatewayWatch:
    """Follows the gateway's status.

    `written_at` is when the status was written at the earliest, in the clock's steady seconds: the wall
    clock may have been set since, and the gateway's own word for it is of the wall clock.
    """

    def __init__(self, home: Home[Path], clock: Clock) -> None:
        self._home = home
        self._clock = clock
        self.status: GatewayStatus | None = None
        self.written_at = _NEVER
        self._said: GatewayStatus | None = None
        self._file: tuple[int, int] | None = None  # which file was read last
        self._traffic: KeptTraffic = {}
        self._unreadable = False
        self._looked_at = _NEVER
        self._heard_at = _NEVER  # when it was last seen to have written something

    def look(self) -> None:
        """Read what is new."""
        now = self._clock.monotonic()
        if self._changed():
            self.written_at = self._looked_at
            if self._looked_at > _NEVER:  # else it may have been lying there for long
                self._heard_at = now
        said = self._said
        quiet = now - self._heard_at > _QUIET_SECONDS
        self.status = None if said is None or (quiet and self._dead(said.pid)) else said
        self._looked_at = now

    def _changed(self) -> bool:
        path = self._home.gateway_status
        try:
            found = path.stat()
            file = (found.st_mtime_ns, found.st_ino)
            if file == self._file:
                return False
            self._said = gateway_status_from_bytes(path.read_bytes(), str(path), self._traffic)
        except FileNotFoundError:
            self._said, self._file = None, None
            return False
        except (OSError, ValueError, FairleadError) as error:
            if not self._unreadable:
                _log.warning("the gateway's status cannot be read: %s", error)
            self._unreadable = True
            self._said = self._said or _UNKNOWN
            return False
        self._file, self._unreadable = file, False
        return True

    def _dead(self, pid: int) -> bool:
        """Are both the process that wrote the status and its Envoy gone?"""
        # A pid alone may be a stranger's by now; only a gateway holds this lock.
        if pid and processes.holds_open(pid, self._home.gateway_lock):
            return False
        try:
            record: Any = read_json(self._home.envoy_process)
            if record is None:
                return True
            return not processes.alive(processes.from_record(record))
        except (KeyError, TypeError, ValueError):
            return True  # no gateway could adopt by this record either
        except OSError:
            return False  # nobody knows
