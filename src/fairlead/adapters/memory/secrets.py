"""Keys' secrets in memory."""

from __future__ import annotations


class MemorySecrets:
    """Secrets by client, in a dictionary."""

    def __init__(self) -> None:
        self._secrets: dict[str, str] = {}

    def read(self) -> dict[str, str]:
        return dict(self._secrets)

    def put(self, client: str, secret: str) -> None:
        self._secrets[client] = secret

    def remove(self, client: str) -> None:
        self._secrets.pop(client, None)
