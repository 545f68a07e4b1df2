"""The keys' secrets on the gateway's node, as `fairlead keys` writes them.

`{"schema", "keys": {client: secret}, "old": [{"client", "secret", "until"}]}`. An old secret works until its time is over by
this machine's clock, also if the gateway was not there when it ended.
"""

from __future__ import annotations

import logging
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fairlead.domain.errors import InvalidInput, Problem
from fairlead.domain.manifest import check_schema
from fairlead.kits import files

_SCHEMA = 2
_OTHERS = stat.S_IRWXG | stat.S_IRWXO
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Credentials:
    """Clients by secret, and by old secret with the time (seconds since 1970) it ends."""

    current: Mapping[str, str] = field(default_factory=dict)
    old: Mapping[str, tuple[str, float]] = field(default_factory=dict)

    def at(self, now: float) -> dict[str, str]:
        """The clients by every secret that works now."""
        lasting = {secret: client for secret, (client, until) in self.old.items() if now < until}
        return {**lasting, **self.current}


def read_credentials(path: Path) -> Credentials:
    """What the file says; nothing if there is none.

    Raises InvalidInput if the file is damaged, FairleadError if a newer Fairlead wrote it.
    """
    document = _read(path)
    if document is None:
        return Credentials()
    check_schema(document, _SCHEMA, str(path), oldest=1)
    keys = document.get("keys") if isinstance(document, Mapping) else None
    if not isinstance(keys, Mapping) or not all(
        isinstance(secret, str) and secret for secret in keys.values()
    ):
        raise _damaged(path, "holds no keys by client")
    assert isinstance(document, Mapping)
    current = {secret: str(client) for client, secret in keys.items()}
    return Credentials(current, _old(path, document.get("old", [])))


def _old(path: Path, found: Any) -> dict[str, tuple[str, float]]:  # noqa: ANN401 - untrusted input has no type yet
    try:
        return {str(one["secret"]): (str(one["client"]), float(one["until"])) for one in found}
    except (TypeError, KeyError, ValueError):
        raise _damaged(path, "holds old secrets that are none") from None


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
