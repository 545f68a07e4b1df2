"""The keys' secrets in a file that only its owner may read."""

from __future__ import annotations

import json
from pathlib import Path

from fairlead.domain.manifest import check_schema
from fairlead.kits import files

_SCHEMA = 1
_MODE = 0o600


class SecretsFile:
    """Secrets by client, at one path; several processes may change it."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def read(self) -> dict[str, str]:
        document = files.read_json(self._path)
        if document is None:
            return {}
        check_schema(document, _SCHEMA, str(self._path))
        return {str(client): str(secret) for client, secret in document["keys"].items()}

    def put(self, client: str, secret: str) -> None:
        self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with files.locked(self._path.with_suffix(".lock")):
            self._write({**self.read(), client: secret})

    def remove(self, client: str) -> None:
        with files.locked(self._path.with_suffix(".lock")):
            self._write({name: secret for name, secret in self.read().items() if name != client})

    def _write(self, secrets: dict[str, str]) -> None:
        data = json.dumps({"schema": _SCHEMA, "keys": secrets}).encode()
        files.write_atomic(self._path, data, mode=_MODE)
