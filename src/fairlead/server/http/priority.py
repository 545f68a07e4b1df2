"""How urgent a caller says that its request is: `X-Request-Priority`, for models that have levels."""

from __future__ import annotations

import re

from fairlead.domain.errors import Kind, Refused
from fairlead.server.http.handlers import Headers

PRIORITY = b"x-request-priority"
_LEVEL = re.compile(rb"[0-9]{1,3}")


def priority_of(headers: Headers) -> int:
    """The level asked for, 1 before all others, 0 the model's default; raises Refused (INVALID) for no number."""
    said = headers.get(PRIORITY, b"0")
    if not _LEVEL.fullmatch(said):
        shown = said.decode("latin-1")
        message = f"X-Request-Priority: {shown!r:.40} is no level; write a whole number, 1 is first"
        raise Refused(Kind.INVALID, message)
    return int(said)
