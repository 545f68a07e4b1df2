"""Who answers behind each route: ready workers, or the activator for endpoints whose requests are held first.

Requests are held for an endpoint that is cold, and for one that is limited and may grow while it has little room:
there a burst waits for more replicas, where a worker would refuse it (S0-38's target burst capacity).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from fairlead.domain.ids import EndpointId, RevisionId
from fairlead.domain.release import EndpointSpec
from fairlead.domain.status import NodeStatus, Replica
from fairlead.domain.table import RevisionRoute, RoutingTable

BURST_CAPACITY = 211  # requests at once that replicas have room for before none are held (S0-38)


@dataclass(frozen=True, slots=True)
class Behind:
    """`replicas` are each routed revision's workers; requests for the endpoints in `held` go to the activator.

    Those of them in `cold` have no worker that the gateway would keep from ending.
    """

    replicas: Mapping[RevisionId, tuple[Replica, ...]] = field(default_factory=dict)
    held: frozenset[EndpointId] = frozenset()
    cold: frozenset[EndpointId] = frozenset()

    def of(self, endpoint: EndpointId) -> tuple[Replica, ...]:
        """The workers whose requests of this endpoint's the gateway answers for."""
        if endpoint in self.cold:
            return ()
        return serving(self.replicas.get(endpoint.revision_id, ()), endpoint)


def serving(replicas: tuple[Replica, ...], endpoint: EndpointId) -> tuple[Replica, ...]:
    """Those of a revision's replicas that serve this endpoint."""
    return tuple(one for one in replicas if one.endpoint in ("", endpoint.endpoint))


def ready_for(
    revision: RevisionRoute, ready: Mapping[RevisionId, tuple[Replica, ...]]
) -> tuple[Replica, ...]:
    """Its ready replicas; none of what its name meant before its line was deleted and made anew."""
    return tuple(one for one in ready.get(revision.id, ()) if one.digest == revision.digest)


def endpoints_of(revision: RevisionRoute) -> Iterator[tuple[EndpointId, EndpointSpec]]:
    """Every endpoint of a revision with what the release says of it."""
    for spec in revision.endpoints:
        yield revision.id.endpoint(spec.name), spec


def routable(table: RoutingTable) -> Iterator[RevisionRoute]:
    """Every revision that requests may be led to."""
    for service in table.services.values():
        for line in service.lines.values():
            yield from (one for one in line.revisions.values() if one.routable)


def behind(table: RoutingTable, node: NodeStatus | None, before: Behind) -> Behind:
    """Who is behind each endpoint now.

    One that is neither ready nor cold keeps what it had: the workers that died, so that its callers are told so,
    or the activator, where they wait for the one that is just coming.
    """
    ready = node.ready() if node else {}
    said_cold = frozenset(node.cold) if node else frozenset()
    replicas: dict[RevisionId, tuple[Replica, ...]] = {}
    held, cold = set(), set()
    for revision in routable(table):
        there = ready_for(revision, ready)
        kept: dict[str, Replica] = {}
        for endpoint, spec in endpoints_of(revision):
            own = serving(there, endpoint)
            if endpoint in said_cold or (not own and endpoint in before.cold):
                cold.add(endpoint)
            else:
                own = own or before.of(endpoint)
            kept.update({one.worker: one for one in own})
            if endpoint in cold or _has_little_room(spec, len(own)):
                held.add(endpoint)
        replicas[revision.id] = tuple(kept[worker] for worker in sorted(kept))
    return Behind(replicas, frozenset(held), frozenset(cold))


def _has_little_room(spec: EndpointSpec, ready: int) -> bool:
    """May a burst be more than these replicas take on, and would there be more of them soon?"""
    grows = spec.max_scale == 0 or spec.max_scale > max(1, spec.min_scale)
    return grows and spec.concurrency > 0 and spec.concurrency * ready < BURST_CAPACITY
