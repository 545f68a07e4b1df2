"""What scales on its own: a whole revision, or each of its endpoints.

A revision whose endpoints all scale alike is served by replicas that serve every endpoint of it. Otherwise each
endpoint has replicas of its own: a stream that takes a core for a minute must not decide how many there are
for a check that takes a millisecond.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from fairlead.domain.catalog import Revision
from fairlead.domain.ids import EndpointId, RevisionId
from fairlead.domain.release import EndpointSpec

WHOLE = ""  # in place of an endpoint's name: every endpoint of the revision


@dataclass(frozen=True, slots=True, order=True)
class ScaleUnit:
    """What has replicas of its own: one endpoint of a revision, or with `WHOLE` all of them."""

    revision: RevisionId
    endpoint: str = WHOLE

    def __str__(self) -> str:
        return f"{self.revision}/{self.endpoint}" if self.endpoint else str(self.revision)


def units(revision: Revision) -> tuple[ScaleUnit, ...]:
    """The scale units of a revision, in its endpoints' order."""
    if not scaled_apart(revision.endpoints):
        return (ScaleUnit(revision.id),)
    return tuple(ScaleUnit(revision.id, endpoint.name) for endpoint in revision.endpoints)


def unit_of(revision: Revision, endpoint: str) -> ScaleUnit:
    """The scale unit that an endpoint of the revision belongs to."""
    return ScaleUnit(revision.id, endpoint if scaled_apart(revision.endpoints) else WHOLE)


def served(revision: Revision, unit: ScaleUnit) -> tuple[EndpointSpec, ...]:
    """The endpoints that a replica of this unit serves; none for an endpoint the revision does not have."""
    return tuple(
        endpoint for endpoint in revision.endpoints if unit.endpoint in (WHOLE, endpoint.name)
    )


def endpoint_ids(revision: Revision, unit: ScaleUnit) -> tuple[EndpointId, ...]:
    """The same as identities."""
    return tuple(revision.id.endpoint(endpoint.name) for endpoint in served(revision, unit))


def scaled_apart(endpoints: Sequence[EndpointSpec]) -> bool:
    """Do these endpoints of one revision differ in how they scale, or in what a replica needs?"""
    return any(_scale(endpoint) != _scale(endpoints[0]) for endpoint in endpoints[1:])


def _scale(endpoint: EndpointSpec) -> tuple[object, ...]:
    return (
        endpoint.min_scale,
        endpoint.max_scale,
        endpoint.concurrency,
        endpoint.resources,
    )


def unserved(
    revision: Revision, ready: Collection[str], cold: Collection[EndpointId]
) -> tuple[EndpointId, ...]:
    """The revision's endpoints that nobody serves and that do not come up when somebody asks.

    `ready` are the endpoints that ready replicas serve, `WHOLE` for a replica that serves all.
    """
    if WHOLE in ready:
        return ()
    every = (revision.id.endpoint(endpoint.name) for endpoint in revision.endpoints)
    return tuple(one for one in every if one.endpoint not in ready and one not in cold)
