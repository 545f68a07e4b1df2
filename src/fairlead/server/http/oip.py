"""The Open Inference Protocol besides inference: metadata, configuration, statistics, repository (S1-G 39, 40, 42).

Answered without a framework: dashboards ask a worker for its statistics every few seconds. What loads and
unloads models is the stand-alone server's alone (`control`); a worker serves what its agent tells it to.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Protocol, TypeVar

import msgspec

import fairlead
from fairlead.dialects import oip_model
from fairlead.domain.errors import Kind, Refused
from fairlead.domain.ids import DEFAULT_ENDPOINT
from fairlead.domain.paths import (
    CONFIG,
    INFER,
    METADATA,
    READY,
    STATS,
    CustomPath,
    ModelPath,
    OpenPath,
    extension_of,
    parse_path,
)
from fairlead.kits.clock import Clock
from fairlead.server.dataplane import DataPlane
from fairlead.server.endpoint import Endpoint
from fairlead.server.executions import statistics, total
from fairlead.server.http.handlers import Headers
from fairlead.server.http.routes import HeaderList, ServedRevision
from fairlead.server.http.shelf import Shelf

_ROOTS = ("/v2", "/v2/")
Told = tuple[Any, HeaderList]  # what becomes JSON, and headers of its own
NO_CONTROL = (
    "models are not loaded and unloaded here: the agent of this node decides what its workers serve"
)


class Control(Protocol):
    """Loading and unloading at a caller's wish."""

    def index(self) -> list[dict[str, str]]:
        """Every model there could be, with its state."""
        ...

    async def load(self, name: str, parameters: Mapping[str, Any]) -> None:
        """Raises FairleadError if it cannot be loaded."""
        ...

    async def unload(self, name: str) -> None:
        """Raises FairleadError if there is no such model."""
        ...

    def missing(self, name: str) -> str | None:
        """Why a known model is not served right now; None if it is unknown, or is served."""
        ...

    def missing_at(self, path: str) -> str | None:
        """The same in words, for a path that is such a model's outside /v2."""
        ...


def unavailable(name: str, reason: str) -> str:
    """What a caller is told of a known model that is not served right now."""
    return f"{name!r} has no available versions: {reason}"


class _IndexBody(msgspec.Struct):
    ready: bool = False


class _ControlBody(msgspec.Struct):
    parameters: dict[str, Any] = {}


class OipPages:
    """Everything under /v2 that no model and no health check answers."""

    def __init__(self, plane: DataPlane, clock: Clock) -> None:
        self.control: Control | None = None
        self.no_control = NO_CONTROL
        self._plane = plane
        self._clock = clock
        self._shelf = Shelf((), versioned=False)
        self._pages: Mapping[str, Callable[[ModelPath, Headers], Told]] = {
            METADATA: self._metadata,
            CONFIG: self._config,
            STATS: self._stats,
            READY: self._unknown,
            INFER: self._unknown,
        }

    def serve(self, served: Sequence[ServedRevision], *, versioned: bool) -> None:
        self._shelf = Shelf(served, versioned=versioned)

    def missing_at(self, path: bytes) -> str | None:
        """Why nobody answers at a path outside /v2, if it belongs to a model that is not served right now."""
        if self.control is None:
            return None
        return self.control.missing_at(path.decode("latin-1"))

    @staticmethod
    def answers(path: bytes) -> bool:
        return path.startswith(b"/v2/") or path == b"/v2"

    async def tell(
        self, method: str, path: str, headers: Headers, body: Callable[[], Awaitable[bytes]]
    ) -> tuple[str, Told]:
        """The page, and the template of its path for the metrics; raises FairleadError."""
        match = OpenPath(path, "v2", ("GET",)) if path in _ROOTS else parse_path(path, "")
        if isinstance(match, CustomPath):
            raise Refused(Kind.NOT_FOUND, f"nothing answers {path[:200]}")
        allowed = match.methods
        if method not in allowed and not (method == "HEAD" and "GET" in allowed):
            message = f"{method} is not for this path; use {' or '.join(allowed)}"
            raise Refused(Kind.METHOD, message)
        if isinstance(match, ModelPath):
            version = "" if match.artifact_version is None else "/versions/{v}"
            action = "" if match.action == METADATA else f"/{match.action}"
            return f"/v2/models/{{m}}{version}{action}", self._pages[match.action](match, headers)
        return await self._open(match, body)

    async def _open(
        self, match: OpenPath, body: Callable[[], Awaitable[bytes]]
    ) -> tuple[str, Told]:
        if match.name == "v2":
            document = oip_model.server_metadata(fairlead.__version__)
            return "/v2", ({**document, "extensions": self._extensions()}, [])
        if match.name == "v2_stats":
            return match.path, (self._statistics(self._shelf.all), [])
        if match.name == "v2_index":
            return match.path, (self._index(await body()), [])
        if match.name == "v2_control":
            return await self._change(match.path, await body())
        name = extension_of(match.path)
        known = ", ".join(self._extensions())
        raise Refused(
            Kind.NOT_FOUND, f"the extension {name} is not served here; extensions: {known}"
        )

    def _extensions(self) -> list[str]:
        """Those that are really here."""
        absent = "" if self.control is not None else "model_repository"
        return [name for name in oip_model.EXTENSIONS if name != absent]

    def _find(self, match: ModelPath, headers: Headers) -> ServedRevision:
        reason = self.control.missing(match.service) if self.control is not None else None
        if reason is not None:
            message = f"Request for unknown model: {unavailable(match.service, reason)}"
            raise Refused(Kind.UNAVAILABLE, message)
        return self._shelf.find(headers, match.service, match.artifact_version)

    def _metadata(self, match: ModelPath, headers: Headers) -> Told:
        found = self._find(match, headers)
        manifest = found.artifact.manifest
        document = oip_model.metadata(
            match.service,
            self._shelf.versions(match.service),
            oip_model.PLATFORMS[manifest.engine],
            found.artifact.model.signature,
        )
        return document, found.headers()

    def _config(self, match: ModelPath, headers: Headers) -> Told:
        found = self._find(match, headers)
        manifest = found.artifact.manifest
        endpoint = self._plane.find(found.spec.endpoint_id(DEFAULT_ENDPOINT))
        facts = oip_model.ModelFacts(
            match.service,
            self._shelf.versions(match.service),
            manifest.engine,
            manifest.entry,
            found.artifact.model.signature,
            manifest.labels,
            instances=max(1, endpoint.admission.slots),
            max_batch_size=_most_rows(endpoint),
        )
        return oip_model.configuration(facts), found.headers()

    def _stats(self, match: ModelPath, headers: Headers) -> Told:
        found = self._find(match, headers)
        if match.artifact_version is not None:
            return self._statistics([found]), found.headers()
        return self._statistics(self._shelf.named(match.service)), []

    def _unknown(self, match: ModelPath, headers: Headers) -> Told:
        """Only what is not served comes here."""
        self._find(match, headers)
        raise Refused(Kind.NOT_FOUND, f"nothing answers {match.path[:200]}")

    def _statistics(self, served: Sequence[ServedRevision]) -> dict[str, Any]:
        entries = [
            oip_model.model_statistics(
                one.revision.service, one.artifact.manifest.ref.version, self._counts(one)
            )
            for one in served
        ]
        return {"model_stats": oip_model.merged(entries)}

    def _counts(self, one: ServedRevision) -> dict[str, Any]:
        parts = [
            self._plane.find(one.spec.endpoint_id(endpoint.name)).executions
            for endpoint in one.spec.endpoints
        ]
        whole = total(parts)
        return statistics(whole, self._clock.monotonic() - whole.last, self._clock.now())

    def _index(self, body: bytes) -> list[dict[str, str]]:
        asked = _read(body, _IndexBody)
        if self.control is not None:
            entries = self.control.index()
        else:
            entries = [
                oip_model.index_entry(
                    one.revision.service, one.artifact.manifest.ref.version, oip_model.READY
                )
                for one in self._shelf.all
            ]
        return [one for one in entries if not asked.ready or one["state"] == oip_model.READY]

    async def _change(self, path: str, body: bytes) -> tuple[str, Told]:
        *_, name, action = path.split("/")
        asked = _read(body, _ControlBody)
        if self.control is None:
            raise Refused(Kind.FORBIDDEN, f"failed to {action} {name!r:.80}: {self.no_control}")
        if action == "load":
            await self.control.load(name, asked.parameters)
        else:
            await self.control.unload(name)
        return f"/v2/repository/models/{{m}}/{action}", ({}, [])


def _most_rows(endpoint: Endpoint) -> int:
    """Of one run; 0 if no two requests share any. On the event loop they do without a batcher."""
    if endpoint.batcher is not None:
        return endpoint.batcher.most
    return endpoint.most_together if endpoint.most_together > 1 else 0


_T = TypeVar("_T", _IndexBody, _ControlBody)


def _read(body: bytes, kind: type[_T]) -> _T:
    if not body.strip():
        return kind()
    try:
        return msgspec.json.decode(body, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise Refused(Kind.INVALID, f"the body is wrong: {error}".replace("`", "'")) from None
