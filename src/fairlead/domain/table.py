"""The routing table: what may be routed now, from the catalog's wish and what is proved ready."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from fairlead.domain.catalog import Catalog, Kill, Line, Service
from fairlead.domain.ids import DEFAULT_ENDPOINT, EndpointId, LineId, RevisionId
from fairlead.domain.keys import KeyRecord
from fairlead.domain.paths import CustomPath, PathMatch
from fairlead.domain.release import EndpointSpec, TrafficShare
from fairlead.domain.versions import version_key


@dataclass(frozen=True, slots=True)
class RevisionRoute:
    """A live revision. Not routable: `reason` says how far it is, and its requests are refused with it."""

    id: RevisionId
    artifact_version: int
    digest: str
    endpoints: tuple[EndpointSpec, ...]
    routable: bool
    reason: str = ""

    def endpoint_for(self, path: PathMatch) -> EndpointId | None:
        """Which endpoint of this revision a path leads to; None if none does."""
        for endpoint in self.endpoints:
            owned = (
                path.path in endpoint.paths
                if isinstance(path, CustomPath)
                else endpoint.name == DEFAULT_ENDPOINT
            )
            if owned:
                return self.id.endpoint(endpoint.name)
        return None


@dataclass(frozen=True, slots=True)
class LineRoute:
    """A line. Empty `traffic`: not serving yet, `reason` says why."""

    id: LineId
    revisions: Mapping[str, RevisionRoute]
    traffic: tuple[TrafficShare, ...]
    reason: str = ""


@dataclass(frozen=True, slots=True)
class ServiceRoute:
    """A service with its lines and the line that `latest` means."""

    name: str
    lines: Mapping[str, LineRoute]
    pin: str
    kill: Kill | None = None

    def paths(self) -> set[str]:
        """Every custom path of any live revision."""
        return {
            path
            for line in self.lines.values()
            for revision in line.revisions.values()
            for endpoint in revision.endpoints
            for path in endpoint.paths
        }

    def versions(self) -> list[str]:
        """Everything `Accept-Version` may name, in order."""
        names = [name for name, line in self.lines.items() if line.traffic]
        names += [
            revision.id.served_version
            for line in self.lines.values()
            for revision in line.revisions.values()
        ]
        return sorted(names, key=version_key)


@dataclass(frozen=True, slots=True)
class RoutingTable:
    """Everything a data plane needs to know."""

    services: Mapping[str, ServiceRoute] = field(default_factory=dict)
    keys: Mapping[str, KeyRecord] = field(default_factory=dict)
    api_version: str = "v1"
    generation: int = 0

    def owners(self, path: str) -> list[ServiceRoute]:
        """The services of which some live revision owns a custom path, in name order."""
        return [
            self.services[name]
            for name in sorted(self.services)
            if path in self.services[name].paths()
        ]


Kept = dict[
    str, tuple[tuple[object, ...], ServiceRoute]
]  # routes by service, with what they came of


def table_from(
    catalog: Catalog,
    ready: Iterable[RevisionId],
    reasons: Mapping[RevisionId, str],
    before: RoutingTable,
    kept: Kept | None = None,
) -> RoutingTable:
    """What to route now: the catalog's wish as far as it is proved ready, else what was routed before.

    A line's traffic moves only when every revision with a share is ready; a pin only to a line that serves.
    A revision that was routable stays so while it is live: if its workers die, its callers get 503 until
    the next one is proved, and never another revision's answer.

    `kept`, the same dictionary each time, saves time and changes nothing: of a thousand services one moves at a time.
    """
    proved = frozenset(ready)
    last = dict(kept or ())
    now: Kept = {}
    for name, service in catalog.services.items():
        there = [one.id for line in service.lines.values() for one in line.revisions.values()]
        said = tuple((one in proved, reasons.get(one, "")) for one in there)
        old = before.services.get(name)
        inputs = (service, said, old)
        known = last.get(name)
        if known is None or known[0] != inputs:
            known = (inputs, _service_route(service, proved, reasons, old))
        now[name] = known
    if kept is not None:
        kept.clear()
        kept.update(now)
    services = {name: route for name, (_, route) in now.items()}
    return RoutingTable(services, catalog.keys, before.api_version, catalog.generation)


def without_reasons(table: RoutingTable) -> RoutingTable:
    """What decides where requests go: not why some go nowhere, nor of which generation it is.

    A service of which nothing is to be left out is the same object.
    """
    services = {name: _without_reasons(service) for name, service in table.services.items()}
    return replace(table, services=services, generation=0)


def _without_reasons(service: ServiceRoute) -> ServiceRoute:
    lines = service.lines.values()
    if not any(line.reason or any(one.reason for one in line.revisions.values()) for line in lines):
        return service
    return replace(
        service,
        lines={
            name: replace(
                line,
                revisions={tag: replace(one, reason="") for tag, one in line.revisions.items()},
                reason="",
            )
            for name, line in service.lines.items()
        },
    )


def told(reason: str) -> str:
    """What callers hear of a reason such as `failed: /srv/x: no such file`: how far it is, never the rest.

    Whoever runs the node reads the whole of it in the status and in the log.
    """
    state, _, detail = reason.partition(":")
    return f"{state}; `fairlead status` says why" if detail else state or "not started"


def _said_of_line(stuck: RevisionId, reason: str) -> str:
    words = told(reason)
    return f"{stuck.served_version} {'has' if words.startswith('failed') else 'is'} {words}"


def _service_route(
    service: Service,
    ready: frozenset[RevisionId],
    reasons: Mapping[RevisionId, str],
    before: ServiceRoute | None,
) -> ServiceRoute:
    lines = {
        name: _line_route(line, ready, reasons, before.lines.get(name) if before else None)
        for name, line in service.lines.items()
    }
    pin = service.pin.line
    serving = pin in lines and bool(lines[pin].traffic)
    if not serving and before is not None and before.pin in lines and lines[before.pin].traffic:
        pin = before.pin
    return ServiceRoute(service.name, lines, pin, service.kill)


def _line_route(
    line: Line,
    ready: frozenset[RevisionId],
    reasons: Mapping[RevisionId, str],
    before: LineRoute | None,
) -> LineRoute:
    # By its artifact too: a line that was deleted and made anew has the names, but not the workers.
    there = before.revisions.items() if before else ()
    routed = {
        tag
        for tag, route in there
        if route.routable and tag in line.revisions and line.revisions[tag].digest == route.digest
    }

    def routable(tag: str) -> bool:
        return RevisionId(line.id.service, line.id.line, tag) in ready or tag in routed

    traffic = line.traffic
    waiting = [share.tag for share in traffic if share.percent and not routable(share.tag)]
    reason = ""
    if waiting:
        stuck = RevisionId(line.id.service, line.id.line, waiting[0])
        reason = _said_of_line(stuck, reasons.get(stuck, ""))
        flowing = before.traffic if before else ()
        # A share without traffic may go with its revision; nobody is sent to it.
        old = tuple(one for one in flowing if one.percent or one.tag in line.revisions)
        flows = (not one.percent or routable(one.tag) for one in old if one.tag in line.revisions)
        traffic = old if sum(flows) == len(old) else ()
    tags = {share.tag for share in (*line.traffic, *traffic)}
    revisions = {
        tag: RevisionRoute(
            id=revision.id,
            artifact_version=revision.artifact.version,
            digest=revision.digest,
            endpoints=revision.endpoints,
            routable=routable(tag),
            reason="" if routable(tag) else told(reasons.get(revision.id, "")),
        )
        for tag, revision in line.revisions.items()
        if tag in tags
    }
    return LineRoute(line.id, revisions, traffic, reason)
