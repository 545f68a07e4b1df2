"""The key that older speech services had: in the body, beside the text (S0-31).

Their gateway checked its callers' own keys and then wrote the service's into the body, unless one stood there (S0-7).
Ours says who calls in a header instead, which nobody else can send: that is as good. Whoever comes past it, or
sends a key of his own, is asked for one of those that the node's environment holds.
"""

from __future__ import annotations

import hmac
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from fairlead.api.speech import SpeechRefused
from fairlead.api.speech_codes import Code
from fairlead.domain.errors import Kind

NAME = "api_key"
NOT_PROVIDED = "API key was not provided."
NOT_VALID = "API key is not valid."
_BEARER = "bearer "


@dataclass(frozen=True, slots=True)
class LegacyKeys:
    """The keys that are let in. `known`: the gateway has let this caller in already."""

    keys: tuple[str, ...] = field(repr=False)

    def check(self, asked: Mapping[str, Any], *, known: bool) -> None:
        """Raises SpeechRefused (UNAUTHENTICATED) unless the request shows a key or needs none."""
        if NAME not in asked:
            if known:
                return
            raise _refused(Code.MISSING_ARGUMENT, NOT_PROVIDED)
        self._check(asked[NAME])

    def check_bearer(self, authorization: str, *, known: bool) -> None:
        """The same for OpenAI's clients, which send theirs as `Authorization: Bearer …`."""
        if known:
            return
        if not authorization.lower().startswith(_BEARER):
            raise _refused(Code.INVALID_API_KEY, NOT_PROVIDED)
        self._check(authorization[len(_BEARER) :].strip())

    def _check(self, key: object) -> None:
        lengths = [len(one) for one in self.keys]
        if not lengths:
            raise _refused(Code.INVALID_API_KEY, NOT_VALID)
        if not isinstance(key, str) or not min(lengths) <= len(key) <= max(lengths):
            message = (
                f"API key must be a string between {min(lengths)} and {max(lengths)} characters."
            )
            raise _refused(Code.INVALID_API_KEY, message)
        sent = key.encode("utf-8", "surrogatepass")
        # All of them, each in constant time: how long it takes tells nothing.
        fits = [
            hmac.compare_digest(one.encode("utf-8", "surrogatepass"), sent) for one in self.keys
        ]
        if True not in fits:
            raise _refused(Code.INVALID_API_KEY, NOT_VALID)


def _refused(code: Code, message: str) -> SpeechRefused:
    return SpeechRefused(code, message, Kind.UNAUTHENTICATED)
