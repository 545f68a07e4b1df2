"""What a command has put into the catalog and waits for, and whether somebody has changed that since.

Whoever waits asks the running processes whether they do what the catalog says. That is an answer about the newest
catalog: it is about the command's own change only as long as nobody has taken that back.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from fairlead.domain.catalog import Catalog, Line
from fairlead.domain.ids import LineId


@dataclass(frozen=True, slots=True)
class Made:
    """The catalog as a command left it, and what of it the command answers for.

    That is the traffic of lines, the pins of services, whether services are switched off, and keys by client. What
    others change beside it is their own business.
    """

    catalog: Catalog
    lines: frozenset[LineId] = frozenset()
    pins: frozenset[str] = frozenset()
    switches: frozenset[str] = frozenset()
    keys: frozenset[str] = frozenset()

    @property
    def services(self) -> frozenset[str]:
        return frozenset(one.service for one in self.lines) | self.pins | self.switches


def superseded(made: Made, now: Catalog) -> list[str]:
    """What became of it meanwhile, in words; empty while the newest catalog still wants it."""
    return [*_services(made, now), *_lines(made, now), *_keys(made, now)]


def _services(made: Made, now: Catalog) -> Iterator[str]:
    for name in sorted(made.services):
        before, service = made.catalog.services.get(name), now.services.get(name)
        if before is None:
            continue  # there was nothing to wait for
        if service is None:
            yield f"service {name} was deleted"
        elif service.kill is not None and before.kill is None:
            yield f"service {name} was switched off"
        elif name in made.switches and service.kill is None and before.kill is not None:
            yield f"service {name} was switched on again"
        elif name in made.pins and service.pin.line != before.pin.line:
            yield f"the pin of {name} was moved to {service.pin.line}"


def _lines(made: Made, now: Catalog) -> Iterator[str]:
    for name in sorted(made.lines):
        before, line = _line(made.catalog, name), _line(now, name)
        if before is None or name.service not in now.services:
            continue
        if line is None:
            yield f"line {name} was deleted"
        elif line.traffic != before.traffic:
            shares = " ".join(f"{one.tag}={one.percent}" for one in line.traffic)
            yield f"traffic of {name} was moved to {shares or 'none'}"
        elif _digests(line) != _digests(before):
            yield f"line {name} was deleted and made anew"


def _keys(made: Made, now: Catalog) -> Iterator[str]:
    for client in sorted(made.keys):
        before, key = made.catalog.keys.get(client), now.keys.get(client)
        if before == key:
            continue
        what = "revoked" if key is None else "made anew" if before is None else "changed"
        yield f"key {client} was {what}"


def _line(catalog: Catalog, name: LineId) -> Line | None:
    service = catalog.services.get(name.service)
    return service.lines.get(name.line) if service is not None else None


def _digests(line: Line) -> list[str]:
    return [one.digest for one in line.live()]
