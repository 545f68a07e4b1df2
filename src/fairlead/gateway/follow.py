"""The loop that makes Envoy route what the catalog wants and the node has: add, move, drain, drop.

One step at a time and by one task, so moves never overlap; whatever changed meanwhile is the next step's.
A worker stands in the gateway's status from before the first request may reach it until after the last
has left it, so the agent never ends one that is needed. The status has a task of its own: a move that
takes long must not look like a gateway that is gone. What fails is tried again, after longer and longer pauses.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fairlead.domain.catalog import Catalog
from fairlead.domain.errors import FairleadError, Kind
from fairlead.domain.ids import EndpointId, RevisionId
from fairlead.domain.layout import Home
from fairlead.domain.ports import Catalogs
from fairlead.domain.status import Replica
from fairlead.domain.table import Kept, RoutingTable, table_from, without_reasons
from fairlead.gateway.behind import Behind, behind
from fairlead.gateway.changes import told
from fairlead.gateway.clusters import endpoint_of, is_held, named_clusters, replicas_of, seconds_of
from fairlead.gateway.index import index
from fairlead.gateway.listener import LISTENER
from fairlead.gateway.memo import Memo
from fairlead.gateway.ports import Envoy
from fairlead.gateway.quotas import without_gates
from fairlead.gateway.report import BEAT_SECONDS, Reporter
from fairlead.gateway.settings import GatewaySettings
from fairlead.gateway.snapshot import Snapshot, snapshot
from fairlead.gateway.state import CatalogCache, Inputs, View
from fairlead.kits import memory
from fairlead.kits.clock import Clock

Document = dict[str, Any]
_There = tuple[tuple[Replica, ...], tuple[EndpointId, ...]]

LOOK_SECONDS = 0.1
# Envoy's threads take new routes a moment after it has told that it has them.
_SETTLE_SECONDS = 0.2
_RETRY_SECONDS = 0.5
_FEW_CLUSTERS = 50  # whose garbage is collected in no time
_LONGEST_PAUSE_SECONDS = 10.0
_log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Draining:
    """A cluster that no route names any more; its last requests have `seconds`."""

    cluster: Document
    since: float
    seconds: float
    idle_once: bool = False


class _Pause:
    """When something that failed may be tried again."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._seconds = _RETRY_SECONDS
        self._until: float | None = None

    @property
    def failed(self) -> bool:
        return self._until is not None

    @property
    def over(self) -> bool:
        return self._until is None or self._clock.monotonic() >= self._until

    def fail(self) -> None:
        self._until = self._clock.monotonic() + self._seconds
        self._seconds = min(2 * self._seconds, _LONGEST_PAUSE_SECONDS)

    def succeed(self) -> None:
        self._until = None
        self._seconds = _RETRY_SECONDS


class Follower:
    """Follows catalog, status and keys."""

    def __init__(
        self,
        settings: GatewaySettings,
        home: Home[Path],
        envoy: Envoy,
        view: View,
        clock: Clock,
        using: Callable[[], set[str]] = set,
    ) -> None:
        self._settings = settings
        self._using = using  # the workers that are at requests which the activator sent on
        self._home = home
        self._envoy = envoy
        self._view = view
        self._clock = clock
        self._inputs = Inputs(home, view, clock)
        self._reporter = Reporter(settings, home, view, clock)
        # What the gateway before this one left counts as routed until the first move.
        self._routed: Mapping[str, Document] = dict(envoy.clusters())
        self._reached = _workers_of(
            self._routed
        )  # kept: of a thousand clusters, several times a second
        view.behind = _left(envoy)
        self._memo = Memo()
        self._kept: Kept = {}
        self._settled = _FEW_CLUSTERS
        self._draining: dict[str, _Draining] = {}
        self._seen: tuple[Catalog, _There, Mapping[str, str]] | None = None
        # What the last move came of, unless it failed, or Envoy has to be told once more.
        self._moved: tuple[RoutingTable, Behind, Mapping[str, str]] | None = None
        self._move_pause = _Pause(clock)
        self._drop_pause = _Pause(clock)
        self._again = False
        self.refused = ""  # why Envoy itself refused the last move; empty if it did not

    async def follow(self) -> None:
        """Step after step, until cancelled."""
        while True:
            await self.step()
            await self._clock.sleep(LOOK_SECONDS)

    def again(self) -> None:
        """Tell Envoy everything once more: what it did not start with has been taken back."""
        self._again = True

    async def heartbeat(self) -> None:
        """Keep the status young, and what the agent says, whatever the steps are waiting for; until cancelled.

        Or `/healthz` would call an agent silent that only nobody listens to.
        """
        while True:
            self._inputs.look_at_status()
            self._reporter.beat(self._workers)
            await self._clock.sleep(BEAT_SECONDS / 2)

    async def step(self) -> None:
        """Look once, and do what follows from it."""
        self._inputs.look()
        wanted = self._wanted()
        if wanted is not None:
            await self._apply(*wanted)
        elif not self._move_pause.failed:
            self._view.keys_mark = self._inputs.keys_mark
        await self._drop_idle()
        self._reporter.beat(self._workers)

    def _wanted(self) -> tuple[RoutingTable, Behind] | None:
        """The table to route by and who is behind it; None if there is nothing to do, or not yet."""
        view = self._view
        there = (view.node.replicas, view.node.cold) if view.node else ((), ())
        credentials = self._inputs.credentials
        seen = self._seen
        # The catalog is compared by identity: it is large, and changes as a whole.
        same = seen and seen[0] is view.catalog and seen[1:] == (there, credentials)
        if same and not self._again and not (self._move_pause.failed and self._move_pause.over):
            return None
        self._seen = (view.catalog, there, credentials)
        up = view.node.up(view.catalog) if view.node else ()
        reasons = view.node.reasons() if view.node else {}
        table = table_from(view.catalog, up, reasons, view.index.table, self._kept)
        return table, behind(table, view.node, view.behind)

    async def _apply(self, table: RoutingTable, there: Behind) -> None:
        view = self._view
        # While a revision comes up, all that changes is why it does not serve yet.
        wanted = (without_reasons(table), there, self._inputs.credentials)
        before = view.index
        if self._again or wanted != self._moved:
            if not await self._lead(*wanted):
                return
            view.previous = before
        view.index = index(table)
        view.behind = there
        view.keys_mark = self._inputs.keys_mark
        if text := told(before.table, table):
            extra = {"event": "routes", "generation": table.generation}
            _log.info("routes: %s", text, extra=extra)
        self._reporter.write(self._workers())

    async def _lead(
        self, table: RoutingTable, there: Behind, credentials: Mapping[str, str]
    ) -> bool:
        """Tell Envoy; False if that failed."""
        self._moved, self._again = None, False
        new = await asyncio.to_thread(
            snapshot, table, there, credentials, self._settings, self._home, self._memo
        )
        if added := _workers_of(new.clusters) - self._workers():
            self._reporter.coming |= added
            self._reporter.write(self._workers())
        try:
            await self._move(new)
        except (FairleadError, OSError) as error:
            self._failed(error)
            return False
        self._moved = (table, there, credentials)
        self._reporter.coming = frozenset()
        self._move_pause.succeed()
        self._settle(len(new.clusters))
        self.refused = ""
        self._view.note("routes", "")
        return True

    def _settle(self, clusters: int) -> None:
        """What a thousand services' routes are made of stays, and holds no cycles: looking for some takes 0.3 s."""
        if clusters >= 2 * self._settled:
            self._settled = clusters
            memory.settle()

    def _failed(self, error: FairleadError | OSError) -> None:
        self._move_pause.fail()
        refused = isinstance(error, FairleadError) and error.kind is Kind.INVALID
        self.refused = str(error) if refused else ""
        self._view.rejected_updates += 1
        self._view.note("routes", f"the routes stay as they were: {error}")

    async def _move(self, new: Snapshot) -> None:
        """Add, move, and let what is no longer named drain."""
        old = self._routed
        for name in new.clusters:
            self._draining.pop(name, None)
        kept = {**old, **self._drain_clusters(), **new.clusters}
        await self._open_gates(new)
        await self._envoy.set_clusters([kept[name] for name in sorted(kept)])
        await self._envoy.set_routes(new.routes)
        await self._envoy.set_listeners(_in_order({**self._gates(new), LISTENER: new.listener}))
        self._routed, self._reached = new.clusters, _workers_of(new.clusters)
        now = self._clock.monotonic()
        for name, cluster in old.items():
            if name not in new.clusters:
                seconds = max(self._settings.drain_seconds, seconds_of(cluster))
                self._draining[name] = _Draining(cluster, now, seconds)

    async def _open_gates(self, new: Snapshot) -> None:
        """What is inside Envoy has to be there before anybody is sent to it; before the first move nobody is."""
        outer = self._envoy.listeners().get(LISTENER)
        if outer is not None:
            await self._envoy.set_listeners(_in_order({**self._gates(new), LISTENER: outer}))

    def _gates(self, new: Snapshot) -> Mapping[str, Document]:
        """The gates there are, until their clusters have drained, and the new ones."""
        return {**self._envoy.listeners(), **new.gates}

    async def _drop_idle(self) -> None:
        """Drop the clusters that nobody uses any more, or for too long."""
        if not self._draining or not self._drop_pause.over:
            return
        done = await self._drained()
        if not done:
            return
        kept = {**self._routed, **self._drain_clusters()}
        try:
            await self._envoy.set_clusters([kept[name] for name in sorted(kept.keys() - done)])
            left = without_gates(self._envoy.listeners(), kept.keys() - done)
            await self._envoy.set_listeners(_in_order(left))
        except (FairleadError, OSError) as error:
            self._drop_pause.fail()
            self._view.rejected_updates += 1
            self._view.note("clusters", f"old clusters stay: {error}")
            return
        self._drop_pause.succeed()
        self._view.note("clusters", "")
        for name in done:
            del self._draining[name]
        self._reporter.write(self._workers())

    async def _drained(self) -> set[str]:
        """The clusters that may go now."""
        now = self._clock.monotonic()
        active = await self._active()
        done = set()
        for name, one in self._draining.items():
            age = now - one.since
            idle = age > _SETTLE_SECONDS and active.get(name) == 0
            if (idle and one.idle_once) or age > one.seconds:
                done.add(name)
                if not idle:
                    _log.warning("%s still had requests after %.0f s", name, age)
            one.idle_once = idle
        return done

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
        drained = _workers_of(self._drain_clusters())
        return {*self._reached, *drained, *self._reporter.coming, *self._using()}


async def watch_catalog(catalogs: Catalogs, cache: CatalogCache, view: View, clock: Clock) -> None:
    """Keep the view's catalog the newest there is; goes on with the last one while the store is away."""
    pause = _Pause(clock)
    while True:
        try:
            catalog = await asyncio.to_thread(catalogs.read)
        except (FairleadError, OSError) as error:
            view.note("store", f"the store is away, the last catalog stays: {error}")
        else:
            view.note("store", "")
            await _remember(catalog, cache, view, pause)
        await clock.sleep(LOOK_SECONDS)


async def _remember(catalog: Catalog, cache: CatalogCache, view: View, pause: _Pause) -> None:
    """Into the view, and on disk for a time without the store; the first does not wait for the second."""
    if catalog != view.catalog:
        view.catalog = catalog
    if view.catalog is cache.written or not pause.over:
        return
    try:
        await asyncio.to_thread(cache.write, view.catalog)
    except OSError as error:
        pause.fail()
        view.note("cache", f"the catalog cannot be kept for a time without the store: {error}")
    else:
        pause.succeed()
        view.note("cache", "")


def first_catalog(catalogs: Catalogs, cache: CatalogCache, view: View) -> Catalog:
    """The store's catalog, or the last one seen; empty if there never was any."""
    try:
        return catalogs.read()
    except (FairleadError, OSError) as error:
        view.note("store", f"the store is away, the last catalog stays: {error}")
        return cache.read() or Catalog()


def _in_order(listeners: Mapping[str, Document]) -> list[Document]:
    """The outer listener first: the first that reads the routes gives their statistics its name."""
    names = sorted(listeners, key=lambda name: (name != LISTENER, name))
    return [listeners[name] for name in names]


def _workers_of(clusters: Mapping[str, Document]) -> set[str]:
    return {replica.worker for one in clusters.values() for replica in replicas_of(one)}


def _left(envoy: Envoy) -> Behind:
    """What the gateway before this one left."""
    named = named_clusters(envoy.routes())
    replicas: dict[RevisionId, dict[str, Replica]] = {}
    held, cold = set(), set()
    for name, cluster in envoy.clusters().items():
        endpoint = endpoint_of(cluster)
        if name not in named:
            continue
        for one in replicas_of(cluster):
            replicas.setdefault(one.revision, {})[one.worker] = one
        if endpoint is not None and is_held(name):
            held.add(endpoint)
            if not replicas_of(cluster):
                cold.add(endpoint)
    there = {one: tuple(each[worker] for worker in sorted(each)) for one, each in replicas.items()}
    return Behind(there, frozenset(held), frozenset(cold))
