"""Telling the agent who waits for what: it brings up what is cold, and counts them when it scales.

Said at once when somebody begins to wait, each second while somebody does, and once when nobody does any more.
"""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path

import httpx

from fairlead.api.agent import WAKE_PATH, Wake, wakes_to_json
from fairlead.domain.ids import EndpointId
from fairlead.kits.timeouts import timeout
from fairlead.kits.unixhttp import unix_client

_EVERY_SECONDS = 1.0
_LONGEST_SECONDS = 1.0  # an agent that does not answer in that time is asked again
_log = logging.getLogger(__name__)


class Waker:
    """The only one here who speaks to the agent."""

    def __init__(self, socket: Path) -> None:
        self._socket = socket
        self._waiting: dict[EndpointId, int] = {}
        self._told: dict[EndpointId, int] = {}
        self._news = asyncio.Event()
        self._silent = False

    def waits(self, endpoint: EndpointId, count: int) -> None:
        """So many wait for this endpoint now."""
        if count == self._waiting.get(endpoint, 0):
            return
        self._waiting[endpoint] = count
        if not count or endpoint not in self._told:
            self._news.set()

    async def work(self) -> None:
        """Tell it; until cancelled."""
        while True:
            await self._news.wait()
            self._news.clear()
            while self._waiting:
                told = dict(self._waiting)
                if await self._tell(told):
                    self._told = {one: count for one, count in told.items() if count}
                    for one, count in told.items():
                        if not count and not self._waiting.get(one):
                            self._waiting.pop(one, None)
                await self._pause()

    async def _pause(self) -> None:
        """A second, or until there is news."""
        try:
            async with timeout(_EVERY_SECONDS):
                await self._news.wait()
        except TimeoutError:
            pass
        self._news.clear()

    async def _tell(self, waiting: dict[EndpointId, int]) -> bool:
        body = wakes_to_json(Wake(endpoint, count) for endpoint, count in waiting.items())
        try:
            async with (
                timeout(_LONGEST_SECONDS),
                unix_client(self._socket, _LONGEST_SECONDS) as client,
            ):
                answer = await client.post(WAKE_PATH, content=body)
                answer.raise_for_status()
        except (httpx.HTTPError, OSError, TimeoutError) as error:
            if not self._silent:
                _log.warning(
                    "the agent does not hear who waits (%s): asking on", type(error).__name__
                )
            self._silent = True
            return False
        self._silent = False
        return True
