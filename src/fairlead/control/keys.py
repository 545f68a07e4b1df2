"""Keys: the secret is made here, shown once and kept by the gateway's node; the catalog knows the rest."""

from __future__ import annotations

import hashlib
import re
import secrets
from typing import Protocol

from fairlead.control import catalogs as changing
from fairlead.domain.catalog import ALL_SERVICES, Catalog, KeyRecord, with_key, without_key
from fairlead.domain.errors import Kind, Refused
from fairlead.domain.ports import Catalogs
from fairlead.kits.clock import Clock

_CLIENT = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,62})")
_SECRET_BYTES = 32  # S0-25
_FINGERPRINT = 8  # hex digits: enough to tell keys apart, useless to guess one


class Secrets(Protocol):
    """Where the gateway's node keeps the secrets."""

    def read(self) -> dict[str, str]:
        """Secrets by client."""
        ...

    def put(self, client: str, secret: str) -> None:
        """Keep a secret; replaces the client's old one."""
        ...

    def remove(self, client: str) -> None:
        """Forget a client's secret; a missing one is fine."""
        ...


def create(
    catalogs: Catalogs, kept: Secrets, clock: Clock, client: str, services: tuple[str, ...]
) -> str:
    """Make a key for a client, for some services or all; returns the secret, which nobody can show again."""
    if not _CLIENT.fullmatch(client):
        raise Refused(
            Kind.INVALID,
            f"{client!r} is no key's name: write letters, digits, '.', '_' and '-', at most 63",
        )
    secret = secrets.token_urlsafe(_SECRET_BYTES)
    record = KeyRecord(client, services or (ALL_SERVICES,), clock.now(), _fingerprint(secret))

    def what(catalog: Catalog) -> Catalog:
        if client in catalog.keys:
            raise Refused(
                Kind.CONFLICT,
                f"there is a key {client!r} already: rotate or revoke it, or choose another name",
            )
        for service in services:
            catalog.service(service)
        return with_key(catalog, record)

    changing.change(catalogs, clock, what, f"create key {client}")
    kept.put(client, secret)
    return secret


def rotate(catalogs: Catalogs, kept: Secrets, clock: Clock, client: str) -> str:
    """Give a client a new secret; the old one stops working as soon as the gateway has read the new one."""
    secret = secrets.token_urlsafe(_SECRET_BYTES)

    def what(catalog: Catalog) -> Catalog:
        record = catalog.key(client)
        return with_key(
            catalog, KeyRecord(client, record.services, record.created_at, _fingerprint(secret))
        )

    changing.change(catalogs, clock, what, f"rotate key {client}")
    kept.put(client, secret)
    return secret


def revoke(catalogs: Catalogs, kept: Secrets, clock: Clock, client: str) -> None:
    """Take a key away."""
    changing.change(
        catalogs, clock, lambda catalog: without_key(catalog, client), f"revoke key {client}"
    )
    kept.remove(client)


def _fingerprint(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()[:_FINGERPRINT]
