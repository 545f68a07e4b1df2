"""Quotas: a key that has one goes through a gate of its own, and no other key pays for it.

A gate is a cluster and a listener inside Envoy (no socket of the system's, so nobody else can reach it). The cluster's
circuit breaker counts the key's requests under way, the listener's token bucket how often they come, and the
listener routes like the outer one. A gate is named after its key and quota: another quota is another gate, and
whatever else changes leaves its bucket and its counts alone.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping
from typing import Any

from fairlead.domain.keys import KeyRecord, Quota, Rate
from fairlead.domain.layout import Home
from fairlead.domain.table import RoutingTable
from fairlead.gateway.clusters import CONNECT_SECONDS, IDLE_SECONDS, NO_LIMIT
from fairlead.gateway.listener import inner_connection_manager
from fairlead.gateway.replies import PEER_HEADER, QUOTA_HEADER
from fairlead.gateway.settings import GatewaySettings

Document = dict[str, Any]

PREFIX = "quota-"  # no revision's cluster starts so and goes on without a slash
_RATE_FILTER = "envoy.filters.http.local_ratelimit"
_ALWAYS = {"default_value": {"numerator": 100, "denominator": "HUNDRED"}}


def gate_name(key: KeyRecord) -> str:
    """`quota-demo@1f2e3d4c5b6a`: the same for the same key and quota."""
    digest = hashlib.sha256(f"{key.client}\n{key.quota!r}".encode()).hexdigest()[:12]
    return f"{PREFIX}{key.client}@{digest}"


def gated(table: RoutingTable) -> list[KeyRecord]:
    """The keys that go through a gate, in name order."""
    keys = (table.keys[client] for client in sorted(table.keys))
    return [key for key in keys if key.quota and not key.killed]


def gate_clusters(table: RoutingTable) -> dict[str, Document]:
    """The outer half of every gate, by name."""
    return {gate_name(key): _cluster(gate_name(key), key.quota) for key in gated(table)}


def gate_listeners(
    table: RoutingTable, settings: GatewaySettings, home: Home[Any]
) -> dict[str, Document]:
    """The inner half of every gate, by name."""
    return {gate_name(key): _listener(key, settings, home) for key in gated(table)}


def gate_route(key: KeyRecord) -> Document:
    """Into the gate. The inner listener keeps the deadline, so this one does not."""
    marks = {QUOTA_HEADER: key.client, PEER_HEADER: "%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%"}
    return {
        "match": {"prefix": ""},
        "route": {
            "cluster": gate_name(key),
            "timeout": "0s",
            # Workers are retried behind the gate; here it would count a request twice.
            "retry_policy": {"retry_on": "connect-failure", "num_retries": 2},
        },
        "request_headers_to_add": [
            {
                "header": {"key": name, "value": value},
                "append_action": "OVERWRITE_IF_EXISTS_OR_ADD",
            }
            for name, value in marks.items()
        ],
    }


def without_gates(listeners: Mapping[str, Document], names: Collection[str]) -> dict[str, Document]:
    """The listeners without those gates that are none of `names`."""
    return {
        name: one for name, one in listeners.items() if not name.startswith(PREFIX) or name in names
    }


def _cluster(name: str, quota: Quota) -> Document:
    limits = {
        "max_connections": NO_LIMIT,
        "max_pending_requests": NO_LIMIT,
        "max_requests": quota.concurrency or NO_LIMIT,
        "max_retries": NO_LIMIT,
    }
    http = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
    inside = {"envoy_internal_address": {"server_listener_name": name}}
    return {
        "@type": "type.googleapis.com/envoy.config.cluster.v3.Cluster",
        "name": name,
        "type": "STATIC",
        "connect_timeout": f"{CONNECT_SECONDS}s",
        "circuit_breakers": {"thresholds": [limits]},
        "typed_extension_protocol_options": {
            http: {
                "@type": f"type.googleapis.com/{http}",
                "common_http_protocol_options": {"idle_timeout": f"{IDLE_SECONDS}s"},
                # gRPC goes in as it came: its trailers have no place in HTTP/1.1.
                "use_downstream_protocol_config": {
                    "http_protocol_options": {},
                    "http2_protocol_options": {},
                },
            }
        },
        "load_assignment": {
            "cluster_name": name,
            "endpoints": [{"lb_endpoints": [{"endpoint": {"address": inside}}]}],
        },
    }


def _listener(key: KeyRecord, settings: GatewaySettings, home: Home[Any]) -> Document:
    filters = [_rate_filter(key.quota.rate)] if key.quota.rate else []
    manager = {
        "name": "envoy.filters.network.http_connection_manager",
        "typed_config": inner_connection_manager(settings, home, filters),
    }
    return {
        "@type": "type.googleapis.com/envoy.config.listener.v3.Listener",
        "name": gate_name(key),
        "internal_listener": {},
        "ignore_global_conn_limit": True,
        "filter_chains": [{"filters": [manager]}],
    }


def _rate_filter(rate: Rate) -> Document:
    """One bucket for all threads; it fills evenly, not once every interval."""
    return {
        "name": _RATE_FILTER,
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.filters.http.local_ratelimit.v3.LocalRateLimit",
            "stat_prefix": "quota",
            "token_bucket": {
                "max_tokens": rate.burst,
                "tokens_per_fill": rate.requests,
                "fill_interval": f"{rate.seconds}s",
            },
            "filter_enabled": {"runtime_key": "fairlead.none", **_ALWAYS},
            "filter_enforced": {"runtime_key": "fairlead.none", **_ALWAYS},
            "response_headers_to_add": [
                {
                    "header": {"key": "retry-after", "value": str(rate.wait_seconds)},
                    "append_action": "OVERWRITE_IF_EXISTS_OR_ADD",
                }
            ],
        },
    }
