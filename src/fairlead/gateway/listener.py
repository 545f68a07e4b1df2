"""The two documents that hardly ever change: the bootstrap, and the listener with its filters."""

from __future__ import annotations

from pathlib import PurePath
from typing import Any

from fairlead.api.grpc_status import MARKER, STATUS
from fairlead.domain.layout import ACCESS_LOG, Home, watched_file
from fairlead.gateway import grpc
from fairlead.gateway.replies import PEER_HEADER, QUOTA_HEADER, local_reply_config
from fairlead.gateway.settings import GatewaySettings

Document = dict[str, Any]

ROUTES = "fairlead"  # name of the one route configuration
LISTENER = "gateway"  # name of the one listener that callers reach
CERTIFICATE = "gateway"  # name of the one pair for TLS
STAT_PREFIX = "ingress"
INNER_STAT_PREFIX = "quota"
ENVOY_LOG = "envoy.log"
KEY_FILTER = "envoy.filters.http.api_key_auth"
REFIND_FILTER = "envoy.filters.http.set_filter_state"
CLIENT_HEADER = "x-client"
MARK_HEADER = "x-fairlead-key"  # tells the front desk why a request has no client
HELD_HEADER = "x-fairlead-held"  # tells the activator which endpoint a request is for
DEADLINE_HEADER = "x-envoy-expected-rq-timeout-ms"  # how long the caller waits; workers obey it
LONGEST_REQUEST_ID = 128  # characters of a caller's id that are kept
_LONGEST_PATH = 512  # and of what else a caller writes into the access log
_LONGEST_VERSION = 128  # two names and a dot: a version that was cut would be explained as another
_FILTERS = "type.googleapis.com/envoy.extensions.filters"
_MOST_CONNECTIONS = 20_000
_STREAM_IDLE_SECONDS = 300
_STREAM_WINDOW_BYTES = 1 << 20
_CONNECTION_WINDOW_BYTES = 8 << 20
_CONNECTION_IDLE_SECONDS = 600


def _watched(home: Home[Any], kind: str) -> Document:
    path: PurePath = watched_file(home.envoy, kind)
    return {
        "resource_api_version": "V3",
        "path_config_source": {
            "path": str(path),
            "watched_directory": {"path": str(path.parent)},
        },
    }


def bootstrap(home: Home[Any]) -> Document:
    """What Envoy is started with; everything else it reads from files that we replace."""
    return {
        "node": {"id": "fairlead", "cluster": "fairlead"},
        "admin": {"address": {"pipe": {"path": str(home.envoy_admin_socket), "mode": 0o600}}},
        "dynamic_resources": {
            "lds_config": _watched(home, "lds"),
            "cds_config": _watched(home, "cds"),
        },
        "bootstrap_extensions": [
            {
                "name": "envoy.bootstrap.internal_listener",
                "typed_config": {
                    "@type": "type.googleapis.com/envoy.extensions.bootstrap.internal_listener.v3.InternalListener"
                },
            }
        ],
        "overload_manager": {
            "resource_monitors": [
                {
                    "name": "envoy.resource_monitors.global_downstream_max_connections",
                    "typed_config": {
                        "@type": "type.googleapis.com/envoy.extensions.resource_monitors.downstream_connections.v3.DownstreamConnectionsConfig",
                        "max_active_downstream_connections": _MOST_CONNECTIONS,
                    },
                }
            ]
        },
    }


def listener(settings: GatewaySettings, home: Home[Any]) -> Document:
    """The one listener: HTTP/1.1 and HTTP/2 on one port, TLS if there is a certificate."""
    chain: Document = {
        "filters": [
            {
                "name": "envoy.filters.network.http_connection_manager",
                "typed_config": _connection_manager(settings, home),
            }
        ]
    }
    if settings.secure:
        chain["transport_socket"] = _tls(home)
    return {
        "@type": "type.googleapis.com/envoy.config.listener.v3.Listener",
        "name": LISTENER,
        "address": {"socket_address": {"address": settings.address, "port_value": settings.port}},
        # One thread gets a socket of its own, so that a port that is taken is an error of the kernel's.
        "enable_reuse_port": settings.concurrency > 1,
        "filter_chains": [chain],
    }


def _connection_manager(settings: GatewaySettings, home: Home[Any]) -> Document:
    return {
        "@type": f"{_FILTERS}.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": STAT_PREFIX,
        "codec_type": "AUTO",
        "rds": {"route_config_name": ROUTES, "config_source": _watched(home, "rds")},
        "http_filters": _http_filters(),
        "local_reply_config": local_reply_config(settings.kill_switch.seconds),
        "access_log": [{**_access_log(home), "filter": _told_here()}],
        "use_remote_address": True,
        "server_header_transformation": "PASS_THROUGH",
        # Paths are matched as they were sent, as the resolver does.
        "normalize_path": False,
        "merge_slashes": False,
        "path_with_escaped_slashes_action": "KEEP_UNCHANGED",
        "http_protocol_options": {
            "accept_http_10": True,
            "default_host_for_http_10": "localhost",
            # No protocol but HTTP is spoken here; whoever offers to change it is answered without.
            "ignore_http_11_upgrade": [{"safe_regex": {"regex": ".*"}}],
        },
        # What a caller may send before anybody reads it, for one stream and for all of a connection.
        "http2_protocol_options": {
            "max_concurrent_streams": 1024,
            "initial_stream_window_size": _STREAM_WINDOW_BYTES,
            "initial_connection_window_size": _CONNECTION_WINDOW_BYTES,
        },
        "common_http_protocol_options": {
            "idle_timeout": f"{_CONNECTION_IDLE_SECONDS}s",
            "headers_with_underscores_action": "ALLOW",
        },
        "request_headers_timeout": "10s",
        "request_timeout": f"{settings.upload_seconds}s",
        "stream_idle_timeout": f"{_STREAM_IDLE_SECONDS}s",
        "generate_request_id": True,
        "preserve_external_request_id": True,
        "always_set_request_id_in_response": True,
        "request_id_extension": {
            "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.request_id.uuid.v3.UuidRequestIdConfig",
                "pack_trace_reason": False,
            }
        },
        "early_header_mutation_extensions": [
            _arrival([CLIENT_HEADER, MARK_HEADER, QUOTA_HEADER, PEER_HEADER, HELD_HEADER, MARKER])
        ],
    }


def inner_connection_manager(
    settings: GatewaySettings, home: Home[Any], filters: list[Document]
) -> Document:
    """The same behind a gate: the key is checked, the caller's address and our headers are to be trusted."""
    return {
        **_connection_manager(settings, home),
        "stat_prefix": INNER_STAT_PREFIX,
        "http_filters": [*filters, *grpc.filters(), _http_filters()[-1]],
        "access_log": [_access_log(home)],
        "use_remote_address": False,
        "skip_xff_append": True,
        "early_header_mutation_extensions": [_arrival([])],
        "original_ip_detection_extensions": [
            {
                "name": "envoy.http.original_ip_detection.custom_header",
                "typed_config": {
                    "@type": "type.googleapis.com/envoy.extensions.http.original_ip_detection.custom_header.v3.CustomHeaderConfig",
                    "header_name": PEER_HEADER,
                },
            }
        ],
    }


def _told_here() -> Document:
    """A request has one line: what went into a gate is told inside, unless it did not get there."""
    outside = {"header": {"name": QUOTA_HEADER, "present_match": True, "invert_match": True}}
    filters: list[Document] = [
        {"header_filter": outside},
        {"response_flag_filter": {"flags": ["UO", "UF"]}},
    ]
    return {"or_filter": {"filters": filters}}


def _arrival(ours: list[str]) -> Document:
    """What no caller may bring along: our own headers, and those that steer Envoy."""
    return {
        "name": "envoy.http.early_header_mutation.header_mutation",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.http.early_header_mutation.header_mutation.v3.HeaderMutation",
            "mutations": [
                *({"remove": name} for name in ours),
                {"remove_on_match": {"key_matcher": {"prefix": "x-envoy-"}}},
                {
                    "append": {
                        "header": {
                            "key": "x-request-id",
                            "value": f"%REQ(x-request-id):{LONGEST_REQUEST_ID}%",
                        },
                        "append_action": "OVERWRITE_IF_EXISTS",
                    }
                },
            ],
        },
    }


def _http_filters() -> list[Document]:
    return [
        {
            "name": KEY_FILTER,
            "typed_config": {
                "@type": f"{_FILTERS}.http.api_key_auth.v3.ApiKeyAuth",
                "key_sources": [{"header": "x-api-key"}],
            },
        },
        {
            # A share of a split is chosen when the route is found, and that is before the key was checked:
            # found once more, it is chosen by the key's client. Only the routes that need it switch it on.
            "name": REFIND_FILTER,
            "disabled": True,
            "typed_config": {
                "@type": f"{_FILTERS}.http.set_filter_state.v3.Config",
                "on_request_headers": [
                    {
                        "object_key": "fairlead.key_checked",
                        "factory_key": "envoy.string",
                        "format_string": {"text_format_source": {"inline_string": "yes"}},
                    }
                ],
                "clear_route_cache": True,
            },
        },
        *grpc.filters(),
        {
            "name": "envoy.filters.http.router",
            "typed_config": {
                "@type": f"{_FILTERS}.http.router.v3.Router",
                "suppress_envoy_headers": True,
                # Counters for each cluster and status: our metrics have them by revision already.
                "dynamic_stats": False,
            },
        },
    ]


def _tls(home: Home[Any]) -> Document:
    """TLS with a pair that comes by itself: another certificate is no other listener, which would cut streams."""
    return {
        "name": "envoy.transport_sockets.tls",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext",
            "common_tls_context": {
                "alpn_protocols": ["h2", "http/1.1"],
                "tls_params": {"tls_minimum_protocol_version": "TLSv1_2"},
                "tls_certificate_sds_secret_configs": [
                    {"name": CERTIFICATE, "sds_config": _watched(home, "sds")}
                ],
            },
        },
    }


def _access_log(home: Home[Any]) -> Document:
    """One JSON line a request: all that `fairlead why` tells.

    Without the query, the key and the sticky key: they are not ours to keep. What a caller can make long is
    cut, so that a line stays far below 4 KiB.
    """
    return {
        "name": "envoy.access_loggers.file",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog",
            "path": str(home.logs / ACCESS_LOG),
            "log_format": {
                "json_format": {
                    "time": "%START_TIME(%Y-%m-%dT%H:%M:%S.%3fZ)%",
                    "request_id": "%REQ(x-request-id)%",
                    "client": f"%REQ({CLIENT_HEADER})%",
                    "accept_version": f"%REQ(accept-version):{_LONGEST_VERSION}%",
                    # Whether one was sent, as "" or null: it may be somebody's name.
                    "has_sticky_key": "%REQ(x-sticky-key):0%",
                    "method": "%REQ(:METHOD)%",
                    "path": f"%PATH(NQ):{_LONGEST_PATH}%",
                    "protocol": "%PROTOCOL%",
                    "status": "%RESPONSE_CODE%",
                    "flags": "%RESPONSE_FLAGS%",
                    "details": "%RESPONSE_CODE_DETAILS%",
                    "error_code": "%RESP(x-error-code)%",
                    # Which method was called, and its code: of a translated call the status is always 200.
                    "grpc": f"%REQ({MARKER})% %RESP({STATUS})%",
                    "digest": "%RESP(x-artifact-digest)%",
                    "timing": "%RESP(server-timing)%",
                    "route": "%ROUTE_NAME%",
                    "upstream": "%UPSTREAM_CLUSTER%",
                    "upstream_host": "%UPSTREAM_HOST%",
                    "attempts": "%UPSTREAM_REQUEST_ATTEMPT_COUNT%",
                    "upstream_ms": "%RESPONSE_DURATION%",
                    "total_ms": "%DURATION%",
                    "bytes_received": "%BYTES_RECEIVED%",
                    "bytes_sent": "%BYTES_SENT%",
                    "peer": "%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%",
                }
            },
        },
    }
