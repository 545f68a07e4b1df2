"""Envoy's admin interface on its unix socket."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import httpx

from fairlead.kits.unixhttp import unix_client

_ANSWER_SECONDS = 2.0
_EJECTIONS = r"^cluster\..*\.outlier_detection\.ejections_active$"


class Admin:
    """Asks one Envoy; every call raises `Away` if nobody answers."""

    def __init__(self, socket: Path) -> None:
        self._socket = socket

    async def state(self) -> str:
        """`LIVE` once it serves, `PRE_INITIALIZING` or `INITIALIZING` before, `DRAINING` after."""
        return str((await self._json("/server_info"))["state"])

    async def stats(self, pattern: str, kind: str = "All") -> Mapping[str, Any]:
        """Counters, gauges and texts by name; of one `kind`, as Envoy calls them, where many clusters have many."""
        answer = await self._json(f"/stats?format=json&type={kind}&filter={_quoted(pattern)}")
        return {one["name"]: one["value"] for one in answer["stats"] if "name" in one}

    async def text(self, name: str) -> str:
        """One text among the statistics; empty if there is none of this name."""
        found = await self.stats(f"^{re.escape(name)}$", "TextReadouts")
        return str(found.get(name, ""))

    async def ejected(self) -> Mapping[str, frozenset[str]]:
        """The sockets that outlier detection leaves out, by cluster.

        One cheap question while there are none: only gauges that were ever set.
        """
        stats = await self._json(
            f"/stats?format=json&type=Gauges&usedonly&filter={_quoted(_EJECTIONS)}"
        )
        names = [
            one["name"].removeprefix("cluster.").removesuffix(".outlier_detection.ejections_active")
            for one in stats["stats"]
            if one.get("value")
        ]
        if not names:
            return {}
        pattern = f"^({'|'.join(map(re.escape, names))})$"
        answer = await self._json(f"/clusters?format=json&filter={_quoted(pattern)}")
        found = {
            cluster["name"]: frozenset(
                host["address"]["pipe"]["path"]
                for host in cluster.get("host_statuses", ())
                if host["health_status"].get("failed_outlier_check") and "pipe" in host["address"]
            )
            for cluster in answer.get("cluster_statuses", ())
        }
        return {name: sockets for name, sockets in found.items() if sockets}

    async def post(self, path: str) -> None:
        """Do something."""
        await self._ask("POST", path)

    async def _json(self, path: str) -> Any:  # noqa: ANN401 - a JSON value
        return (await self._ask("GET", path)).json()

    async def _ask(self, method: str, path: str) -> httpx.Response:
        try:
            async with unix_client(self._socket, _ANSWER_SECONDS) as client:
                answer = await client.request(method, path)
                answer.raise_for_status()
                return answer
        except (httpx.HTTPError, OSError) as error:
            raise Away(f"Envoy does not answer on {self._socket}: {error!r}") from error


class Away(Exception):
    """Nobody answers on the admin socket."""


def _quoted(pattern: str) -> str:
    return re.sub(r"[^A-Za-z0-9_.~-]", lambda one: f"%{ord(one.group()):02X}", pattern)
