"""How HTTP says what went wrong: the statuses, and the shape each dialect wants."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from fairlead.api.http_status import ERROR_CODE, HTTP_STATUS
from fairlead.dialects import oip_rest, project
from fairlead.domain.errors import FairleadError, Kind

STATUSES = HTTP_STATUS
# The Open Inference Protocol knows 400 for everything that is wrong with a request.
OIP_STATUSES: Mapping[Kind, int] = {**STATUSES, Kind.SCHEMA: 400}

ErrorBody = Callable[[FairleadError], bytes]


def error_code(kind: Kind) -> tuple[bytes, bytes]:
    """The header that names an error's kind."""
    return ERROR_CODE.encode(), kind.value.encode()


def shape_for(path: bytes) -> tuple[Mapping[Kind, int], ErrorBody]:
    """The statuses and the error body of the dialect a path belongs to."""
    if path == b"/v2" or path.startswith(b"/v2/"):
        return OIP_STATUSES, oip_rest.error_body
    return STATUSES, project.error_body
