"""The route tree: key → path → version → exact path and method, each entry an answer of the resolver.

What no entry matches goes to the front desk, last in every list, and so do versions that nobody knows; a case that
is forgotten here is a refusal worded by the resolver, never another revision's answer. A key that may not ask everything has a
tree of its own, found by the key's secret, because who may call what also decides which service a shared
path means. A key with a quota is sent through its gate (quotas.py) and finds its tree behind it.

Paths are found by their longest registered prefix and then compared whole, because only an exact `path`
match ignores the query.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from fairlead.api.http_status import NO_FAULT
from fairlead.domain.ids import LATEST, EndpointId
from fairlead.domain.keys import KeyRecord
from fairlead.domain.paths import GET, STATIC_PREFIX, OpenPath, open_paths, parse_path
from fairlead.domain.routing import Ask, Choice, choose
from fairlead.domain.rules import rule_of
from fairlead.domain.table import RoutingTable, ServiceRoute
from fairlead.gateway import grpc
from fairlead.gateway.index import TableIndex, custom_paths, index, model_paths, model_prefixes
from fairlead.gateway.listener import (
    CLIENT_HEADER,
    KEY_FILTER,
    REFIND_FILTER,
    ROUTES,
)
from fairlead.gateway.matching import (
    ON,
    front_route,
    header_input,
    open_route,
    routes_of,
    tree_of,
)
from fairlead.gateway.memo import Memo
from fairlead.gateway.quotas import gate_route
from fairlead.gateway.replies import PEER_HEADER, QUOTA_HEADER
from fairlead.gateway.settings import GatewaySettings
from fairlead.gateway.ways import deadline, retries, worker_route

Document = dict[str, Any]

KEYED_BEYOND_LOOPBACK = frozenset({"metrics", "docs", "openapi"})
DUPLICATE = (
    "duplicate"  # marks of requests whose key Envoy's own check would read differently than we do
)
MALFORMED = "malformed"
_NO_VERSION = ""


@dataclass(frozen=True, slots=True)
class _Tree:
    """What one class of callers sees: the table with their services only, asked as `client`."""

    index: TableIndex
    client: str
    clusters: Mapping[EndpointId, str]
    settings: GatewaySettings
    memo: Memo


def needs_key(path: OpenPath, settings: GatewaySettings) -> bool:
    """Must a caller of this open path show a key?"""
    return path.keyed or (not settings.loopback and path.name in KEYED_BEYOND_LOOPBACK)


def route_configuration(
    table: RoutingTable,
    clusters: Mapping[EndpointId, str],
    credentials: Mapping[str, str],
    settings: GatewaySettings,
    memo: Memo,
) -> Document:
    """The one route configuration, with the keys in it. `clusters` names each routable endpoint's."""
    known = {secret: client for secret, client in credentials.items() if client in table.keys}
    return {
        "@type": "type.googleapis.com/envoy.config.route.v3.RouteConfiguration",
        "name": ROUTES,
        "response_headers_to_remove": ["server", "x-envoy-ratelimited", NO_FAULT],
        # The key finds the route, twice; after that nobody may see it. `hide_credentials` would be too early.
        "request_headers_to_remove": ["x-api-key", QUOTA_HEADER, PEER_HEADER],
        # The way into a gate adds what is removed behind it.
        "most_specific_header_mutations_wins": True,
        "request_headers_to_add": [deadline(settings.deadline_seconds)],
        "virtual_hosts": [
            {
                "name": "all",
                "domains": ["*"],
                "retry_policy": retries(),
                "typed_per_filter_config": {KEY_FILTER: _credentials(known)},
                "matcher": _by_key(table, clusters, known, settings, memo)["matcher"],
            }
        ],
    }


def _credentials(known: Mapping[str, str]) -> Document:
    return {
        "@type": "type.googleapis.com/envoy.extensions.filters.http.api_key_auth.v3.ApiKeyAuthPerRoute",
        "credentials": [{"key": secret, "client": known[secret]} for secret in sorted(known)],
        "key_sources": [{"header": "x-api-key"}],
        "forwarding": {"header": CLIENT_HEADER},
    }


def _odd_keys(rest: Document, settings: GatewaySettings) -> Document:
    """Keys sent twice are refused by us; so are empty ones and `Bearer …`, which Envoy would read kindly."""
    twice = {"contains": ","}
    empty = {"exact": ""}
    bearer = {"prefix": "bearer ", "ignore_case": True}
    odd_first = {
        "matcher_list": {
            "matchers": [
                {
                    "predicate": {
                        "single_predicate": {
                            "input": header_input("x-api-key"),
                            "value_match": match,
                        }
                    },
                    "on_match": routes_of([open_route({"prefix": ""}, settings, mark)]),
                }
                for match, mark in (
                    (twice, DUPLICATE),
                    (empty, MALFORMED),
                    (bearer, MALFORMED),
                )
            ]
        },
        "on_no_match": rest,
    }
    return {"matcher": odd_first}


def _by_key(
    table: RoutingTable,
    clusters: Mapping[EndpointId, str],
    known: Mapping[str, str],
    settings: GatewaySettings,
    memo: Memo,
) -> Document:
    free = [client for client in known.values() if table.keys[client].free]

    def scoped(key: KeyRecord) -> Document:
        services = {name: one for name, one in table.services.items() if key.allows(name)}
        part = index(replace(table, services=services))
        return _by_path(_Tree(part, key.client, clusters, settings, memo))

    own, inside = {}, {}
    for secret, client in sorted(known.items()):
        key = table.keys[client]
        if key.killed:
            own[secret] = routes_of(
                [*_open_routes(table.api_version, settings), front_route(settings)]
            )
        elif key.quota:
            own[secret] = routes_of([*_open_routes(table.api_version, settings), gate_route(key)])
            if not key.free:
                inside[client] = scoped(key)
        elif not key.free:
            own[secret] = scoped(key)
    whole = index(table if free else replace(table, services={}))
    rest = _by_path(_Tree(whole, free[0] if free else "", clusters, settings, memo))
    if own:
        rest = {"matcher": tree_of("x-api-key", "exact_match_map", own, rest)}
    rest = _odd_keys(rest, settings)
    # Behind its gate a request has no secret any more; a key that may ask everything finds the tree of all.
    return {"matcher": tree_of(QUOTA_HEADER, "exact_match_map", inside, rest)} if inside else rest


def _open_routes(api_version: str, settings: GatewaySettings) -> list[Document]:
    """The paths that need no key, whoever asks."""
    exact = [
        open_route({"path": path}, settings)
        for path, one in open_paths(api_version).items()
        if not needs_key(one, settings)
    ]
    calls = [
        grpc.calls(open_route(match, settings))
        for keyless, _ in grpc.CALLS.values()
        for match in keyless
    ]
    return [*exact, *calls, open_route({"prefix": STATIC_PREFIX}, settings)]


def _calls(prefix: str, settings: GatewaySettings) -> list[Document]:
    """GRPC calls, until they are translated and the route is found again."""
    keyless, keyed = grpc.CALLS[prefix]
    first = [
        *(open_route(match, settings) for match in keyless),
        *(front_route(settings, match) for match in keyed),
    ]
    return [*map(grpc.calls, first), front_route(settings)]


def _by_path(tree: _Tree) -> Document:
    version = tree.index.table.api_version
    led: dict[str, dict[EndpointId, str]] = {}
    for endpoint, cluster in tree.clusters.items():
        led.setdefault(endpoint.service, {})[endpoint] = cluster

    def under(prefix: str, paths: list[str]) -> Document | None:
        matches = tree.memo.of(
            ("matches", tree.client, prefix),
            (paths, version),
            lambda: [parse_path(path, version) for path in paths],
        )
        services = {
            name: one for match in matches for name, one in tree.index.services(match).items()
        }
        clusters = [led.get(name) for name in services]
        inputs = (paths, services, clusters, tree.index.table.keys.get(tree.client), tree.settings)
        return tree.memo.of((tree.client, prefix), inputs, lambda: _by_version(tree, paths))

    buckets = {
        prefix: on_match
        for prefix, paths in _buckets(tree).items()
        if (on_match := under(prefix, paths)) is not None
    }
    calls = {prefix: routes_of(_calls(prefix, tree.settings)) for prefix in grpc.CALLS}
    static = routes_of(
        [open_route({"prefix": STATIC_PREFIX}, tree.settings), front_route(tree.settings)]
    )
    return {
        "matcher": tree_of(
            ":path",
            "prefix_match_map",
            {**buckets, STATIC_PREFIX: static, **calls},
            routes_of([front_route(tree.settings)]),
        )
    }


def _buckets(tree: _Tree) -> dict[str, list[str]]:
    """Every path under its longest registered prefix, for that is the one Envoy looks under."""
    table = tree.index.table
    version = table.api_version
    exact = list(open_paths(version))
    prefixes = set(exact)
    for name, service in table.services.items():
        make = functools.partial(_paths, service, version)
        found = tree.memo.of(("paths", name), (service, version), make)
        exact += found.exact
        prefixes |= found.prefixes
    lengths = sorted({len(prefix) for prefix in prefixes}, reverse=True)
    buckets: dict[str, list[str]] = {}
    for path in dict.fromkeys(exact):
        longest = next(path[:length] for length in lengths if path[:length] in prefixes)
        buckets.setdefault(longest, []).append(path)
    return buckets


@dataclass(frozen=True, slots=True)
class _Paths:
    """What leads to a service, and the prefixes to find it by."""

    exact: tuple[str, ...]
    prefixes: frozenset[str]


def _paths(service: ServiceRoute, version: str) -> _Paths:
    own = custom_paths(service, version)
    prefixes = frozenset((*own, *model_prefixes(service, version)))
    return _Paths((*own, *model_paths(service, version)), prefixes)


def _by_version(tree: _Tree, paths: list[str]) -> Document | None:
    """None if nothing here leads anywhere but to the front desk with a key."""
    parts = [(path, tree.index.for_path(path)) for path in paths]
    first = [
        open_route({"path": path}, tree.settings)
        for path in paths
        if isinstance(match := parse_path(path, tree.index.table.api_version), OpenPath)
        and not needs_key(match, tree.settings)
    ]
    lists = {
        version: routes
        for version in [_NO_VERSION, *_versions(parts)]
        if (routes := _worker_routes(tree, parts, version or None))
    }
    last = [front_route(tree.settings)]
    if not lists:
        return routes_of([*first, *last]) if first else None
    unnamed = lists.pop(_NO_VERSION, [])
    others = {version: routes for version, routes in lists.items() if routes != unnamed}
    if unnamed:
        # Whatever the map below does not know arrives here: no version, those that mean the same, and unknown ones.
        unnamed = [_unknown_version(lists.keys() - others.keys(), tree.settings), *unnamed]
    rest = routes_of([*first, *unnamed, *last])
    if not others:
        return rest
    named = {version: routes_of([*first, *routes, *last]) for version, routes in others.items()}
    return {"matcher": tree_of("accept-version", "exact_match_map", named, rest)}


def _versions(parts: Iterable[tuple[str, RoutingTable]]) -> list[str]:
    services = {name: service for _, part in parts for name, service in part.services.items()}
    found = {version for service in services.values() for version in service.versions()}
    return [LATEST, *sorted(found)] if services else []


def _worker_routes(
    tree: _Tree, parts: Iterable[tuple[str, RoutingTable]], version: str | None
) -> list[Document]:
    routes = []
    for path, part in parts:
        for methods in _alike(parse_path(path, part.api_version).methods):
            choice = choose(part, Ask(methods[0], path, tree.client, version))
            if isinstance(choice, Choice):
                rule = str(rule_of(choice, version))
                routes += [
                    {"name": rule, **route} for route in _routes_of_choice(tree, choice, methods)
                ]
    return routes


def _alike(methods: tuple[str, ...]) -> list[tuple[str, ...]]:
    """The methods of a path, those in one that the resolver answers alike: HEAD is GET without a body."""
    return [methods] if methods == GET else [(method,) for method in methods]


def _routes_of_choice(tree: _Tree, choice: Choice, methods: tuple[str, ...]) -> list[Document]:
    """One route; two for a split, because only a caller without a sticky key is known after the key check alone."""
    route = worker_route(choice, methods, tree.clusters, tree.settings)
    if len(choice.targets) == 1:
        return [route]
    match = route["match"]
    sticky = {"name": "x-sticky-key", "present_match": True}
    return [
        {**route, "match": {**match, "headers": [*match["headers"], sticky]}},
        {**route, "typed_per_filter_config": {REFIND_FILTER: ON}},
    ]


def _unknown_version(known: Iterable[str], settings: GatewaySettings) -> Document:
    """To the front desk, if a version is asked for that is none of these."""
    name = "accept-version"
    others: list[Document] = [
        {"name": name, "string_match": {"exact": version}, "invert_match": True}
        for version in sorted(known)
    ]
    asked = {"name": name, "present_match": True}
    return front_route(settings, {"prefix": "", "headers": [asked, *others]})
