"""Clusters: one for each revision and set of replicas, so that other replicas are another cluster."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Any

from fairlead.domain.ids import RevisionId
from fairlead.domain.status import Replica, State

Document = dict[str, Any]

FRONT = "front"
_NO_LIMIT = 1_000_000_000
_CONNECT_SECONDS = 0.6
# Far shorter than a worker or the front desk keeps an idle connection, so that none is closed under a request.
_IDLE_SECONDS = 300


def cluster_name(revision: RevisionId, replicas: Iterable[Replica]) -> str:
    """`speech/v9.2@1f2e3d4c5b6a`: the same for the same workers, in whatever order they come."""
    workers = "\n".join(sorted(replica.worker for replica in replicas))
    return f"{revision}@{hashlib.sha256(workers.encode()).hexdigest()[:12]}"


def worker_cluster(name: str, replicas: Iterable[Replica]) -> Document:
    """The cluster of one revision's workers."""
    there = sorted(replicas, key=lambda replica: replica.worker)
    cluster = _cluster(name, [replica.socket for replica in there])
    revision = there[0].revision if there else None
    about = {
        "revision": [revision.service, revision.line, revision.revision] if revision else [],
        "workers": [[replica.worker, replica.digest, replica.socket] for replica in there],
    }
    return {**cluster, "metadata": {"filter_metadata": {"fairlead": about}}}


def replicas_of(cluster: Document) -> tuple[Replica, ...]:
    """The workers behind a cluster, from the cluster itself: also one the gateway before this one wrote."""
    about = cluster.get("metadata", {}).get("filter_metadata", {}).get("fairlead", {})
    if not about.get("revision"):
        return ()
    revision = RevisionId(*about["revision"])
    return tuple(
        Replica(worker, revision, digest, State.READY, socket=socket)
        for worker, digest, socket in about["workers"]
    )


def named_clusters(routes: object) -> set[str]:
    """Every cluster that a route configuration names."""
    if isinstance(routes, list):
        return {name for one in routes for name in named_clusters(one)}
    if not isinstance(routes, dict):
        return set()
    found = {name for one in routes.values() for name in named_clusters(one)}
    if isinstance(routes.get("cluster"), str):
        found.add(routes["cluster"])
    if isinstance(routes.get("weighted_clusters"), dict):
        found.update(share["name"] for share in routes["weighted_clusters"]["clusters"])
    return found


def front_cluster(socket: str) -> Document:
    """The front desk."""
    return _cluster(FRONT, [socket])


def _cluster(name: str, sockets: list[str]) -> Document:
    limits = {
        "max_connections": _NO_LIMIT,
        "max_pending_requests": _NO_LIMIT,
        "max_requests": _NO_LIMIT,
        "max_retries": _NO_LIMIT,
    }
    return {
        "@type": "type.googleapis.com/envoy.config.cluster.v3.Cluster",
        "name": name,
        "type": "STATIC",
        "connect_timeout": f"{_CONNECT_SECONDS}s",
        "lb_policy": "LEAST_REQUEST",
        # How much a worker takes on is the worker's to say; Envoy must not refuse before it.
        "circuit_breakers": {"thresholds": [limits]},
        "typed_extension_protocol_options": {
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
                "common_http_protocol_options": {"idle_timeout": f"{_IDLE_SECONDS}s"},
                "explicit_http_config": {"http_protocol_options": {}},
            }
        },
        "load_assignment": {
            "cluster_name": name,
            "endpoints": [
                {
                    "lb_endpoints": [
                        {"endpoint": {"address": {"pipe": {"path": socket}}}} for socket in sockets
                    ]
                }
            ],
        },
    }
