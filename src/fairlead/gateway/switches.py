"""The kill switches: which workers are left out because of their failures, seen once a second.

Envoy decides and closes them itself, so they work with this process away, and for those behind it so does the activator;
here they are only told: to the log as they open and close, to the status, to `/healthz` and to `/metrics`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Mapping

from fairlead.domain.ids import EndpointId
from fairlead.domain.kill_switch import KillSwitch
from fairlead.domain.status import OpenSwitch
from fairlead.gateway.clusters import cluster_name, endpoint_of, replicas_of
from fairlead.gateway.failures import HeldOff
from fairlead.gateway.ports import Envoy
from fairlead.gateway.state import View
from fairlead.kits.clock import Clock

_LOOK_SECONDS = 1.0
_log = logging.getLogger(__name__)

Off = tuple[EndpointId, str]  # a worker that gets none of an endpoint's requests


class Switches:
    """Keeps `view.switches` and `view.trips`; what the view has at first is the gateway's before this one."""

    def __init__(
        self,
        envoy: Envoy,
        view: View,
        switch: KillSwitch,
        clock: Clock,
        held: Callable[[], Mapping[EndpointId, HeldOff]] = dict,
    ) -> None:
        self._envoy = envoy
        self._view = view
        self._switch = switch
        self._clock = clock
        self._ask_held = held
        self._held: Mapping[EndpointId, HeldOff] = {}
        self._since: dict[Off, float] = {
            (one.endpoint, worker): one.since for one in view.switches for worker in one.workers
        }

    async def follow(self) -> None:
        """Look again and again, until cancelled."""
        while True:
            await self.look()
            await self._clock.sleep(_LOOK_SECONDS)

    async def look(self) -> None:
        """Look once, and tell what has changed. While Envoy is away nothing has."""
        sockets = await self._envoy.switched_off()
        if sockets is None:
            return
        self._held = self._ask_held()
        off = self._routed(sockets)
        off |= {(endpoint, one) for endpoint, held in self._held.items() for one in held.off}
        now = self._clock.now()
        for one in sorted(off - self._since.keys()):
            self._since[one] = now
            self._opened(*one)
        for one in sorted(self._since.keys() - off):
            self._closed(*one, now - self._since.pop(one))
        self._view.switches = tuple(
            self._open(endpoint) for endpoint in sorted({endpoint for endpoint, _ in off})
        )

    def _routed(self, sockets: Mapping[str, frozenset[str]]) -> set[Off]:
        """Who that is; without the clusters that only drain, because nobody asks those any more."""
        off = set()
        clusters = self._envoy.clusters() if sockets else {}
        for name, paths in sockets.items():
            cluster = clusters.get(name, {})
            endpoint = endpoint_of(cluster)
            if endpoint is None or name != self._routed_name(endpoint):
                continue
            off |= {(endpoint, one.worker) for one in replicas_of(cluster) if one.socket in paths}
        return off

    def _routed_name(self, endpoint: EndpointId) -> str:
        return cluster_name(endpoint, self._view.behind.of(endpoint))

    def _open(self, endpoint: EndpointId) -> OpenSwitch:
        since = {worker: at for (one, worker), at in self._since.items() if one == endpoint}
        return OpenSwitch(
            endpoint,
            tuple(sorted(since)),
            len(self._workers(endpoint)),
            min(since.values()),
            min(since.values()) + self._switch.seconds,
        )

    def _workers(self, endpoint: EndpointId) -> Collection[str]:
        """Who is asked for this endpoint; of a cold one only the activator knows."""
        if endpoint in self._held:
            return self._held[endpoint].workers
        return {one.worker for one in self._view.behind.of(endpoint)}

    def _opened(self, endpoint: EndpointId, worker: str) -> None:
        trips = self._view.trips
        trips[endpoint] = trips.get(endpoint, 0) + 1
        _log.warning(
            "%s: worker %s is switched off for %.0f s: %d %% or more of its requests failed",
            endpoint,
            worker,
            self._switch.seconds,
            self._switch.percent,
            extra={"event": "kill_switch", "endpoint": str(endpoint), "worker": worker},
        )

    def _closed(self, endpoint: EndpointId, worker: str, seconds: float) -> None:
        what = "is tried again" if worker in self._workers(endpoint) else "has been replaced"
        _log.info(
            "%s: worker %s %s after %.0f s switched off",
            endpoint,
            worker,
            what,
            seconds,
            extra={"event": "kill_switch", "endpoint": str(endpoint), "worker": worker},
        )
