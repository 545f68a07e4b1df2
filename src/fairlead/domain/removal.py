"""Taking something out of the catalog: a revision, a line or a service, and whatever named only that.

A revision's name is remembered by its line and never means anything else; the names of a line and of a
service are free again, since nothing is left that they could be confused with (`remains` says when).
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace

from fairlead.domain.catalog import (
    Catalog,
    Line,
    Revision,
    Service,
    digests_of,
    line_without,
)
from fairlead.domain.errors import InvalidInput, Kind, Problem, Refused
from fairlead.domain.ids import NAME, LineId
from fairlead.domain.keys import KeyRecord, Scope
from fairlead.domain.status import GatewayStatus, NodeStatus
from fairlead.domain.versions import natural_key


@dataclass(frozen=True, slots=True)
class Target:
    """What a command is about: a service, one line of it, or one revision. Empty: all of them."""

    service: str
    line: str = ""
    revision: str = ""

    @classmethod
    def parse(cls, text: str) -> Target:
        """Read SERVICE[/LINE[.REVISION]]; raises InvalidInput."""
        service, slash, version = text.partition("/")
        line, dot, revision = version.partition(".")
        names = [service, *([line] if slash else []), *([revision] if dot else [])]
        if not all(NAME.fullmatch(name) for name in names):
            right = "write SERVICE, SERVICE/LINE or SERVICE/LINE.REVISION: speech/v9.2"
            raise InvalidInput("", [Problem("SERVICE[/LINE[.REVISION]]", f"is {text!r}", right)])
        return cls(service, line, revision)

    def __str__(self) -> str:
        line = f"/{self.line}" if self.line else ""
        return f"{self.service}{line}{f'.{self.revision}' if self.revision else ''}"

    def touches(self, line: LineId) -> bool:
        """Is it this line, something of it, or its service?"""
        return line.service == self.service and self.line in ("", line.line)

    def lines(self, catalog: Catalog) -> tuple[Line, ...]:
        """The lines it touches, in order. Raises Refused(NOT_FOUND) that lists what there is."""
        service = catalog.service(self.service)
        if self.line:
            line = catalog.line(LineId(self.service, self.line))
            if self.revision and self.revision not in line.revisions:
                raise _no_revision(line, self.revision)
            return (line,)
        return tuple(service.lines[name] for name in sorted(service.lines, key=natural_key))


@dataclass(frozen=True, slots=True)
class Removal:
    """What is taken out, and the catalog without it. `keys` lose scopes that named only that."""

    target: Target
    catalog: Catalog
    revisions: tuple[Revision, ...]
    keys: tuple[KeyRecord, ...]  # as they were

    @property
    def digests(self) -> dict[str, Revision]:
        """The artifacts that no revision of the catalog names any more, each with one that did."""
        used = digests_of(self.catalog)
        return {one.digest: one for one in self.revisions if one.digest not in used}

    def lost(self, key: KeyRecord) -> tuple[Scope, ...]:
        """The scopes that one of `keys` loses."""
        left = self.catalog.keys[key.client].allow
        return tuple(scope for scope in key.allow if scope not in left)


def without(catalog: Catalog, target: Target, routed: GatewayStatus | None) -> Removal:
    """The catalog without the target. `routed` is what the gateway says; None if none routes.

    Raises Refused: NOT_FOUND if there is no such thing, CONFLICT if callers would be without an answer, which
    only a whole line or service may leave them.
    """
    lines = target.lines(catalog)
    service = catalog.service(target.service)
    if target.revision:
        revision = lines[0].revisions[target.revision]
        return Removal(
            target, _without_revision(catalog, service, lines[0], revision, routed), (revision,), ()
        )
    gone = tuple(revision for line in lines for revision in line.in_order())
    whole = len(lines) == len(service.lines)  # nothing is left of a service without its last line
    left = dict(catalog.services)
    if whole:
        del left[service.name]
    else:
        _check_pin(service, target.line, routed)
        kept = {name: line for name, line in service.lines.items() if name != target.line}
        left[service.name] = replace(service, lines=kept)
    keys = {
        client: replace(key, allow=_left(key.allow, target, whole=whole))
        for client, key in catalog.keys.items()
    }
    changed = tuple(key for client, key in catalog.keys.items() if keys[client] != key)
    return Removal(target, replace(catalog, services=left, keys=keys), gone, changed)


def remains(
    removal: Removal,
    node: NodeStatus | None,
    gateway: GatewayStatus | None,
    on_disk: Collection[str],
) -> Iterator[str]:
    """What is still there of it, in words. `on_disk` are the artifacts of the node, by digest."""
    ours = {(one.id, one.digest) for one in removal.revisions}
    generation = removal.catalog.generation
    workers = {}
    if node is not None:
        if node.generation < generation:
            yield "the agent has not read it yet"
        workers = {one.worker: one for one in node.replicas if (one.revision, one.digest) in ours}
    if gateway is not None:
        if gateway.generation < generation:
            yield "the gateway has not read it yet"
        asked = {str(workers[name].revision) for name in workers if name in gateway.workers}
        for name in sorted(asked):
            yield f"requests to {name} are being finished"
    for worker in workers.values():
        if gateway is None or worker.worker not in gateway.workers:
            yield f"worker {worker.worker or '-'} of {worker.revision} is {worker.state}"
    for digest in on_disk:
        if revision := removal.digests.get(digest):
            yield f"the files of {revision.artifact} are on this node's disk"


def _without_revision(
    catalog: Catalog,
    service: Service,
    line: Line,
    revision: Revision,
    routed: GatewayStatus | None,
) -> Catalog:
    identity, tag = revision.id, revision.id.revision
    whole = f"`fairlead delete {line.id}` deletes the whole line"
    if len(line.revisions) == 1:
        raise Refused(Kind.CONFLICT, f"{identity} is all there is of {line.id}: {whole}")
    percent = next((share.percent for share in line.traffic if share.tag == tag), 0)
    if percent:
        other = max((name for name in line.revisions if name != tag), key=natural_key)
        move = f"fairlead traffic {service.name} {line.id.line} {other}=100"
        message = f"{identity} has {percent} % of its line's traffic: move it away first ({move}); {whole}"
        raise Refused(Kind.CONFLICT, message)
    flows = routed.effective.get(line.id, ()) if routed is not None else ()
    if any(share.tag == tag and share.percent for share in flows):
        message = (
            f"{identity} still gets requests, until those that shall have them are ready: "
            f"`fairlead status` says why they are not; {whole}"
        )
        raise Refused(Kind.CONFLICT, message)
    traffic = tuple(share for share in line.traffic if share.tag != tag)
    kept = replace(line_without(line, [tag]), traffic=traffic)
    lines = {**service.lines, line.id.line: kept}
    return replace(
        catalog, services={**catalog.services, service.name: replace(service, lines=lines)}
    )


def _check_pin(service: Service, line: str, routed: GatewayStatus | None) -> None:
    others = sorted((name for name in service.lines if name != line), key=natural_key)
    whole = f"`fairlead delete {service.name}` deletes the whole service"
    if service.pin.line == line:
        message = (
            f"`latest` of {service.name} means {line}: pin another line first "
            f"(fairlead pin {service.name} {others[-1]}); {whole}"
        )
        raise Refused(Kind.CONFLICT, message)
    if routed is not None and routed.pins.get(service.name) == line:
        message = (
            f"`latest` of {service.name} still leads to {line}, until {service.pin.line} is ready: "
            f"`fairlead status` says why it is not; {whole}"
        )
        raise Refused(Kind.CONFLICT, message)


def _left(allow: tuple[Scope, ...], target: Target, *, whole: bool) -> tuple[Scope, ...]:
    return tuple(
        scope
        for scope in allow
        if scope.service != target.service or not (whole or scope.line == target.line)
    )


def _no_revision(line: Line, tag: str) -> Refused:
    if tag in line.let_go:
        return Refused(Kind.NOT_FOUND, f"{line.id}.{tag} is kept no longer: nothing is left of it")
    there = ", ".join(sorted(line.revisions, key=natural_key))
    message = f"line {line.id} has no revision {tag!r}; revisions: {there}"
    return Refused(Kind.NOT_FOUND, message)
