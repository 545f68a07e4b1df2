"""Keys' secrets in memory."""

from __future__ import annotations

from fairlead.domain.ports import OldSecret


class MemorySecrets:
    """Secrets by client, in a dictionary."""

    def __init__(self) -> None:
        self._secrets: dict[str, str] = {}
        self._old: dict[str, tuple[OldSecret, ...]] = {}

    def read(self) -> dict[str, str]:
        return dict(self._secrets)

    def put(self, client: str, secret: str, old: tuple[OldSecret, ...] = ()) -> None:
        self._secrets[client] = secret
        self._old[client] = old

    def old(self, client: str) -> tuple[OldSecret, ...]:
        return self._old.get(client, ())

    def remove(self, client: str) -> None:
        self._secrets.pop(client, None)
        self._old.pop(client, None)
