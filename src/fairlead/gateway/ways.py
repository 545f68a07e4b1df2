"""The way to a choice's workers: which clusters, for how long, and what may be asked twice."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fairlead.domain.ids import EndpointId
from fairlead.domain.keys import Verb
from fairlead.domain.paths import ModelPath
from fairlead.domain.routing import Choice
from fairlead.domain.table import RevisionRoute
from fairlead.gateway.clusters import FRONT, is_held
from fairlead.gateway.listener import CLIENT_HEADER, DEADLINE_HEADER, HELD_HEADER
from fairlead.gateway.settings import GatewaySettings

Document = dict[str, Any]

# Before the request has reached a worker: whatever it asks, nothing is run twice.
_UNSENT = "connect-failure,reset-before-request"
# And after: only where the dialects say that asking twice is asking once, which no inference is.
# Half of all routes have these, so they are short: the retry may meet the same worker again.
_READ_RETRIES = {"retry_on": f"{_UNSENT},reset,gateway-error", "num_retries": 2}

# Should the activator be gone, the workers behind it are asked themselves.
_PAST_ACTIVATOR = {
    "retry_on": _UNSENT,
    "num_retries": 2,
    "retry_priority": {
        "name": "envoy.retry_priorities.previous_priorities",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.retry.priority.previous_priorities.v3.PreviousPrioritiesConfig",
            "update_frequency": 1,
        },
    },
}


def retries() -> Document:
    """Twice at most, on another worker if there is one; each cluster has a budget for it."""
    return {
        "retry_on": _UNSENT,
        "num_retries": 2,
        "retry_host_predicate": [
            {
                "name": "envoy.retry_host_predicates.previous_hosts",
                "typed_config": {
                    "@type": "type.googleapis.com/envoy.extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate"
                },
            }
        ],
        # Each draws lots again: after few of them the choice may still be the worker that just refused.
        "host_selection_retry_max_attempts": 20,
    }


def deadline(seconds: float) -> Document:
    """Tells a worker when its caller stops waiting. Envoy's own would come with headers in every answer."""
    return _header(DEADLINE_HEADER, str(round(seconds * 1000)))


def _header(name: str, value: str) -> Document:
    return {
        "header": {"key": name, "value": value},
        "append_action": "OVERWRITE_IF_EXISTS_OR_ADD",
    }


def worker_route(
    choice: Choice,
    methods: tuple[str, ...],
    clusters: Mapping[EndpointId, str],
    settings: GatewaySettings,
) -> Document:
    """The route of one path, asked by any of these methods, to whom the resolver chose."""
    several = {"safe_regex": {"regex": "|".join(methods)}}
    match = {
        "path": choice.path.path,
        "headers": [
            {"name": ":method", "string_match": several if methods[1:] else {"exact": methods[0]}}
        ],
    }
    shares = [
        (endpoint, FRONT if endpoint is None else clusters[endpoint], weight)
        for _, endpoint, weight in choice.targets
    ]
    seconds = max(
        _seconds(revision, endpoint, settings) for revision, endpoint, _ in choice.targets
    )
    action: Document = {"timeout": f"{seconds}s"}
    if any(is_held(name) for _, name, _ in shares):
        action["idle_timeout"] = f"{seconds}s"  # who is held hears nothing for so long
        action["retry_policy"] = _PAST_ACTIVATOR
    elif isinstance(choice.path, ModelPath) and choice.path.verb is Verb.READ:
        action["retry_policy"] = _READ_RETRIES
    route: Document = {"match": match, "route": action}
    headers = [] if seconds == settings.deadline_seconds else [deadline(seconds)]
    if len(shares) == 1:
        endpoint, action["cluster"], _ = shares[0]
        headers += _told(endpoint, action["cluster"])
    else:
        action["weighted_clusters"] = {
            "use_hash_policy": True,
            "clusters": [_share(*share) for share in shares],
        }
        action["hash_policy"] = [
            {"header": {"header_name": "x-sticky-key"}, "terminal": True},
            {"header": {"header_name": CLIENT_HEADER}},
        ]
    return {**route, "request_headers_to_add": headers} if headers else route


def _share(endpoint: EndpointId | None, cluster: str, weight: int) -> Document:
    told = _told(endpoint, cluster)
    share = {"name": cluster, "weight": weight}
    return {**share, "request_headers_to_add": told} if told else share


def _told(endpoint: EndpointId | None, cluster: str) -> list[Document]:
    """Which endpoint a request is for, where the activator has to know."""
    if endpoint is None or not is_held(cluster):
        return []
    return [_header(HELD_HEADER, held_value(endpoint))]


def held_value(endpoint: EndpointId) -> str:
    """An endpoint as the header names it."""
    return f"{endpoint.service}/{endpoint.line}/{endpoint.revision}/{endpoint.endpoint}"


def _seconds(
    revision: RevisionRoute, endpoint: EndpointId | None, settings: GatewaySettings
) -> float:
    """How long a request to this endpoint may take."""
    said = (
        spec.timeout_seconds
        for spec in revision.endpoints
        if endpoint is not None and spec.name == endpoint.endpoint
    )
    return float(next(said, 0)) or settings.deadline_seconds
