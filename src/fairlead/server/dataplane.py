"""The data plane: what this process serves, found by identity."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from fairlead.domain.errors import Kind, Refused
from fairlead.domain.ids import EndpointId
from fairlead.server.endpoint import Endpoint
from fairlead.server.loading import LoadedArtifact
from fairlead.server.stats import RouteStats, Stats


@dataclass(frozen=True, slots=True)
class Counted:
    """What there is to tell of a data plane, for who tells it in a thread."""

    routes: list[RouteStats]
    wasted: Mapping[EndpointId, float]
    endpoints: list[Endpoint]


class DataPlane:
    """Everything one process serves, and what it counts."""

    def __init__(self) -> None:
        self.stats = Stats()
        self._wasted: dict[EndpointId, float] = {}  # by endpoints that are gone
        self._endpoints: dict[EndpointId, Endpoint] = {}

    def add(self, endpoint: Endpoint) -> None:
        self._endpoints[endpoint.id] = endpoint

    def find(self, identity: EndpointId) -> Endpoint:
        """Raises Refused (NOT_FOUND); nothing else ever answers in an endpoint's place."""
        endpoint = self._endpoints.get(identity)
        if endpoint is None:
            raise Refused(Kind.NOT_FOUND, f"{identity} is not served here")
        return endpoint

    def endpoints(self) -> list[Endpoint]:
        return list(self._endpoints.values())

    def wasted(self) -> dict[EndpointId, float]:
        """Seconds of runs whose answer nobody took, by endpoint, since the process began."""
        return _summed(self._wasted, self.endpoints())

    def counted(self) -> Counted:
        return Counted(list(self.stats), self.wasted(), self.endpoints())

    def remove(self, identities: Iterable[EndpointId]) -> list[LoadedArtifact]:
        """Forget these endpoints, only after they have drained; returns the artifacts that nobody serves any more."""
        gone = [self._endpoints.pop(one) for one in identities if one in self._endpoints]
        self._wasted = _summed(self._wasted, gone)
        left = {id(one.artifact) for one in self._endpoints.values()}
        artifacts = {id(one.artifact): one.artifact for one in gone}
        return [artifact for key, artifact in artifacts.items() if key not in left]

    def close(self) -> None:
        """Unload; only after intake has stopped and requests have drained."""
        for artifact in {
            id(one.artifact): one.artifact for one in self._endpoints.values()
        }.values():
            artifact.close()
        self._endpoints.clear()


def _summed(
    before: Mapping[EndpointId, float], endpoints: Iterable[Endpoint]
) -> dict[EndpointId, float]:
    """Wasted seconds, by endpoint: one that is loaded again goes on where it was."""
    found = dict(before)
    for one in endpoints:
        found[one.id] = found.get(one.id, 0.0) + one.wasted_seconds
    return found
