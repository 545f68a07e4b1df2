"""The loop that makes Envoy route what the catalog wants and the node has: add, move, drain, drop.

One step at a time and by one task, so moves never overlap; whatever changed meanwhile is the next step's.
A worker stands in the gateway's status from before the first request may reach it until after the last
has left it, so the agent never ends one that is needed.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fairlead.domain.catalog import Catalog
from fairlead.domain.errors import FairleadError
from fairlead.domain.ids import RevisionId
from fairlead.domain.layout import Home
from fairlead.domain.ports import Catalogs
from fairlead.domain.status import Replica
from fairlead.domain.table import RoutingTable, table_from
from fairlead.gateway.clusters import named_clusters, replicas_of
from fairlead.gateway.index import index
from fairlead.gateway.ports import Envoy
from fairlead.gateway.report import Reporter
from fairlead.gateway.settings import GatewaySettings
from fairlead.gateway.snapshot import Snapshot, snapshot
from fairlead.gateway.state import CatalogCache, Inputs, View
from fairlead.kits.clock import Clock

Document = dict[str, Any]

LOOK_SECONDS = 0.1
# Envoy's threads take new routes a moment after it has told that it has them.
_SETTLE_SECONDS = 0.2
_log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Draining:
    """A cluster that no route names any more."""

    cluster: Document
    since: float
    idle_once: bool = False


class Follower:
    """Follows catalog, status and keys."""

    def __init__(
        self,
        settings: GatewaySettings,
        home: Home[Path],
        envoy: Envoy,
        view: View,
        clock: Clock,
    ) -> None:
        self._settings = settings
        self._home = home
        self._envoy = envoy
        self._view = view
        self._clock = clock
        self._inputs = Inputs(home, view)
        self._reporter = Reporter(settings, home, view, clock)
        # What the gateway before this one left counts as routed until the first move.
        self._routed: Mapping[str, Document] = dict(envoy.clusters())
        view.replicas = _replicas_left(envoy)
        self._draining: dict[str, _Draining] = {}
        self._seen: tuple[Catalog, tuple[Replica, ...], Mapping[str, str]] | None = None

    async def follow(self) -> None:
        """Step after step, until cancelled."""
        while True:
            await self.step()
            await self._clock.sleep(LOOK_SECONDS)

    async def step(self) -> None:
        """Look once, and do what follows from it."""
        self._inputs.look()
        wanted = self._wanted()
        if wanted is not None:
            await self._apply(*wanted)
        await self._drop_idle()
        self._reporter.beat(self._workers)

    def _wanted(self) -> tuple[RoutingTable, Mapping[RevisionId, tuple[Replica, ...]]] | None:
        """The table to route by and who is behind it; None if it is what was tried last."""
        view = self._view
        there = view.node.replicas if view.node else ()
        credentials = self._inputs.credentials
        seen = self._seen
        # The catalog is compared by identity: it is large, and changes as a whole.
        if seen and seen[0] is view.catalog and seen[1:] == (there, credentials):
            return None
        self._seen = (view.catalog, there, credentials)
        ready = view.node.ready() if view.node else {}
        reasons = view.node.reasons() if view.node else {}
        table = table_from(view.catalog, ready, reasons, view.index.table)
        replicas = {
            revision.id: ready.get(revision.id) or view.replicas.get(revision.id, ())
            for service in table.services.values()
            for line in service.lines.values()
            for revision in line.revisions.values()
            if revision.routable
        }
        return table, replicas

    async def _apply(
        self, table: RoutingTable, replicas: Mapping[RevisionId, tuple[Replica, ...]]
    ) -> None:
        view = self._view
        credentials = self._inputs.credentials
        new = await asyncio.to_thread(
            snapshot, table, replicas, credentials, self._settings, self._home
        )
        there = self._workers()
        if added := _workers_of(new.clusters) - there:
            self._reporter.write(there | added)
        try:
            moved = await self._move(new)
        except (FairleadError, OSError) as error:
            view.rejected_updates += 1
            view.note("routes", f"the routes stay as they were: {error}")
            return
        view.note("routes", "")
        view.previous, view.index = view.index, index(table)
        view.replicas = replicas
        if moved:
            _log.info(
                "routes moved to generation %d",
                table.generation,
                extra={"event": "routes", "generation": table.generation},
            )
        self._reporter.write(self._workers())

    async def _move(self, new: Snapshot) -> bool:
        """Add, move, and let what is no longer named drain."""
        old = self._routed
        for name in new.clusters:
            self._draining.pop(name, None)
        kept = {**old, **self._drain_clusters(), **new.clusters}
        await self._envoy.set_clusters([kept[name] for name in sorted(kept)])
        moved = await self._envoy.set_routes(new.routes)
        await self._envoy.set_listener(new.listener)
        self._routed = new.clusters
        now = self._clock.monotonic()
        for name, cluster in old.items():
            if name not in new.clusters:
                self._draining[name] = _Draining(cluster, now)
        return moved

    async def _drop_idle(self) -> None:
        """Drop the clusters that nobody uses any more, or for too long."""
        if not self._draining:
            return
        now = self._clock.monotonic()
        active = await self._active()
        for name, one in list(self._draining.items()):
            age = now - one.since
            idle = age > _SETTLE_SECONDS and active.get(name) == 0
            if (idle and one.idle_once) or age > self._settings.drain_seconds:
                del self._draining[name]
                if not idle:
                    _log.warning("%s still had requests after %.0f s", name, age)
            one.idle_once = idle
        kept = {**self._routed, **self._drain_clusters()}
        try:
            dropped = await self._envoy.set_clusters([kept[name] for name in sorted(kept)])
        except (FairleadError, OSError) as error:
            self._view.rejected_updates += 1
            self._view.note("routes", f"old clusters stay: {error}")
            return
        if dropped:
            self._reporter.write(self._workers())

    async def _active(self) -> dict[str, int]:
        """Requests on each draining cluster; a cluster Envoy knows nothing of is missing."""
        names = "|".join(re.escape(name) for name in self._draining)
        found = await self._envoy.stats(rf"^cluster\.({names})\.upstream_rq(_pending)?_active$")
        active: dict[str, int] = {}
        for stat, value in found.items():
            name = stat.removeprefix("cluster.").rpartition(".")[0]
            active[name] = active.get(name, 0) + value
        return active

    def _drain_clusters(self) -> dict[str, Document]:
        return {name: one.cluster for name, one in self._draining.items()}

    def _workers(self) -> set[str]:
        """Every worker that a request may still reach."""
        return _workers_of({**self._routed, **self._drain_clusters()})


async def watch_catalog(catalogs: Catalogs, cache: CatalogCache, view: View, clock: Clock) -> None:
    """Keep the view's catalog the newest there is; goes on with the last one while the store is away."""
    while True:
        try:
            catalog = await asyncio.to_thread(catalogs.read)
        except (FairleadError, OSError) as error:
            view.note("store", f"the store is away, the last catalog stays: {error}")
        else:
            view.note("store", "")
            if catalog != view.catalog:
                await asyncio.to_thread(cache.write, catalog)
                view.catalog = catalog
        await clock.sleep(LOOK_SECONDS)


def first_catalog(catalogs: Catalogs, cache: CatalogCache, view: View) -> Catalog:
    """The store's catalog, or the last one seen; empty if there never was any."""
    try:
        return catalogs.read()
    except (FairleadError, OSError) as error:
        view.note("store", f"the store is away, the last catalog stays: {error}")
        return cache.read() or Catalog()


def _workers_of(clusters: Mapping[str, Document]) -> set[str]:
    return {replica.worker for one in clusters.values() for replica in replicas_of(one)}


def _replicas_left(envoy: Envoy) -> dict[RevisionId, tuple[Replica, ...]]:
    named = named_clusters(envoy.routes())
    left = [replicas_of(one) for name, one in envoy.clusters().items() if name in named]
    return {replicas[0].revision: replicas for replicas in left if replicas}
