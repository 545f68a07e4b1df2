"""Clusters: one for each endpoint and set of replicas, so that other replicas are another cluster.

Each has a kill switch: Envoy counts the failures of every worker and leaves out the ones with too many.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Any

from fairlead.api.grpc_status import STATUS
from fairlead.api.http_status import ERROR_CODE, NO_FAULT
from fairlead.domain.errors import Kind
from fairlead.domain.ids import EndpointId, RevisionId
from fairlead.domain.kill_switch import KillSwitch
from fairlead.domain.release import EndpointSpec
from fairlead.domain.status import Replica, State

Document = dict[str, Any]

FRONT = "front"
_ACTIVATOR = "activator"
_HTTP = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
NO_LIMIT = 1_000_000_000
# How much a worker takes on is the worker's to say; Envoy must not refuse before it.
_LIMITS = {
    "max_connections": NO_LIMIT,
    "max_pending_requests": NO_LIMIT,
    "max_requests": NO_LIMIT,
}
CONNECT_SECONDS = 0.6  # S2-37
# Far shorter than a worker or the front desk keeps an idle connection, so that none is closed under a request.
IDLE_SECONDS = 300
# Of the requests under way so many percent may be retries, and always so many at once.
_RETRY_PERCENT = 20
_RETRIES_ALWAYS = 20  # as many as it takes to switch off one of several workers that has died
# Only the extension knows it, not the field of the cluster that sets up the same policy.
_FULL_SCAN = {
    "policies": [
        {
            "typed_extension_config": {
                "name": "envoy.load_balancing_policies.least_request",
                "typed_config": {
                    "@type": "type.googleapis.com/envoy.extensions.load_balancing_policies.least_request.v3.LeastRequest",
                    "selection_method": "FULL_SCAN",
                },
            }
        }
    ]
}


def cluster_name(endpoint: EndpointId, replicas: Iterable[Replica]) -> str:
    """`speech/v9.2/predict@1f2e3d4c5b6a`: the same for the same workers, in whatever order they come."""
    workers = "\n".join(sorted(replica.worker for replica in replicas))
    return f"{endpoint}@{hashlib.sha256(workers.encode()).hexdigest()[:12]}"


def held_name(endpoint: EndpointId, replicas: Iterable[Replica]) -> str:
    """`speech/v9.2/predict@activator`, or with the workers that may be asked: `…@activator-1f2e3d4c5b6a`."""
    there = list(replicas)
    digest = cluster_name(endpoint, there).rpartition("@")[2]
    return f"{endpoint}@{_ACTIVATOR}-{digest}" if there else f"{endpoint}@{_ACTIVATOR}"


def is_held(cluster: str) -> bool:
    """Does a cluster of this name lead to the activator?"""
    return cluster.rpartition("@")[2].startswith(_ACTIVATOR)


def activator_cluster(
    endpoint: EndpointId, replicas: Iterable[Replica], spec: EndpointSpec, socket: str
) -> Document:
    """The activator, for one endpoint. It asks these workers; a kill switch it has not.

    Were it gone, a retry would ask the workers directly: they are the cluster's second priority.
    """
    there = sorted(replicas, key=lambda replica: replica.worker)
    cluster = _cluster(held_name(endpoint, there), [socket])
    if there:
        after = {**_group([replica.socket for replica in there]), "priority": 1}
        cluster["load_assignment"]["endpoints"].append(after)
    return {**cluster, "metadata": _about(endpoint, there, spec)}


def worker_cluster(
    endpoint: EndpointId, replicas: Iterable[Replica], spec: EndpointSpec, switch: KillSwitch
) -> Document:
    """The cluster of one endpoint's workers."""
    there = sorted(replicas, key=lambda replica: replica.worker)
    cluster = _cluster(cluster_name(endpoint, there), [replica.socket for replica in there])
    if spec.concurrency:
        # Where a request may have to wait for another, it goes to the least loaded of all and not of two.
        cluster["load_balancing_policy"] = _FULL_SCAN
    cluster["circuit_breakers"] = {"thresholds": [_LIMITS | _retry_budget()]}
    cluster["outlier_detection"] = _outlier_detection(switch)
    # A worker that is switched off gets nothing, also if all of them are.
    cluster["common_lb_config"] = {
        "healthy_panic_threshold": {"value": 0},
        # Else Envoy's threads learn up to a second late of one that is switched off soon after it was let in.
        "update_merge_window": "0s",
    }
    cluster["typed_extension_protocol_options"][_HTTP]["outlier_detection"] = _failures()
    return {**cluster, "metadata": _about(endpoint, there, spec)}


def _about(endpoint: EndpointId, there: Iterable[Replica], spec: EndpointSpec) -> Document:
    """Whose cluster it is, so that also the next gateway knows."""
    about: Document = {
        "endpoint": [endpoint.service, endpoint.line, endpoint.revision, endpoint.endpoint],
        "workers": [
            [one.worker, one.digest, one.socket, *([one.endpoint] if one.endpoint else [])]
            for one in there
        ],
    }
    if spec.timeout_seconds:
        about["seconds"] = spec.timeout_seconds
    return {"filter_metadata": {"fairlead": about}}


def _about_of(cluster: Document) -> Document:
    """What `_about` wrote; empty for a cluster that is nobody's."""
    about: Document = cluster.get("metadata", {}).get("filter_metadata", {}).get("fairlead", {})
    return about


def seconds_of(cluster: Document) -> float:
    """How long a request to this cluster may take, if its release says that; else 0."""
    about = _about_of(cluster)
    return float(about.get("seconds", 0))


def _outlier_detection(switch: KillSwitch) -> Document:
    """The share of failures counts, or as many in a row; every time off is as long as the first."""
    seconds = f"{switch.seconds}s"
    return {
        "interval": f"{switch.look_seconds}s",
        "base_ejection_time": seconds,
        "max_ejection_time": seconds,
        "max_ejection_percent": 100,
        "always_eject_one_host": True,
        "failure_percentage_threshold": switch.percent,
        "failure_percentage_minimum_hosts": 1,
        "failure_percentage_request_volume": switch.requests,
        "enforcing_failure_percentage": 100,
        # An endpoint that is rarely asked never has enough requests between two looks.
        "consecutive_5xx": switch.requests,
        "enforcing_consecutive_5xx": 100,
        "enforcing_consecutive_gateway_failure": 0,
        "enforcing_success_rate": 0,
    }


def _failures() -> Document:
    """Which answers count as failures: 5xx, but not what is no fault of the worker's.

    That is a full queue, for such a worker does all it can, and a caller's own deadline, for one impatient
    caller must not switch an endpoint off for everybody.
    """
    failed = {"name": ":status", "string_match": {"prefix": "5"}}
    # A translated gRPC call is answered 200 whatever happened: UNKNOWN, DEADLINE_EXCEEDED, INTERNAL, UNAVAILABLE.
    called = {"name": STATUS, "string_match": {"safe_regex": {"regex": "2|4|13|14"}}}
    full = {
        "name": ERROR_CODE,
        "string_match": {"exact": str(Kind.OVERLOADED)},
        "invert_match": True,
        "treat_missing_header_as_empty": True,  # else what is missing is not inverted
    }
    excused = {"name": NO_FAULT, "present_match": True, "invert_match": True}
    # Two lists: each is given up at the first header that does not fit, which is nearly always its first.
    rules = [
        {"http_response_headers_match": {"headers": [first, full, excused]}}
        for first in (failed, called)
    ]
    return {"error_matcher": {"or_match": {"rules": rules}}}


def _retry_budget() -> Document:
    budget = {
        "budget_percent": {"value": _RETRY_PERCENT},
        "min_retry_concurrency": _RETRIES_ALWAYS,
    }
    return {"retry_budget": budget}


def endpoint_of(cluster: Document) -> EndpointId | None:
    """The endpoint whose workers a cluster leads to; None if it leads to none."""
    about = _about_of(cluster)
    return EndpointId(*about["endpoint"]) if about.get("endpoint") else None


def replicas_of(cluster: Document) -> tuple[Replica, ...]:
    """The workers behind a cluster, from the cluster itself: also one the gateway before this one wrote."""
    about = _about_of(cluster)
    # The gateway before endpoints had clusters of their own wrote the revision alone.
    known = about.get("endpoint") or about.get("revision")
    if not known:
        return ()
    revision = RevisionId(*known[:3])
    return tuple(
        Replica(worker, revision, digest, State.READY, socket=socket, endpoint="".join(own))
        for worker, digest, socket, *own in about["workers"]
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
    limits = {**_LIMITS, "max_retries": NO_LIMIT}
    return {
        "@type": "type.googleapis.com/envoy.config.cluster.v3.Cluster",
        "name": name,
        "type": "STATIC",
        "connect_timeout": f"{CONNECT_SECONDS}s",
        "lb_policy": "LEAST_REQUEST",
        "circuit_breakers": {"thresholds": [limits]},
        "typed_extension_protocol_options": {
            _HTTP: {
                "@type": f"type.googleapis.com/{_HTTP}",
                "common_http_protocol_options": {"idle_timeout": f"{IDLE_SECONDS}s"},
                "explicit_http_config": {"http_protocol_options": {}},
            }
        },
        "load_assignment": {
            "cluster_name": name,
            "endpoints": [_group(sockets)],
        },
    }


def _group(sockets: list[str]) -> Document:
    return {
        "lb_endpoints": [
            {"endpoint": {"address": {"pipe": {"path": socket}}}} for socket in sockets
        ]
    }
