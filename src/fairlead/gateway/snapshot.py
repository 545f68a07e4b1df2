"""The routing table as Envoy's documents: whole, plain and pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fairlead.domain.ids import EndpointId, RevisionId
from fairlead.domain.layout import Home
from fairlead.domain.status import Replica
from fairlead.domain.table import RoutingTable
from fairlead.gateway.clusters import FRONT, cluster_name, front_cluster, worker_cluster
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
    replicas: Mapping[RevisionId, tuple[Replica, ...]],
    credentials: Mapping[str, str],
    settings: GatewaySettings,
    home: Home[Any],
    memo: Memo | None = None,
) -> Snapshot:
    """`replicas` are the workers to send each revision's requests to; `credentials` map secrets to clients.

    `memo`, the same from one snapshot to the next, saves time and changes nothing.
    """
    endpoints = sorted(
        EndpointId(service.name, line.id.line, revision.id.revision, endpoint.name)
        for service in table.services.values()
        for line in service.lines.values()
        for revision in line.revisions.values()
        if revision.routable
        for endpoint in revision.endpoints
    )
    behind = {one: replicas.get(one.revision_id, ()) for one in endpoints}
    names = {one: cluster_name(one, there) for one, there in behind.items()}
    clusters = {
        names[one]: worker_cluster(one, there, settings.kill_switch)
        for one, there in behind.items()
    }
    return Snapshot(
        bootstrap=bootstrap(home),
        listener=listener(settings, home),
        gates=gate_listeners(table, settings, home),
        clusters={
            FRONT: front_cluster(str(home.front_socket)),
            **clusters,
            **gate_clusters(table),
        },
        routes=route_configuration(table, names, credentials, settings, memo or Memo()),
    )
