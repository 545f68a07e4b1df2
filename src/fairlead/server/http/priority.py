"""How urgent a caller says that its request is: `X-Request-Priority`, for models that have levels."""

from __future__ import annotations

import re
from collections.abc import Iterable

from fairlead.api.inference import InferRequest
from fairlead.domain.errors import Kind, Refused
from fairlead.server.http.handlers import Headers

_PRIORITY = b"x-request-priority"
_LEVEL = re.compile(rb"[0-9]{1,3}")


def prioritize(requests: Iterable[InferRequest], headers: Headers) -> None:
    """Give a call's requests the level it asks for, if it does: 1 before all others, 0 the model's default.

    Raises Refused (INVALID) for what is no number.
    """
    said = headers.get(_PRIORITY)
    if said is None:
        return
    if not _LEVEL.fullmatch(said):
        shown = said.decode("latin-1")
        message = f"X-Request-Priority: {shown!r:.40} is no level; write a whole number, 1 is first"
        raise Refused(Kind.INVALID, message)
    level = int(said)
    for request in requests:
        request.priority = level
