"""What HTTP calls each kind of error: the one table of the gateway and the model server.

A dialect that knows fewer statuses overrides its own: `{**HTTP_STATUS, Kind.SCHEMA: 400}`.
"""

from __future__ import annotations

from collections.abc import Mapping

from fairlead.domain.errors import Kind

ERROR_CODE = (
    "x-error-code"  # on every error answer: the kind, which docs/reference/errors.md explains
)
# On an answer of 5xx that says nothing about the worker: the gateway's kill switch does not count it, and the
# gateway takes it off.
NO_FAULT = "x-fairlead-no-fault"

HTTP_STATUS: Mapping[Kind, int] = {
    Kind.INVALID: 400,
    Kind.SCHEMA: 422,
    Kind.UNAUTHENTICATED: 401,
    Kind.FORBIDDEN: 403,
    Kind.NOT_FOUND: 404,
    Kind.METHOD: 405,
    Kind.FORMAT: 406,
    Kind.ENCODING: 415,
    Kind.CONFLICT: 409,
    Kind.TOO_LARGE: 413,
    Kind.OVERLOADED: 503,  # S0-40
    Kind.QUOTA: 429,
    Kind.UNAVAILABLE: 503,
    Kind.DEADLINE: 504,
    Kind.CANCELLED: 499,  # nobody reads it: the client is gone
    Kind.MODEL: 500,
    Kind.INTERNAL: 500,
}
