"""The keys' secrets on the gateway's node, as `fairlead keys` writes them: `{"schema", "keys": {client: secret}}`."""

from __future__ import annotations

import logging
import stat
from collections.abc import Mapping
from pathlib import Path

from fairlead.domain.errors import InvalidInput, Problem
from fairlead.domain.manifest import check_schema
from fairlead.kits import files

_SCHEMA = 1
_OTHERS = stat.S_IRWXG | stat.S_IRWXO
_log = logging.getLogger(__name__)


def read_credentials(path: Path) -> dict[str, str]:
    """Clients by secret; empty if there is no such file.

    Raises InvalidInput if the file is damaged, FairleadError if a newer Fairlead wrote it.
    """
    document = _read(path)
    if document is None:
        return {}
    check_schema(document, _SCHEMA, str(path))
    keys = document.get("keys") if isinstance(document, Mapping) else None
    if not isinstance(keys, Mapping) or not all(
        isinstance(secret, str) and secret for secret in keys.values()
    ):
        raise _damaged(path, "holds no keys by client")
    return {secret: str(client) for client, secret in keys.items()}


def warn_if_readable(path: Path) -> None:
    """Say so if others than the owner may read the secrets."""
    try:
        mode = stat.S_IMODE(path.stat().st_mode)
    except FileNotFoundError:
        return
    if mode & _OTHERS:
        _log.warning(
            "the key file %s can be read by others (mode %o): chmod 600 it",
            path,
            mode,
            extra={"event": "keys"},
        )


def _read(path: Path) -> object:
    try:
        return files.read_json(path)
    except ValueError:
        # The parser's own words would quote the file, and with it a secret.
        raise _damaged(path, "is not JSON") from None


def _damaged(path: Path, wrong: str) -> InvalidInput:
    return InvalidInput(str(path), [Problem("", wrong, "create the keys again: fairlead keys")])
