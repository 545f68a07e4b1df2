"""The catalog: the desired state. Lines, revisions, traffic, pins, kill switches, keys' metadata.

A catalog is an immutable value; every change returns a new one. The store keeps each as
`catalog/<generation>.json`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property

from fairlead.domain.errors import Kind, Refused
from fairlead.domain.ids import ArtifactRef, LineId, RevisionId
from fairlead.domain.keys import KeyRecord
from fairlead.domain.release import EndpointSpec, TrafficShare
from fairlead.domain.versions import natural_key

KEPT_REVISIONS = 20  # of a line, without traffic: for a way back
_REMEMBERED = 1000  # names of revisions that a line has let go: a few bytes each
_LONGEST_MESSAGE = 500  # characters
_MOST_LISTED = 20  # names in a refusal; of more only a few that are like the one that is wrong
_FEW_LISTED = 5


@dataclass(frozen=True, slots=True)
class Revision:
    """One immutable revision. `applied` is the digest of the release file last applied for it.

    When that was is `applied_at`; 0 in catalogs from before it was written down. `legacy_key`: callers of its speech
    API may show a key in the body, and who comes past the gateway must (S0-31).
    """

    id: RevisionId
    artifact: ArtifactRef
    digest: str
    endpoints: tuple[EndpointSpec, ...]
    applied: str
    created_at: float
    applied_at: float = 0.0
    legacy_key: bool = False


@dataclass(frozen=True, slots=True)
class Line:
    """One line: its revisions by name and its traffic, oldest revision first (stable before canary).

    `let_go` names revisions that are not kept any more, oldest first; none of them comes back.
    """

    id: LineId
    revisions: Mapping[str, Revision]
    traffic: tuple[TrafficShare, ...]
    let_go: tuple[str, ...] = ()

    def live(self) -> tuple[Revision, ...]:
        """The revisions that traffic names: the ones that should run."""
        return tuple(
            self.revisions[share.tag] for share in self.traffic if share.tag in self.revisions
        )

    def in_order(self) -> list[Revision]:
        """Its revisions, oldest name first."""
        return [self.revisions[tag] for tag in sorted(self.revisions, key=natural_key)]

    def last_applied(self) -> Revision | None:
        """The revision whose file was applied last; None in a line without revisions."""
        return max(
            self.revisions.values(),
            key=lambda one: (one.applied_at or one.created_at, natural_key(one.id.revision)),
            default=None,
        )


@dataclass(frozen=True, slots=True)
class Kill:
    """A service switched off by hand, and what its callers are told."""

    message: str
    at: float


@dataclass(frozen=True, slots=True)
class Pin:
    """Which line `latest` means. `by_hand` is false for the one a service's first line got by itself."""

    line: str
    by_hand: bool


@dataclass(frozen=True, slots=True)
class Service:
    """A service with its lines by name."""

    name: str
    lines: Mapping[str, Line]
    pin: Pin
    kill: Kill | None = None


@dataclass(frozen=True)  # without slots: what is asked of it many times is kept
class Catalog:
    """The whole desired state at one generation."""

    generation: int = 0
    services: Mapping[str, Service] = field(default_factory=dict)
    keys: Mapping[str, KeyRecord] = field(default_factory=dict)

    def service(self, name: str) -> Service:
        """Raises Refused(NOT_FOUND) that lists the services there are; of many, those with names like it."""
        try:
            return self.services[name]
        except KeyError:
            there = _listed(self.services, name, "fairlead status") or "none yet"
            raise Refused(
                Kind.NOT_FOUND, f"there is no service {name!r}; services: {there}"
            ) from None

    def line(self, line_id: LineId) -> Line:
        """Raises Refused(NOT_FOUND) that lists the service's lines."""
        service = self.service(line_id.service)
        try:
            return service.lines[line_id.line]
        except KeyError:
            there = ", ".join(sorted(service.lines, key=natural_key))
            message = f"service {line_id.service!r} has no line {line_id.line!r}; lines: {there}"
            raise Refused(Kind.NOT_FOUND, message) from None

    def revision(self, identity: RevisionId) -> Revision | None:
        """That revision; None if there is none."""
        service = self.services.get(identity.service)
        line = service.lines.get(identity.line) if service is not None else None
        return line.revisions.get(identity.revision) if line is not None else None

    def key(self, client: str) -> KeyRecord:
        """Raises Refused(NOT_FOUND) that lists the keys there are."""
        try:
            return self.keys[client]
        except KeyError:
            there = _listed(self.keys, client, "fairlead keys ls") or "none"
            message = f"there is no key {client!r}; keys: {there}"
            raise Refused(Kind.NOT_FOUND, message) from None

    def only(self, services: Collection[str]) -> Catalog:
        """The same, as if there were no other services than these."""
        named = {name: self.services[name] for name in services if name in self.services}
        return replace(self, services=named)

    def live(self) -> Mapping[RevisionId, Revision]:
        """Every revision that should run."""
        return self._live

    @cached_property
    def _live(self) -> Mapping[RevisionId, Revision]:
        return {
            revision.id: revision
            for service in self.services.values()
            for line in service.lines.values()
            for revision in line.live()
        }


def _listed(names: Collection[str], asked: str, all_by: str) -> str:
    """The names there are, for who asked for one that is not; a thousand would bury what was wrong."""
    if len(names) <= _MOST_LISTED:
        return ", ".join(sorted(names))
    import difflib  # noqa: PLC0415 - only who has mistyped a name pays for it

    near = difflib.get_close_matches(asked, names, _FEW_LISTED) or sorted(names)[:_FEW_LISTED]
    return f"{', '.join(near)} and {len(names) - len(near)} more: `{all_by}` lists them"


def ordered_traffic(shares: tuple[TrafficShare, ...]) -> tuple[TrafficShare, ...]:
    """Oldest revision first, so that the newest is the canary however the file was written."""
    return tuple(sorted(shares, key=lambda share: natural_key(share.tag)))


def digests_of(catalog: Catalog) -> frozenset[str]:
    """The artifacts that some revision names, with traffic or without."""
    return frozenset(
        revision.digest
        for service in catalog.services.values()
        for line in service.lines.values()
        for revision in line.revisions.values()
    )


def with_revision(catalog: Catalog, revision: Revision) -> Catalog:
    """Add a revision, or renew the `applied` mark of one; a service's first line becomes its pin."""
    line_id = revision.id.line_id
    service = catalog.services.get(line_id.service) or Service(
        line_id.service, {}, Pin(line_id.line, by_hand=False)
    )
    line = service.lines.get(line_id.line) or Line(line_id, {}, ())
    line = replace(line, revisions={**line.revisions, revision.id.revision: revision})
    return _with_line(catalog, service, line)


def without_oldest(
    catalog: Catalog, line_id: LineId, in_use: Collection[RevisionId]
) -> tuple[Catalog, list[str]]:
    """Let go of a line's oldest revisions without traffic, but for the newest 20; and which those were.

    Whoever releases every hour would else carry every revision there ever was, in each catalog and each process.
    `in_use` are those that nodes still run, whatever the catalog's traffic says: one that serves until its
    successor is proved is never let go.
    """
    line = catalog.line(line_id)
    live = {share.tag for share in line.traffic}
    idle = [one for tag, one in line.revisions.items() if tag not in live and one.id not in in_use]
    idle.sort(key=lambda one: (one.created_at, natural_key(one.id.revision)))
    gone = [one.id.revision for one in idle[: max(0, len(idle) - KEPT_REVISIONS)]]
    if not gone:
        return catalog, []
    return _with_line(catalog, catalog.service(line_id.service), line_without(line, gone)), gone


def line_without(line: Line, gone: Collection[str]) -> Line:
    """The line without these revisions; their names are remembered, so that none of them comes back."""
    kept = {tag: one for tag, one in line.revisions.items() if tag not in gone}
    let_go = (*line.let_go, *gone)[-_REMEMBERED:]
    return replace(line, revisions=kept, let_go=let_go)


def with_traffic(catalog: Catalog, line_id: LineId, traffic: tuple[TrafficShare, ...]) -> Catalog:
    """Move a line's traffic. Raises Refused if a tag names no revision of the line."""
    line = catalog.line(line_id)
    unknown = [share.tag for share in traffic if share.tag not in line.revisions]
    if unknown:
        there = ", ".join(sorted(line.revisions, key=natural_key))
        message = f"line {line_id} has no revision {unknown[0]!r}; revisions: {there}"
        raise Refused(Kind.NOT_FOUND, message)
    return _with_line(
        catalog, catalog.service(line_id.service), replace(line, traffic=ordered_traffic(traffic))
    )


def with_pin(catalog: Catalog, line_id: LineId, *, by_hand: bool = True) -> Catalog:
    """Let `latest` mean this line."""
    catalog.line(line_id)
    return _with_service(
        catalog, replace(catalog.service(line_id.service), pin=Pin(line_id.line, by_hand))
    )


def told_to_callers(message: str) -> str:
    """What an operator tells callers, as they get it; raises Refused(INVALID) unless it is one line, and a short one."""
    text = message.strip()
    if not 0 < len(text) <= _LONGEST_MESSAGE or not text.isprintable():
        raise Refused(
            Kind.INVALID,
            f"the message is what callers are told: write one line, at most {_LONGEST_MESSAGE} characters",
        )
    return text


def with_kill(catalog: Catalog, service: str, kill: Kill | None) -> Catalog:
    """Switch a service off, or on again."""
    return _with_service(catalog, replace(catalog.service(service), kill=kill))


def with_key(catalog: Catalog, key: KeyRecord) -> Catalog:
    """Add or replace a key's metadata."""
    return replace(catalog, keys={**catalog.keys, key.client: key})


def without_key(catalog: Catalog, client: str) -> Catalog:
    """Forget a key. Raises Refused(NOT_FOUND) that lists the keys there are."""
    gone = catalog.key(client)
    return replace(
        catalog, keys={name: key for name, key in catalog.keys.items() if key is not gone}
    )


def _with_line(catalog: Catalog, service: Service, line: Line) -> Catalog:
    return _with_service(catalog, replace(service, lines={**service.lines, line.id.line: line}))


def _with_service(catalog: Catalog, service: Service) -> Catalog:
    return replace(catalog, services={**catalog.services, service.name: service})
