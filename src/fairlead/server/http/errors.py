"""How HTTP says what went wrong: one table from kinds to statuses, and the shape each dialect wants."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from fairlead.dialects import oip_rest, project
from fairlead.domain.errors import FairleadError, Kind

STATUSES: Mapping[Kind, int] = {
    Kind.INVALID: 400,
    Kind.SCHEMA: 422,
    Kind.UNAUTHENTICATED: 401,
    Kind.FORBIDDEN: 403,
    Kind.NOT_FOUND: 404,
    Kind.METHOD: 405,
    Kind.CONFLICT: 409,
    Kind.TOO_LARGE: 413,
    Kind.OVERLOADED: 503,  # S0-40
    Kind.UNAVAILABLE: 503,
    Kind.DEADLINE: 504,
    Kind.CANCELLED: 499,  # nobody reads it: the client is gone
    Kind.MODEL: 500,
    Kind.INTERNAL: 500,
}
# The Open Inference Protocol knows 400 for everything that is wrong with a request.
OIP_STATUSES: Mapping[Kind, int] = {**STATUSES, Kind.SCHEMA: 400}

ErrorBody = Callable[[FairleadError], bytes]


def shape_for(path: bytes) -> tuple[Mapping[Kind, int], ErrorBody]:
    """The statuses and the error body of the dialect a path belongs to."""
    if path == b"/v2" or path.startswith(b"/v2/"):
        return OIP_STATUSES, oip_rest.error_body
    return STATUSES, project.error_body
