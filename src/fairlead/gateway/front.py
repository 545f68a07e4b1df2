"""The front desk: answers whatever Envoy sends to no worker.

It asks the resolver again, with the path exactly as it was sent, and words what comes out: a refusal, or
one of the pages that belong to no service. Envoy has checked the key before: `x-client` says whose it was
(a caller cannot send it), `x-fairlead-key` that the key was such that Envoy should not judge it.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from typing import Any, cast

import xxhash
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from fairlead.api.http_status import ERROR_CODE, HTTP_STATUS
from fairlead.domain.errors import Kind
from fairlead.domain.paths import CONFIG, STATS, ModelPath, OpenPath, parse_path
from fairlead.domain.routing import (
    BAD_KEY,
    DUPLICATE_KEY,
    NO_KEY,
    Ask,
    Forward,
    Open,
    Refusal,
    bucket_of,
    route,
)
from fairlead.gateway.called import Visit, answered, is_ours, streams, unpacked_beginning
from fairlead.gateway.called_streams import DeskStreams
from fairlead.gateway.listener import CLIENT_HEADER, MARK_HEADER
from fairlead.gateway.replies import CHALLENGE, body_key
from fairlead.gateway.routes import DUPLICATE, MALFORMED, needs_key
from fairlead.gateway.settings import GatewaySettings
from fairlead.gateway.state import View
from fairlead.kits.clock import Clock, SystemClock

_MARKED = {DUPLICATE: DUPLICATE_KEY, MALFORMED: BAD_KEY}
# A body is taken off the wire up to here, even if nobody reads it: so the connection can be used again.
_MOST_BYTES = 1 << 20
_FIRST_ERROR = 400
# Pages about a model that Envoy leads here, because no worker knows all of it.
ANSWERED_HERE = frozenset({CONFIG, STATS})
_LONGEST_REASON = 300  # characters that the access log keeps
_MOVING = "the routes to this service are moving: try again"


Page = Callable[[Visit], Awaitable[Response | Refusal]]


class FrontDesk:
    """The ASGI app. `pages` answers each open path by its name in `domain.paths`."""

    def __init__(
        self,
        view: View,
        settings: GatewaySettings,
        pages: Mapping[str, Page],
        clock: Clock | None = None,
    ) -> None:
        self._view = view
        self._settings = settings
        self._pages = pages
        self._streams = DeskStreams(self._standing, clock or SystemClock())

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            raise RuntimeError(f"the front desk knows no {scope['type']}")
        headers: dict[str, str] = {}
        for name, value in scope["headers"]:
            key, text = name.decode("latin-1").lower(), value.decode("latin-1")
            headers[key] = f"{headers[key]},{text}" if key in headers else text
        path = scope["raw_path"].decode("latin-1")
        body = b"" if streams(headers) else await _body(receive)
        visit = Visit(scope["method"], path, headers, body)
        if is_ours(headers):
            await self._streams.run(visit, receive, send)
            return
        response = unpacked_beginning(visit) or await answered(visit, self.answer)
        await response(scope, receive, send)

    async def answer(self, visit: Visit) -> Response:
        """The page, or the refusal."""
        refused = self._unwelcome(visit)
        answer = refused if refused is not None else await self._answer(visit)
        if isinstance(answer, Response):
            return answer
        response = refusal_response(visit, answer, self._settings.api_version)
        response.headers["server-timing"] = how_it_went(visit, answer)
        return response

    async def _answer(self, visit: Visit) -> Response | Refusal:
        outcome = self._decide(visit)
        if isinstance(outcome, Open):
            return await self._pages[outcome.name](visit)
        if isinstance(outcome, Forward):
            action = cast("ModelPath", parse_path(visit.path, self._settings.api_version)).action
            return await self._pages[action](replace(visit, forward=outcome))
        return outcome

    async def _standing(self, visit: Visit) -> Kind | None:
        """What would refuse this visit; None if a page or a worker would answer it."""
        refused = self._unwelcome(visit)
        if refused is not None:
            return refused.kind
        index = self._view.index.for_path(visit.path)
        outcome = route(index, _ask(visit), xxhash.xxh64_intdigest)
        if isinstance(outcome, Open):
            page = await self._pages[outcome.name](visit)
            if isinstance(page, Refusal):
                return page.kind
            return None if page.status_code < _FIRST_ERROR else Kind.UNAVAILABLE
        return outcome.kind if isinstance(outcome, Refusal) else None

    def _unwelcome(self, visit: Visit) -> Refusal | None:
        path = parse_path(visit.path, self._settings.api_version)
        if isinstance(path, OpenPath) and not needs_key(path, self._settings):
            return None
        mark = visit.headers.get(MARK_HEADER)
        if mark is not None:
            return Refusal(Kind.UNAUTHENTICATED, _MARKED.get(mark, BAD_KEY))
        if CLIENT_HEADER not in visit.headers:
            return Refusal(Kind.UNAUTHENTICATED, NO_KEY)
        key = self._view.index.table.keys.get(visit.headers[CLIENT_HEADER])
        asks = isinstance(path, OpenPath) and not path.keyed  # else it is the resolver's to say
        if asks and key is not None and key.killed:
            return Refusal(Kind.FORBIDDEN, key.killed)
        return None

    def _decide(self, visit: Visit) -> Open | Forward | Refusal:
        """`Forward` only for the pages about a model that are answered here."""
        ask = _ask(visit)
        path = parse_path(visit.path, self._settings.api_version)
        if isinstance(path, ModelPath) and path.action in ANSWERED_HERE:
            return route(self._view.index.for_path(visit.path), ask, xxhash.xxh64_intdigest)
        for index in (self._view.index, self._view.previous):
            outcome = route(index.for_path(visit.path), ask, xxhash.xxh64_intdigest)
            if not isinstance(outcome, Forward):
                return outcome
        # Envoy and this process learn of a move one after the other.
        return Refusal(Kind.UNAVAILABLE, _MOVING)


def _ask(visit: Visit) -> Ask:
    return Ask(
        visit.method,
        visit.path,
        visit.headers.get(CLIENT_HEADER, ""),
        visit.headers.get("accept-version"),
        visit.headers.get("x-sticky-key"),
    )


def refusal_response(visit: Visit, refusal: Refusal, api_version: str) -> Response:
    """A refusal in the shape its path asks for."""
    status = HTTP_STATUS[refusal.kind]
    headers = {ERROR_CODE: str(refusal.kind)}
    if refusal.kind is Kind.UNAUTHENTICATED:
        headers["www-authenticate"] = CHALLENGE
    if refusal.retry_seconds:
        headers["retry-after"] = str(refusal.retry_seconds)
    if refusal.kind is Kind.METHOD:
        headers["allow"] = ", ".join(parse_path(visit.path, api_version).methods)
    return json_response({body_key(visit.path): refusal.message}, status, headers)


def json_response(
    document: Mapping[str, Any] | list[Any],
    status: int = 200,
    headers: Mapping[str, str] | None = None,
) -> Response:
    body = json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode()
    return Response(body, status, dict(headers or {}), "application/json")


def how_it_went(visit: Visit, refusal: Refusal) -> str:
    """For the access log, in the header by which workers say how a request went: why it was refused."""
    kept = "".join(sign if " " <= sign <= "~" else "?" for sign in refusal.message)
    reason = kept[:_LONGEST_REASON].replace("\\", "\\\\").replace('"', '\\"')
    ask = _ask(visit)
    bucket = f", bucket;desc={bucket_of(ask, xxhash.xxh64_intdigest)}" if ask.client else ""
    return f'refusal;desc="{reason}"{bucket}'


async def _body(receive: Receive) -> bytes:
    """What few pages read; one that is too long is cut, which makes it nonsense."""
    body = bytearray()
    while len(body) < _MOST_BYTES:
        message = await receive()
        body += message.get("body", b"")
        if message["type"] != "http.request" or not message.get("more_body", False):
            break
    return bytes(body[:_MOST_BYTES])
