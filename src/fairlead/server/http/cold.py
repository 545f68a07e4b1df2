"""Everything but running models: health and metrics at once, the rest by an app that is built when needed."""

from __future__ import annotations

import asyncio
import functools
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence

import msgspec

from fairlead.api.worker import ServingSettings
from fairlead.domain.errors import FairleadError, Kind, Refused
from fairlead.kits.clock import Clock
from fairlead.server.dataplane import DataPlane
from fairlead.server.http.errors import error_code, shape_for
from fairlead.server.http.exchange import (
    Bodies,
    Holding,
    Message,
    Receive,
    Scope,
    Send,
    answer,
    log_access,
    read_body,
    request_id,
)
from fairlead.server.http.oip import OipPages
from fairlead.server.http.plain import Plain, PlainRoutes
from fairlead.server.http.routes import HeaderList, ServedRevision
from fairlead.server.http.timing import as_header, bucket_only

_log = logging.getLogger(__name__)
_OK = 200
_NOT_ALLOWED = 405
_MOST_BYTES = 64 * 1024  # of a body that asks for no inference
_JSON = (b"content-type", b"application/json")
_App = Callable[[Scope, Receive, Send], Awaitable[None]]


class Cold:
    """The routes whose speed does not matter; `plain` holds those whose cost still does."""

    def __init__(
        self,
        plane: DataPlane,
        settings: ServingSettings,
        clock: Clock,
        identity: Mapping[str, object],
        pod_name: str,
    ) -> None:
        self.plain = PlainRoutes(plane, settings, identity, pod_name)
        self.oip = OipPages(plane, clock)
        self._stats = plane.stats
        self._settings = settings
        self._now = clock.monotonic
        self._served: Sequence[ServedRevision] = ()
        self._versioned = False
        self._site: _App | None = None
        self._building = asyncio.Lock()

    def serve(self, served: Sequence[ServedRevision], *, versioned: bool) -> None:
        self._served = served
        self._versioned = versioned
        self._site = None
        self.plain.serve(served)
        self.oip.serve(served, versioned=versioned)

    def forget(self) -> None:
        self._served, self._site = (), None
        self.plain.forget()
        self.oip.serve((), versioned=False)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        plain = self.plain.find(scope["raw_path"])
        if plain is None and not self.plain.ready:
            error = Refused(Kind.UNAVAILABLE, "not ready: no model is loaded here yet")
            await self.refuse(scope, error, send)
        elif plain is None and self.oip.answers(scope["raw_path"]):
            await self._tell_oip(scope, receive, send)
        elif plain is None and (missing := self.oip.missing_at(scope["raw_path"])) is not None:
            await self.refuse(scope, Refused(Kind.UNAVAILABLE, missing), send)
        elif plain is None:
            await self._browse(scope, receive, send)
        elif scope["method"] not in plain.methods:
            message = f"{scope['method']} is not for this path; use {plain.methods[0]}"
            allow = ", ".join(plain.methods).encode()
            await self.refuse(scope, Refused(Kind.METHOD, message), send, allow=allow)
        else:
            await self._tell(plain, scope, send)

    async def refuse(
        self, scope: Scope, error: FairleadError, send: Send, *, allow: bytes | None = None
    ) -> None:
        """Answer an error in the shape of the path's dialect."""
        statuses, error_body = shape_for(scope["raw_path"])
        identity = request_id(dict(scope["headers"]))
        headers = [_JSON, error_code(error.kind), (b"x-request-id", identity)]
        headers += _bucket(scope)
        if allow is not None:
            headers.append((b"allow", allow))
        status = statuses[error.kind]
        await answer(send, status, error_body(error), headers)
        if self._settings.access_log:
            log_access(scope, status, identity)

    async def _tell(self, plain: Plain, scope: Scope, send: Send) -> None:
        start = self._now()
        status, kind, body = await plain.reply()
        identity = request_id(dict(scope["headers"]))
        headers = [(b"content-type", kind), (b"x-request-id", identity), *plain.headers]
        headers += _bucket(scope)
        plain.stats.count(status, self._now() - start)
        await answer(send, status, body, headers)

    async def _tell_oip(self, scope: Scope, receive: Receive, send: Send) -> None:
        start = self._now()
        sent = dict(scope["headers"])
        body = functools.partial(
            read_body, receive, sent, _MOST_BYTES, Holding(Bodies(2 * _MOST_BYTES))
        )
        method, path = scope["method"], scope["raw_path"].decode("latin-1")
        try:
            template, (document, own) = await self.oip.tell(method, path, sent, body)
        except Exception as error:  # noqa: BLE001 - whatever it is, the caller gets an answer
            await self._refuse_oip(scope, error, send)
            return
        identity = request_id(sent)
        headers = [_JSON, (b"x-request-id", identity), *own, *_bucket(scope)]
        counted = "GET" if method == "HEAD" else method
        self._stats.route(template, counted).count(_OK, self._now() - start)
        await answer(send, _OK, msgspec.json.encode(document), headers)
        if self._settings.access_log:
            log_access(scope, _OK, identity)

    async def _refuse_oip(self, scope: Scope, error: Exception, send: Send) -> None:
        if not isinstance(error, FairleadError):
            _log.error("a request failed in the server", exc_info=error)
            error = Refused(Kind.INTERNAL, "the server failed on this request; its log says why")
        allow = None
        if error.kind is Kind.METHOD:
            allow = error.message.rpartition(" use ")[2].replace(" or ", ", ").encode()
        await self.refuse(scope, error, send, allow=allow)

    async def _browse(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Hand over to the FastAPI app: undecoded, HEAD as GET, with the request's id on the answer."""
        site = await self._built()
        start = self._now()
        identity = request_id(dict(scope["headers"]))
        status = 500
        inner = {
            **scope,
            "path": scope["raw_path"].decode("latin-1"),  # %2F is not a slash, %61 not an a
            "method": "GET" if scope["method"] == "HEAD" else scope["method"],
        }

        async def send_on(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                own = [(b"x-request-id", identity), *_bucket(scope)]
                message["headers"] = [*message["headers"], *own]
            await send(message)

        await site(inner, receive, send_on)
        template = getattr(inner.get("route"), "path", None)
        if template is not None and status != _NOT_ALLOWED:  # a method of a stranger's is no label
            self._stats.route(template, inner["method"]).count(status, self._now() - start)
        if self._settings.access_log:
            log_access(scope, status, identity)

    async def _built(self) -> _App:
        async with self._building:
            if self._site is None:
                self._site = await asyncio.to_thread(self._build)
            return self._site

    def _build(self) -> _App:
        # Half a second and twenty megabytes that a worker behind a gateway may never need.
        from fairlead.server.http.site import build_site  # noqa: PLC0415 - see above

        return build_site(self._served, self._settings, versioned=self._versioned)


def _bucket(scope: Scope) -> HeaderList:
    """What `Server-Timing` can say of a request that runs nothing."""
    return as_header(bucket_only(dict(scope["headers"]), scope["headers"]))
