"""The keys' secrets in a file that only its owner may read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from fairlead.domain.errors import InvalidInput, Problem
from fairlead.domain.manifest import check_schema
from fairlead.domain.ports import OldSecret
from fairlead.kits import files

_SCHEMA = 2  # 2: `old`, the secrets that work on until a time
_MODE = 0o600


class SecretsFile:
    """Secrets by client, at one path; several processes may change it."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def read(self) -> dict[str, str]:
        return dict(self._document()["keys"])

    def put(self, client: str, secret: str, old: tuple[OldSecret, ...] = ()) -> None:
        self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with files.locked(self._path.with_suffix(".lock")):
            document = self._without(client)
            document["keys"][client] = secret
            document["old"] += [
                {"client": client, "secret": one.secret, "until": one.until} for one in old
            ]
            self._write(document)

    def old(self, client: str) -> tuple[OldSecret, ...]:
        return tuple(
            OldSecret(one["secret"], one["until"])
            for one in self._document()["old"]
            if one["client"] == client
        )

    def remove(self, client: str) -> None:
        with files.locked(self._path.with_suffix(".lock")):
            self._write(self._without(client))

    def _document(self) -> dict[str, Any]:
        try:
            document = files.read_json(self._path)
            if document is None:
                return {"keys": {}, "old": []}
            check_schema(document, _SCHEMA, str(self._path), oldest=1)
            return {
                "keys": {str(name): str(secret) for name, secret in document["keys"].items()},
                "old": [
                    {
                        "client": str(one["client"]),
                        "secret": str(one["secret"]),
                        "until": float(one["until"]),
                    }
                    for one in document.get("old", [])
                ],
            }
        except (ValueError, KeyError, TypeError, AttributeError):
            # In our own words: the parser's would quote the file, and with it a secret.
            right = "restore it, or remove it and give each key a new secret: fairlead keys rotate"
            raise InvalidInput(str(self._path), [Problem("", "is damaged", right)]) from None

    def _without(self, client: str) -> dict[str, Any]:
        document = self._document()
        return {
            "keys": {name: one for name, one in document["keys"].items() if name != client},
            "old": [one for one in document["old"] if one["client"] != client],
        }

    def _write(self, document: dict[str, Any]) -> None:
        data = json.dumps({"schema": _SCHEMA, **document}).encode()
        files.write_atomic(self._path, data, mode=_MODE)
