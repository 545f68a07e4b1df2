"""The pieces routes are made of: matcher trees, lists of routes, and the ways to the front desk."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fairlead.gateway.clusters import FRONT
from fairlead.gateway.listener import KEY_FILTER, MARK_HEADER
from fairlead.gateway.settings import GatewaySettings

Document = dict[str, Any]

# Of a filter, on a route.
OFF = {"@type": "type.googleapis.com/envoy.config.route.v3.FilterConfig", "disabled": True}
ON = {"@type": "type.googleapis.com/envoy.config.route.v3.FilterConfig", "config": {}}


def front_route(settings: GatewaySettings, match: Document | None = None) -> Document:
    """To the front desk, for a caller with a key."""
    return {
        "match": match or {"prefix": ""},
        "route": {"cluster": FRONT, "timeout": f"{settings.deadline_seconds}s"},
    }


def open_route(match: Document, settings: GatewaySettings, mark: str = "") -> Document:
    """To the front desk without a key."""
    route = {
        **front_route(settings),
        "match": match,
        "typed_per_filter_config": {KEY_FILTER: OFF},
    }
    if mark:
        route["request_headers_to_add"] = [
            {
                "header": {"key": MARK_HEADER, "value": mark},
                "append_action": "OVERWRITE_IF_EXISTS_OR_ADD",
            }
        ]
    return route


def tree_of(header: str, kind: str, entries: Mapping[str, Document], rest: Document) -> Document:
    return {
        "matcher_tree": {"input": header_input(header), kind: {"map": dict(entries)}},
        "on_no_match": rest,
    }


def header_input(name: str) -> Document:
    return {
        "name": "header",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.type.matcher.v3.HttpRequestHeaderMatchInput",
            "header_name": name,
        },
    }


def routes_of(routes: list[Document]) -> Document:
    if len(routes) == 1:
        action = {"@type": "type.googleapis.com/envoy.config.route.v3.Route", **routes[0]}
    else:
        action = {"@type": "type.googleapis.com/envoy.config.route.v3.RouteList", "routes": routes}
    return {"action": {"name": "route", "typed_config": action}}
