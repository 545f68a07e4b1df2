"""The gateway's certificate: read from its two files, checked, given to Envoy, and again when they change.

Envoy gets the pair itself and not the files' names, so both halves change in one step, and whoever renews
them may replace them, write into them, or lead a link elsewhere. A pair that does not fit is told, and the one
before stays. Connections that are open keep what they have.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fairlead.domain.errors import FairleadError, InvalidInput, Problem
from fairlead.gateway.listener import CERTIFICATE
from fairlead.gateway.ports import Envoy
from fairlead.gateway.state import View
from fairlead.kits import files
from fairlead.kits.clock import Clock

Document = dict[str, Any]

_LOOK_SECONDS = 1.0
_PART = "certificate"
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Pair:
    """Where a certificate chain and its private key lie."""

    certificate: Path
    private_key: Path

    def mark(self) -> tuple[str, str]:
        """Tells one state of the files from the next; raises nothing."""
        return files.mark(self.certificate), files.mark(self.private_key)


def secret(pair: Pair) -> Document:
    """The pair as Envoy takes it. Raises InvalidInput if a file cannot be read or the two do not fit."""
    chain, key = _text("certificate", pair.certificate), _text("private_key", pair.private_key)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        context.load_cert_chain(pair.certificate, pair.private_key, password=_no_password)
    except (ssl.SSLError, OSError, ValueError) as error:
        why = getattr(error, "reason", None) or str(error)
        wrong = f"{pair.certificate} and {pair.private_key} are no pair ({why})"
        right = "name a PEM certificate chain and its private key, which has no passphrase"
        raise InvalidInput("", [Problem("certificate", wrong, right)]) from None
    if (chain, key) != (
        _text("certificate", pair.certificate),
        _text("private_key", pair.private_key),
    ):
        problem = Problem("certificate", f"{pair.certificate} is being written", "wait until it is")
        raise InvalidInput("", [problem])
    return {
        "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret",
        "name": CERTIFICATE,
        "tls_certificate": {
            "certificate_chain": {"inline_string": chain},
            "private_key": {"inline_string": key},
        },
    }


async def forget(envoy: Envoy, clock: Clock) -> None:
    """Take the pair of a gateway that spoke TLS off the disk, once its listener has changed."""
    while any("transport_socket" in json.dumps(one) for one in envoy.listeners().values()):
        await clock.sleep(_LOOK_SECONDS)
    with contextlib.suppress(FairleadError, OSError):  # the next start tries again
        await envoy.set_certificate(None)


class Certificate:
    """Keeps Envoy's pair the one that lies in the files."""

    def __init__(self, pair: Pair, envoy: Envoy, view: View, clock: Clock) -> None:
        self._pair = pair
        self._envoy = envoy
        self._view = view
        self._clock = clock
        self._seen: tuple[str, str] | None = None

    async def set(self) -> None:
        """Give Envoy what lies there now. Raises FairleadError if it is no pair, or Envoy refuses it."""
        seen = self._pair.mark()
        given = await asyncio.to_thread(secret, self._pair)
        changed = await self._envoy.set_certificate(given)
        if changed and self._seen is not None:
            _log.info("a new certificate is in force", extra={"event": "gateway"})
        self._seen = seen

    def again(self) -> None:
        """Give it to Envoy once more: what it did not start with has been taken back."""
        self._seen = None

    async def follow(self) -> None:
        """Look once a second, until cancelled; what cannot be taken is a problem, and tried again."""
        while True:
            if self._pair.mark() != self._seen:
                try:
                    await self.set()
                except (FairleadError, OSError) as error:
                    self._view.note(_PART, f"the certificate stays as it was: {error}")
                else:
                    self._view.note(_PART, "")
            await self._clock.sleep(_LOOK_SECONDS)


def _text(name: str, path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, ValueError):
        problem = Problem(name, f"{path} cannot be read", "a PEM file the gateway may read")
        raise InvalidInput("", [problem]) from None


def _no_password() -> str:
    raise ValueError("the private key has a passphrase")  # the library would ask at the terminal
