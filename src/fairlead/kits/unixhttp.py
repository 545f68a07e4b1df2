"""An HTTP client on a unix socket, cheap enough to be made for one question.

httpx reads the machine's certificates for every transport, 25 ms each, also where there is no TLS to check.
A bare context, made once, spares that.
"""

from __future__ import annotations

import ssl
from pathlib import Path

import httpx

_NO_TLS = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


def unix_client(socket: Path | str, timeout_seconds: float) -> httpx.AsyncClient:
    """A client that finds everything on this socket; use it as a context manager, with paths for URLs."""
    transport = httpx.AsyncHTTPTransport(uds=str(socket), verify=_NO_TLS, trust_env=False)
    return httpx.AsyncClient(
        transport=transport,
        base_url="http://localhost",
        timeout=timeout_seconds,
        trust_env=False,
    )
