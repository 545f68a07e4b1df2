"""The tables of the hot routes, made once when models are loaded: path as sent to endpoint and handler.

A path may lead to several revisions of a service (stand-alone only); then the header Accept-Version
chooses, and a version that is not here is an error, never another version.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Generic, TypeVar

from fairlead.api import grpc_status
from fairlead.api.deadlines import is_impatient
from fairlead.api.http_status import NO_FAULT
from fairlead.api.pieces import LARGE_BYTES
from fairlead.api.streaming import streams
from fairlead.api.worker import INFER_PATH, PREDICT_PATH, ServingSettings, WorkerSpec
from fairlead.domain.errors import FairleadError, Kind, Refused
from fairlead.domain.ids import DEFAULT_ENDPOINT, LATEST, RevisionId
from fairlead.domain.versions import version_key
from fairlead.server.dataplane import DataPlane
from fairlead.server.endpoint import Endpoint
from fairlead.server.http.errors import error_code, shape_for
from fairlead.server.http.handlers import (
    HEADER_LENGTH,
    Handler,
    Headers,
    grpc_handler,
    oip_handler,
    project_handler,
)
from fairlead.server.loading import LoadedArtifact
from fairlead.server.stats import RouteStats

_log = logging.getLogger(__name__)
T = TypeVar("T")
HeaderList = list[tuple[bytes, bytes]]
ACCEPT_VERSION = b"accept-version"
_GRPC_INFER = f"/{grpc_status.SERVICE}/ModelInfer"
_GRPC_STREAM = f"/{grpc_status.SERVICE}/ModelStreamInfer"
_BY_ARTIFACT_VERSION = "/versions/{v}"
_NO_FAULT = (NO_FAULT.encode(), b"deadline")
_GRPC_STATUS = grpc_status.STATUS.encode()
_GRPC_MESSAGE = grpc_status.MESSAGE.encode()
_HOW_IT_WENT = (_GRPC_STATUS, _GRPC_MESSAGE)
_KNOWN_STATUSES = frozenset(HTTPStatus)
_LATEST = LATEST.encode()
STREAM = b"ModelStreamInfer"  # the value of GRPC on a stream
GRPC = (
    grpc_status.MARKER.encode()
)  # on a request: it is a gRPC call that the gateway has translated


@dataclass(frozen=True, slots=True)
class ServedRevision:
    """A revision that is loaded here."""

    spec: WorkerSpec
    artifact: LoadedArtifact

    @property
    def revision(self) -> RevisionId:
        return self.spec.revision

    def headers(self) -> HeaderList:
        """What says who answered, on every answer."""
        return [
            (b"x-served-version", self.revision.served_version.encode()),
            (b"x-artifact-digest", self.artifact.digest.encode()),
        ]


class HotRoute:
    """One path of one endpoint, with all that an answer needs and does not depend on the request."""

    packs = True  # are answers compressed for who asks for that?
    __slots__ = (
        "binary_headers",
        "deadline_seconds",
        "endpoint",
        "error_body",
        "grpc",
        "handler",
        "head",
        "json_headers",
        "most_fast_bytes",
        "stats",
        "statuses",
        "stream",
    )

    def __init__(
        self, endpoint: Endpoint, handler: Handler, served: ServedRevision, stats: RouteStats
    ) -> None:
        self.endpoint = endpoint
        # The same in another dialect: for calls with the header GRPC, and for streams of them.
        self.grpc: GrpcRoute | None = None
        self.stream: GrpcRoute | None = None
        self.handler = handler
        self.deadline_seconds = served.spec.deadline_seconds
        # Of a body that is decoded on the event loop; what is larger goes through ASGI, which knows how to refuse it.
        self.most_fast_bytes = min(LARGE_BYTES, served.spec.settings.body_limit_bytes)
        self.stats = stats
        self.statuses, self.error_body = shape_for(stats.template.encode())
        self.json_headers = [(b"content-type", b"application/json"), *served.headers()]
        self.head = head_of(HTTPStatus.OK, self.json_headers)
        self.binary_headers = [(b"content-type", b"application/octet-stream"), *served.headers()]

    def wire(self, status: int) -> int:
        """The status that goes over the wire for one of HTTP's, by which we count."""
        return status

    def binary(self, json_length: int) -> HeaderList:
        """The headers of an answer whose first `json_length` bytes are JSON."""
        return [*self.binary_headers, (HEADER_LENGTH, b"%d" % json_length)]

    def failure(
        self, error: Exception, identity: bytes, asked: Headers
    ) -> tuple[int, bytes, HeaderList]:
        """Note what went wrong; the status, what the caller may read of it, and the headers. `asked`: the request's.

        Not the error itself: its traceback holds the request's frames, and a frame that holds it in turn
        keeps megabytes of body until the garbage collector comes by.
        """
        shown = self.noted(error, identity)
        body, headers = self.worded(shown)
        headers = [*headers, error_code(shown.kind)]
        if shown.kind is Kind.DEADLINE and is_impatient(asked, self.endpoint.deadline_seconds):
            headers.append(_NO_FAULT)
        return self.statuses[shown.kind], body, headers

    def noted(self, error: Exception, identity: bytes) -> FairleadError:
        """Note what went wrong; what the caller may know of it."""
        extra = {"request_id": identity.decode("latin-1"), "endpoint": str(self.endpoint.id)}
        name = type(error).__name__
        if not isinstance(error, FairleadError):
            _log.error("a request failed in the server", exc_info=error, extra=extra)
            error = Refused(Kind.INTERNAL, "the server failed on this request; its log says why")
        elif error.kind in (Kind.MODEL, Kind.INTERNAL):
            _log.error("a request failed: %s", error.message, extra=extra)
        if error.kind in (Kind.MODEL, Kind.INTERNAL):
            self.stats.exception(name)
        self.stats.error(error.kind)
        return error

    def worded(self, error: FairleadError) -> tuple[bytes, HeaderList]:
        """An error in the words of this route's dialect."""
        return self.error_body(error), self.json_headers


class GrpcRoute(HotRoute):
    """A route for gRPC calls: always 200; how it went stands in headers that the gateway makes trailers."""

    packs = False  # a compressed answer would be no message; the gateway says how a compressed question is
    __slots__ = ("_about", "stream_headers", "warm")

    def __init__(
        self, endpoint: Endpoint, handler: Handler, served: ServedRevision, stats: RouteStats
    ) -> None:
        super().__init__(endpoint, handler, served, stats)
        self.warm = False  # has it been asked before? The first call loads protobuf, aside
        self._about = [(b"content-type", grpc_status.PROTOBUF.encode()), *served.headers()]
        self.json_headers = [*self._about, (_GRPC_STATUS, b"0")]
        self.head = head_of(HTTPStatus.OK, self.json_headers)
        self.stream_headers = [
            (b"content-type", grpc_status.FRAMES.encode()),
            (_GRPC_STATUS, b"0"),
            *served.headers(),
        ]

    def wire(self, status: int) -> int:
        del status
        return HTTPStatus.OK

    def failure(
        self, error: Exception, identity: bytes, asked: Headers
    ) -> tuple[int, bytes, HeaderList]:
        status, body, headers = super().failure(error, identity, asked)
        # The gateway's bridge changes neither a call whose head was all there was of it, nor what is answered.
        unbridged = asked.get(b"content-type", b"").startswith(b"application/grpc")
        return status, body, [*headers, *as_trailers(headers)] if unbridged else headers

    def worded(self, error: FairleadError) -> tuple[bytes, HeaderList]:
        code = b"%d" % grpc_status.GRPC_STATUS[error.kind]
        message = grpc_status.encoded(error.message).encode()
        return b"", [*self._about, (_GRPC_STATUS, code), (_GRPC_MESSAGE, message)]


def as_trailers(headers: HeaderList) -> HeaderList:
    """What these say of how a call went, as gRPC itself says it."""
    return [(name.removeprefix(b"x-"), value) for name, value in headers if name in _HOW_IT_WENT]


def head_of(status: int, headers: HeaderList) -> bytes:
    """The start of an answer as it goes over the wire; more headers and the empty line follow."""
    phrase = HTTPStatus(status).phrase.encode() if status in _KNOWN_STATUSES else b""
    lines = [b"HTTP/1.1 %d %b\r\n" % (status, phrase)]
    lines += [b"%b: %b\r\n" % header for header in headers]
    return b"".join(lines)


class ByVersion(Generic[T]):
    """What answers, by version word; or one for all, where a gateway has chosen already."""

    __slots__ = ("_by_word", "elsewhere", "only")

    def __init__(self) -> None:
        self.only: T | None = None
        self.elsewhere: set[str] = set()  # words that are right for the service, not for this path
        self._by_word: dict[bytes, T] = {}  # as the header says it

    def put(self, served: ServedRevision, item: T, *, versioned: bool) -> None:
        """What is put later is what less exact words mean."""
        if not versioned:
            self.only = item
            return
        for word in (served.revision.served_version, served.revision.line, LATEST):
            self._by_word[word.encode()] = item

    def choose(self, headers: Headers) -> T:
        """Raises Refused: NOT_FOUND with the versions that are here, INVALID for a contradiction."""
        if self.only is not None:
            return self.only
        sent = headers.get(ACCEPT_VERSION, _LATEST)
        item = self._by_word.get(sent)
        if item is not None:
            return item
        word = sent.decode("latin-1")
        if word in self.elsewhere:
            message = (
                f"the path asks for one version, Accept-Version for {word}: send one of the two"
            )
            raise Refused(Kind.INVALID, message)
        words = (one.decode() for one in self._by_word)
        versions = sorted((one for one in words if "." in one), key=version_key)
        raise Refused(
            Kind.NOT_FOUND, f"no version {word!r:.80} here; versions: {', '.join(versions)}"
        )


class HotPath(ByVersion[HotRoute]):
    """Who runs models for a path. `request_line`: how a request for it begins."""

    __slots__ = ("request_line",)

    def __init__(self, path: bytes) -> None:
        super().__init__()
        self.request_line = b"POST %b HTTP/1.1\r\n" % path


def in_order(served: Sequence[ServedRevision]) -> list[ServedRevision]:
    """The highest version of each line and service last."""
    return sorted(served, key=lambda one: version_key(one.revision.served_version))


def hot_paths(
    served: Sequence[ServedRevision],
    plane: DataPlane,
    settings: ServingSettings,
    *,
    versioned: bool,
) -> dict[bytes, HotPath]:
    """Every path that runs a model. `versioned`: Accept-Version is ours to judge (no gateway has)."""
    table: dict[bytes, HotPath] = {}
    words: dict[str, set[str]] = {}
    for one in in_order(served):
        known = words.setdefault(one.revision.service, set())
        known |= {one.revision.served_version, one.revision.line}
        for path, route in _routes(one, plane, settings):
            hot = table.setdefault(path.encode(), HotPath(path.encode()))
            hot.put(one, route, versioned=versioned)
            if _BY_ARTIFACT_VERSION in route.stats.template:
                hot.elsewhere = known
    return table


def _routes(
    served: ServedRevision, plane: DataPlane, settings: ServingSettings
) -> Iterator[tuple[str, HotRoute]]:
    name = served.revision.service
    model = served.artifact.model
    version = served.artifact.manifest.ref.version
    predict = project_handler(model)
    infer = oip_handler(model, name, version, served.artifact.manifest.labels)
    called = grpc_handler(model, name, version, served.artifact.manifest.labels)
    default = served.spec.endpoint_id(DEFAULT_ENDPOINT)
    grpc_stats = plane.stats.route(_GRPC_INFER, "POST", default)
    stream_stats = plane.stats.route(_GRPC_STREAM, "POST", default)
    standard = [
        ("/v2/models/{m}/infer", infer),
        (f"/v2/models/{{m}}{_BY_ARTIFACT_VERSION}/infer", infer),
    ]
    if settings.add_model_predict:
        standard.append((f"{settings.root}/model/{{m}}/predict", predict))
    proving = [] if served.spec.has_default else [(PREDICT_PATH, predict), (INFER_PATH, infer)]
    for one in served.spec.endpoints:
        endpoint = plane.find(served.spec.endpoint_id(one.name))
        # What streams has a table of its own for its paths.
        routes = [] if streams(model) else [(path, predict) for path in one.paths]
        if one.name == DEFAULT_ENDPOINT:
            routes += standard
        routes += proving
        proving = []  # the first endpoint is enough
        for template, handler in routes:
            stats = plane.stats.route(template, "POST", endpoint.id)
            path = template.replace("{m}", name).replace("{v}", str(version))
            route = HotRoute(endpoint, handler, served, stats)
            if handler is infer:
                route.grpc = GrpcRoute(endpoint, called, served, grpc_stats)
                route.stream = GrpcRoute(endpoint, called, served, stream_stats)
            yield path, route
