"""The gateway's status file: which workers a request may still reach, and what really flows."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from pathlib import Path

from fairlead.domain.layout import Home
from fairlead.domain.status import GatewayStatus, gateway_status_to_bytes
from fairlead.gateway.settings import GatewaySettings
from fairlead.gateway.state import View
from fairlead.kits import files
from fairlead.kits.clock import Clock

BEAT_SECONDS = 0.5


class Reporter:
    """The only writer of `GatewayStatus`."""

    def __init__(
        self, settings: GatewaySettings, home: Home[Path], view: View, clock: Clock
    ) -> None:
        self._url = settings.url
        self._path = home.gateway_status
        self._view = view
        self._clock = clock
        self._written_at = float("-inf")
        self.coming: frozenset[str] = frozenset()  # of a move under way, or not made to its end

    def beat(self, workers: Callable[[], Iterable[str]]) -> None:
        """Write if the last one is getting old."""
        if self._clock.monotonic() - self._written_at >= BEAT_SECONDS:
            self.write(workers())

    def write(self, workers: Iterable[str]) -> None:
        """Write now."""
        table = self._view.index.table
        lines = [line for service in table.services.values() for line in service.lines.values()]
        status = GatewayStatus(
            written_at=self._clock.now(),
            pid=os.getpid(),
            generation=table.generation,
            url=self._url,
            workers=tuple(sorted(workers)),
            coming=tuple(sorted(self.coming)),
            effective={line.id: line.traffic for line in lines if line.traffic},
            pins={name: service.pin for name, service in table.services.items()},
            problem="; ".join(self._view.problems.values()),
            keys=self._view.keys_mark,
            switches=self._view.switches,
        )
        # A status that a power cut loses is written again half a second later.
        try:
            files.write_atomic(self._path, gateway_status_to_bytes(status), durable=False)
        except OSError as error:
            self._view.note("disk", f"{self._path} cannot be written: {error}")
        else:
            self._view.note("disk", "")
        self._written_at = self._clock.monotonic()
