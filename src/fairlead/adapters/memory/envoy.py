"""An Envoy that only remembers: the fake behind the gateway's port."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping, Sequence
from typing import Any

from fairlead.domain.errors import FairleadError, Kind

Document = dict[str, Any]


class MemoryEnvoy:
    """Keeps what it was told, in order, in `told`; `die` and `refuse` make it fail."""

    def __init__(self) -> None:
        self.told: list[str] = []
        self._clusters: dict[str, Document] = {}
        self._routes: Document = {}
        self._listeners: dict[str, Document] = {}
        self.certificate: Document = {}
        self.numbers: dict[str, int] = {}
        self.off: dict[str, frozenset[str]] = {}  # sockets with too many failures, by cluster
        self.alive = False
        self.refuse = ""  # the kind it refuses: clusters, routes, listener or certificate
        self.slow: asyncio.Event | None = None  # nothing is taken before it is set
        self._end = asyncio.Event()

    async def adopt(self, bootstrap: Document) -> bool:  # noqa: ARG002 - the port's signature
        return self.alive

    async def start(self, bootstrap: Document) -> None:  # noqa: ARG002 - the port's signature
        self.alive = True
        self.told.append("start")
        self._end.clear()

    async def set_clusters(self, clusters: Sequence[Document]) -> bool:
        wanted = {one["name"]: one for one in clusters}
        if wanted == self._clusters:
            return False
        await self._take("clusters")
        self._clusters = wanted
        return True

    async def set_routes(self, routes: Document) -> bool:
        if routes == self._routes:
            return False
        await self._take("routes")
        self._routes = routes
        return True

    async def set_listeners(self, listeners: Sequence[Document]) -> bool:
        wanted = {one["name"]: one for one in listeners}
        if wanted == self._listeners:
            return False
        await self._take("listener")
        self._listeners = wanted
        return True

    async def set_certificate(self, certificate: Document | None) -> bool:
        if (certificate or {}) == self.certificate:
            return False
        await self._take("certificate")
        self.certificate = certificate or {}
        return True

    def clusters(self) -> Mapping[str, Document]:
        return self._clusters

    def listeners(self) -> Mapping[str, Document]:
        return self._listeners

    def routes(self) -> Document:
        return self._routes

    async def stats(self, pattern: str) -> Mapping[str, int]:
        return {name: value for name, value in self.numbers.items() if re.search(pattern, name)}

    async def switched_off(self) -> Mapping[str, frozenset[str]] | None:
        return dict(self.off) if self.alive else None

    async def ended(self) -> str:
        await self._end.wait()
        return "ended"

    async def reopen_logs(self) -> None:
        self.told.append("reopen_logs")

    async def drain(self, seconds: float) -> None:  # noqa: ARG002 - the port's signature
        self.told.append("drain")

    async def stop(self, seconds: float) -> None:  # noqa: ARG002 - the port's signature
        self.told.append("stop")
        self.die()

    def die(self) -> None:
        """End, as if killed."""
        self.alive = False
        self._end.set()

    async def _take(self, kind: str) -> None:
        if self.slow is not None:
            await self.slow.wait()
        if self.refuse == kind:
            raise FairleadError(f"Envoy refused its {kind}", kind=Kind.INVALID)
        self.told.append(kind)
