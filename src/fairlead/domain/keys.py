"""Keys: who may ask what, how much of it, until when. The secrets themselves are not here.

A scope names a service, perhaps one line of it and perhaps one verb: `speech`, `speech/v9`, `speech/v9:infer`,
`*:read`. A quota bounds what one key may ask of all services together.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from fairlead.domain.ids import NAME
from fairlead.domain.reading import Node

ALL_SERVICES = "*"
_SCOPE_HELP = (
    "write SERVICE, SERVICE/LINE, SERVICE:VERB or SERVICE/LINE:VERB; * stands for every service"
)
_RATE_HELP = "write a whole number and a unit: 100/s, 600/min or 5000/h"
_RATE = re.compile(r"([1-9][0-9]{0,8})/(s|min|h)")
_UNITS = {"s": 1, "min": 60, "h": 3600}
_MOST = 999_999_999  # of anything a quota counts: far below every data plane's own limits


class Verb(StrEnum):
    """What a path does with a model: every path that names one has exactly one verb."""

    INFER = "infer"
    READ = "read"


@dataclass(frozen=True, slots=True, order=True)
class Scope:
    """What a key may ask. An empty `line` or `verb` means every one."""

    service: str
    line: str = ""
    verb: str = ""

    @classmethod
    def parse(cls, text: str) -> Scope:
        """Read `speech/v9:infer`; raises ValueError that says what would be right."""
        target, colon, verb = text.partition(":")
        service, slash, line = target.partition("/")
        if colon and verb not in set(Verb):
            raise ValueError(
                f"{text!r} has no verb we know: write {' or '.join(Verb)} after the ':'"
            )
        if service == ALL_SERVICES and slash:
            raise ValueError(f"{text!r} names a line of every service: lines belong to one service")
        named = service == ALL_SERVICES or NAME.fullmatch(service)
        if not named or (slash and not NAME.fullmatch(line)):
            raise ValueError(f"{text!r} is no scope: {_SCOPE_HELP}")
        return cls(service, line, verb)

    def __str__(self) -> str:
        line = f"/{self.line}" if self.line else ""
        verb = f":{self.verb}" if self.verb else ""
        return f"{self.service}{line}{verb}"

    def covers(self, service: str, verb: Verb | None = None) -> bool:
        """Does it reach this service, or some line of it, at all?"""
        return self.service in (ALL_SERVICES, service) and (verb is None or self.verb in ("", verb))


EVERYTHING = Scope(ALL_SERVICES)


@dataclass(frozen=True, slots=True)
class Rate:
    """So many requests in so many seconds; `burst` is how many may come at once after a rest."""

    requests: int
    seconds: int
    burst: int

    @classmethod
    def parse(cls, text: str, burst: int | None = None) -> Rate:
        """Read `100/s`; without a burst, what one unit of time allows. Raises ValueError that says what is right."""
        found = _RATE.fullmatch(text)
        if found is None:
            raise ValueError(f"{text!r} is no rate: {_RATE_HELP}")
        requests = int(found[1])
        return cls(requests, _UNITS[found[2]], requests if burst is None else burst)

    @property
    def wait_seconds(self) -> int:
        """After that long there is another token for sure; at least 1."""
        return max(1, math.ceil(self.seconds / self.requests))

    def __str__(self) -> str:
        unit = next(name for name, seconds in _UNITS.items() if seconds == self.seconds)
        burst = "" if self.burst == self.requests else f" (burst {self.burst})"
        return f"{self.requests}/{unit}{burst}"


@dataclass(frozen=True, slots=True)
class Quota:
    """What a key may ask of all services together; None means as much as it likes."""

    rate: Rate | None = None
    concurrency: int | None = None

    def __bool__(self) -> bool:
        return self.rate is not None or self.concurrency is not None

    def __str__(self) -> str:
        parts = [str(self.rate)] if self.rate else []
        parts += [f"{self.concurrency} at once"] if self.concurrency else []
        return ", ".join(parts) or "no limit"


@dataclass(frozen=True, slots=True)
class Retiring:
    """An old secret that works on until a time, for callers that have not got the new one yet."""

    fingerprint: str
    until: float


@dataclass(frozen=True, slots=True)
class KeyRecord:
    """What is known of a key besides its secrets. `killed` is what its callers are told; empty if it works."""

    client: str
    allow: tuple[Scope, ...]
    created_at: float
    fingerprint: str
    quota: Quota = Quota()
    killed: str = ""
    retiring: tuple[Retiring, ...] = ()

    @property
    def free(self) -> bool:
        """May it ask everything? All such keys see the same."""
        return not self.killed and EVERYTHING in self.allow

    def allows(self, service: str, verb: Verb | None = None) -> bool:
        """May this key ask something of that service, with this verb if one is given?"""
        return any(scope.covers(service, verb) for scope in self.allow)

    def lines(self, service: str, verb: Verb, lines: Collection[str]) -> frozenset[str]:
        """Those of a service's lines that this key may use with this verb."""
        mine = [scope.line for scope in self.allow if scope.covers(service, verb)]
        return frozenset(lines if "" in mine else set(lines) & set(mine))


def key_to_json(key: KeyRecord) -> dict[str, Any]:
    """A key as the catalog holds it."""
    rate = key.quota.rate
    return {
        "allow": [str(scope) for scope in key.allow],
        "createdAt": key.created_at,
        "fingerprint": key.fingerprint,
        "rate": {"requests": rate.requests, "seconds": rate.seconds, "burst": rate.burst}
        if rate
        else None,
        "concurrency": key.quota.concurrency,
        "killed": key.killed,
        "retiring": [{"fingerprint": one.fingerprint, "until": one.until} for one in key.retiring],
    }


def key_from_json(name: str, node: Node) -> KeyRecord:
    """Read a key; the first schema had whole services only, under `services`."""
    known = [
        "allow",
        "services",
        "createdAt",
        "fingerprint",
        "rate",
        "concurrency",
        "killed",
        "retiring",
    ]
    node.mapping(known, ["allow" if not node.has("services") else "services"])
    scopes = node.child("services" if node.has("services") else "allow")
    concurrency = node.child("concurrency")
    retiring = node.child("retiring")
    return KeyRecord(
        name,
        tuple(_scope(child) for child in scopes.elements()),
        node.child("createdAt").number(),
        node.child("fingerprint").text(),
        Quota(
            _rate(node.child("rate")) if node.has("rate") else None,
            concurrency.integer(1, _MOST) if node.has("concurrency") else None,
        ),
        node.child("killed").text() if node.has("killed") else "",
        tuple(
            Retiring(child.child("fingerprint").text(), child.child("until").number())
            for child in (retiring.elements() if node.has("retiring") else ())
        ),
    )


def _scope(node: Node) -> Scope:
    text = node.text()
    try:
        return Scope.parse(text)
    except ValueError as error:
        node.wrong("is no scope", str(error))
        return Scope("")


def _rate(node: Node) -> Rate:
    seconds = node.child("seconds").integer(1)
    if seconds not in _UNITS.values():
        node.child("seconds").wrong(
            f"is {seconds}", f"write one of {', '.join(map(str, _UNITS.values()))}"
        )
        seconds = 1
    return Rate(
        node.child("requests").integer(1, _MOST), seconds, node.child("burst").integer(1, _MOST)
    )
