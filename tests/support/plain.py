"""For httpx where there is no TLS to check: it reads the machine's certificates for every client, 30 ms each, unless told otherwise."""

from __future__ import annotations

import ssl

NO_TLS = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
