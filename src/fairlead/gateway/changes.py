"""What a move changed, in words for people: `sentiment v1 now 1=90 2=10`, `sentiment/v1.2 added`."""

from __future__ import annotations

from collections.abc import Iterator

from fairlead.domain.keys import KeyRecord
from fairlead.domain.table import LineRoute, RoutingTable, ServiceRoute

_MOST = 6  # changes that one line tells


def told(before: RoutingTable, after: RoutingTable) -> str:
    """The differences callers can meet, in one line; empty if there is none."""
    found: list[str] = []
    for name in sorted({*before.services, *after.services}):
        found += _of_service(name, before.services.get(name), after.services.get(name))
    for client in sorted({*before.keys, *after.keys}):
        found += _of_key(client, before.keys.get(client), after.keys.get(client))
    rest = len(found) - _MOST
    more = [f"and {rest} more"] if rest > 0 else []
    return ", ".join([*found[:_MOST], *more])


def _of_service(name: str, old: ServiceRoute | None, new: ServiceRoute | None) -> Iterator[str]:
    if new is old:
        return
    if new is None:
        yield f"{name} removed"
        return
    old_lines = old.lines if old else {}
    for line in sorted({*old_lines, *new.lines}):
        yield from _of_line(old_lines.get(line), new.lines.get(line))
    if old is not None and old.pin != new.pin:
        yield f"{name} latest is now {new.pin}"
    if bool(old and old.kill) != bool(new.kill):
        yield f"{name} {'killed' if new.kill else 'revived'}"


def _of_key(client: str, old: KeyRecord | None, new: KeyRecord | None) -> Iterator[str]:
    if old is None or new is None:
        yield f"key {client} {'made' if new else 'revoked'}"
        return
    if bool(old.killed) != bool(new.killed):
        yield f"key {client} {'killed' if new.killed else 'revived'}"
    if old.allow != new.allow:
        yield f"key {client} may ask {' '.join(map(str, new.allow))}"
    if old.quota != new.quota:
        yield f"key {client} limited to {new.quota}" if new.quota else f"key {client} not limited"
    if old.fingerprint != new.fingerprint:
        yield f"key {client} rotated"


def _of_line(old: LineRoute | None, new: LineRoute | None) -> Iterator[str]:
    was, now = _routed(old), _routed(new)
    yield from (f"{revision} added" for revision in sorted(now - was))
    yield from (f"{revision} removed" for revision in sorted(was - now))
    if new is None or not new.traffic or (old is not None and old.traffic == new.traffic):
        return
    shares = " ".join(f"{share.tag}={share.percent}" for share in new.traffic)
    yield f"{new.id.service} {new.id.line} now {shares}"


def _routed(line: LineRoute | None) -> set[str]:
    if line is None:
        return set()
    return {str(revision.id) for revision in line.revisions.values() if revision.routable}
