"""The routing table as Envoy's documents: whole, plain and pure."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fairlead.domain.ids import EndpointId
from fairlead.domain.layout import Home
from fairlead.domain.release import EndpointSpec
from fairlead.domain.table import RoutingTable
from fairlead.gateway.behind import Behind, endpoints_of, routable
from fairlead.gateway.clusters import FRONT, activator_cluster, front_cluster, worker_cluster
from fairlead.gateway.listener import bootstrap, listener
from fairlead.gateway.memo import Memo
from fairlead.gateway.quotas import gate_clusters, gate_listeners
from fairlead.gateway.routes import route_configuration
from fairlead.gateway.settings import GatewaySettings

Document = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Everything Envoy is told for one routing table."""

    bootstrap: Document
    listener: Document
    gates: Mapping[str, Document]  # the listeners inside Envoy, by name
    clusters: Mapping[str, Document]
    routes: Document


def snapshot(
    table: RoutingTable,
    there: Behind,
    credentials: Mapping[str, str],
    settings: GatewaySettings,
    home: Home[Any],
    memo: Memo | None = None,
) -> Snapshot:
    """`there` is who gets each endpoint's requests; `credentials` map secrets to clients.

    `memo`, the same from one snapshot to the next, saves time and changes nothing.
    """
    specs = sorted(
        (pair for revision in routable(table) for pair in endpoints_of(revision)),
        key=lambda pair: pair[0],
    )
    memo = memo or Memo()
    memo.begin()
    socket = str(home.activator_socket)

    def cluster(one: EndpointId, spec: EndpointSpec) -> Document:
        if one in there.held:
            return activator_cluster(one, there.of(one), spec, socket)
        return worker_cluster(one, there.of(one), spec, settings.kill_switch)

    led = {
        one: memo.of(
            ("cluster", one),
            (one in there.held, there.of(one), spec, socket, settings.kill_switch),
            functools.partial(cluster, one, spec),
        )
        for one, spec in specs
    }
    names = {one: cluster["name"] for one, cluster in led.items()}
    return Snapshot(
        bootstrap=bootstrap(home),
        listener=memo.of("listener", (settings, home), lambda: listener(settings, home)),
        gates=gate_listeners(table, settings, home),
        clusters={
            FRONT: front_cluster(str(home.front_socket)),
            **{cluster["name"]: cluster for cluster in led.values()},
            **gate_clusters(table),
        },
        routes=route_configuration(table, names, credentials, settings, memo),
    )
