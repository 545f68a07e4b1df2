"""Keys: the secret is made here, shown once and kept by the gateway's node; the catalog knows the rest."""

from __future__ import annotations

import hashlib
import re
import secrets
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol

from fairlead.control import catalogs as changing
from fairlead.domain.catalog import Catalog, told_to_callers, with_key, without_key
from fairlead.domain.errors import Kind, Refused
from fairlead.domain.ids import LineId
from fairlead.domain.keys import ALL_SERVICES, EVERYTHING, KeyRecord, Quota, Retiring, Scope
from fairlead.domain.ports import Catalogs, OldSecret
from fairlead.kits.clock import Clock

_CLIENT = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,62})")
_SECRET_BYTES = 32  # S0-25
_FINGERPRINT = 8  # hex digits: enough to tell keys apart, useless to guess one


class Secrets(Protocol):
    """Where the gateway's node keeps the secrets."""

    def read(self) -> dict[str, str]:
        """Secrets by client."""
        ...

    def put(self, client: str, secret: str, old: tuple[OldSecret, ...] = ()) -> None:
        """Keep a secret, and the client's old ones for their time; replaces all it had."""
        ...

    def old(self, client: str) -> tuple[OldSecret, ...]:
        """A client's old secrets, also those whose time is over."""
        ...

    def remove(self, client: str) -> None:
        """Forget a client's secrets; a missing one is fine."""
        ...


@dataclass(frozen=True, slots=True)
class Keys:
    """The keys of one home: every change of them."""

    catalogs: Catalogs
    kept: Secrets
    clock: Clock

    def create(self, client: str, allow: tuple[Scope, ...] = (), quota: Quota = Quota()) -> str:  # noqa: B008 - a value, and frozen
        """Make a key for a client, for all services if no scope is given; returns the secret, shown here only."""
        if not _CLIENT.fullmatch(client):
            raise Refused(
                Kind.INVALID,
                f"{client!r} is no key's name: write letters, digits, '.', '_' and '-', at most 63",
            )
        secret = secrets.token_urlsafe(_SECRET_BYTES)
        scopes = tuple(dict.fromkeys(allow)) or (EVERYTHING,)
        record = KeyRecord(client, scopes, self.clock.now(), _fingerprint(secret), quota)

        def what(catalog: Catalog) -> Catalog:
            if client in catalog.keys:
                raise Refused(
                    Kind.CONFLICT,
                    f"there is a key {client!r} already: rotate or revoke it, or choose another name",
                )
            _check_scopes(catalog, scopes)
            return with_key(catalog, record)

        changing.change(self.catalogs, self.clock, what, f"create key {client}")
        self.kept.put(client, secret)
        return secret

    def rotate(self, client: str, overlap_seconds: float = 0.0) -> str:
        """Give a client a new secret. The one before works on for the overlap; without one, every old one ends."""
        secret = secrets.token_urlsafe(_SECRET_BYTES)
        now = self.clock.now()
        before = self.kept.read().get(client)
        old: tuple[OldSecret, ...] = ()
        if overlap_seconds > 0 and before is not None:
            lasting = (one for one in self.kept.old(client) if one.until > now)
            old = (*lasting, OldSecret(before, now + overlap_seconds))
        retiring = tuple(Retiring(_fingerprint(one.secret), one.until) for one in old)
        self._change(
            client,
            f"rotate key {client}",
            lambda key: replace(key, fingerprint=_fingerprint(secret), retiring=retiring),
        )
        self.kept.put(client, secret, old)
        return secret

    def revoke(self, client: str) -> None:
        """Take a key away."""
        changing.change(
            self.catalogs,
            self.clock,
            lambda catalog: without_key(catalog, client),
            f"revoke key {client}",
        )
        self.kept.remove(client)

    def kill(self, client: str, message: str) -> None:
        """Refuse whatever a key asks, with this message; everything else about it stays."""
        text = told_to_callers(message)
        self._change(client, f"kill key {client}: {text}", lambda key: replace(key, killed=text))

    def revive(self, client: str) -> None:
        """Let a killed key work again."""
        self._change(client, f"revive key {client}", lambda key: replace(key, killed=""))

    def allow(self, client: str, allow: tuple[Scope, ...]) -> None:
        """Give a key other scopes instead of those it has."""

        def what(catalog: Catalog) -> Catalog:
            _check_scopes(catalog, allow)
            return with_key(
                catalog, replace(catalog.key(client), allow=tuple(dict.fromkeys(allow)))
            )

        scopes = " ".join(map(str, allow))
        changing.change(self.catalogs, self.clock, what, f"allow key {client} {scopes}")

    def limit(self, client: str, change: Callable[[Quota], Quota]) -> Quota:
        """Change a key's quota; returns the new one."""
        changed = self._change(
            client, f"limit key {client}", lambda key: replace(key, quota=change(key.quota))
        )
        return changed.key(client).quota

    def _change(self, client: str, message: str, what: Callable[[KeyRecord], KeyRecord]) -> Catalog:
        return changing.change(
            self.catalogs,
            self.clock,
            lambda catalog: with_key(catalog, what(catalog.key(client))),
            message,
        )


def _check_scopes(catalog: Catalog, scopes: tuple[Scope, ...]) -> None:
    """Raises Refused(NOT_FOUND) for a service or a line that is not there."""
    for scope in scopes:
        if scope.service == ALL_SERVICES:
            continue
        if scope.line:
            catalog.line(LineId(scope.service, scope.line))
        else:
            catalog.service(scope.service)


def _fingerprint(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()[:_FINGERPRINT]
