"""The cold half: what tells people about the server, as a FastAPI app.

Imported when somebody first asks for it: the framework costs more time and memory than a small model.
The routes that run models are answered elsewhere; here they are only described, with the models' own
schemas.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response
from fastapi_offline import FastAPIOffline

import fairlead
from fairlead.api.worker import ServingSettings
from fairlead.dialects import oip_rest
from fairlead.domain.errors import FairleadError, Kind, Refused
from fairlead.server.http.errors import error_code, shape_for
from fairlead.server.http.openapi import describe
from fairlead.server.http.routes import ByVersion, ServedRevision, in_order

_PLATFORMS = {"onnx": "onnxruntime_onnx", "python": "python"}
_KINDS = {404: Kind.NOT_FOUND, 405: Kind.METHOD}


class Shelf:
    """What is served, by name: for the routes that tell about it."""

    def __init__(self, served: Sequence[ServedRevision], *, versioned: bool) -> None:
        self._by_name: dict[str, ByVersion[ServedRevision]] = {}
        self._by_artifact: dict[tuple[str, str], ServedRevision] = {}
        self._artifact_versions: dict[str, set[int]] = {}
        for one in in_order(served):
            name, version = one.revision.service, one.artifact.manifest.ref.version
            self._by_name.setdefault(name, ByVersion()).put(one, one, versioned=versioned)
            self._by_artifact[name, str(version)] = one
            self._artifact_versions.setdefault(name, set()).add(version)

    def find(self, request: Request, name: str, version: str | None = None) -> ServedRevision:
        """Raises Refused (NOT_FOUND) with what there is."""
        if name not in self._by_name:
            known = ", ".join(self._by_name)
            raise Refused(Kind.NOT_FOUND, f"no model {name!r:.80} here; models: {known}")
        if version is None:
            return self._by_name[name].choose(dict(request.headers.raw))
        found = self._by_artifact.get((name, version))
        if found is None:
            known = ", ".join(map(str, self.versions(name)))
            raise Refused(
                Kind.NOT_FOUND, f"{name} has no version {version!r:.80} here; versions: {known}"
            )
        return found

    def versions(self, name: str) -> list[int]:
        return sorted(self._artifact_versions[name])


def build_site(
    served: Sequence[ServedRevision], settings: ServingSettings, *, versioned: bool
) -> FastAPI:
    app: FastAPI = FastAPIOffline(
        title=settings.fastapi_name, version=fairlead.__version__, redoc_url=None, docs_url="/docs"
    )
    app.add_exception_handler(FairleadError, _answer_error)
    for status in _KINDS:
        app.add_exception_handler(status, _answer_error)
    shelf = Shelf(served, versioned=versioned)
    _add_project(app, shelf, settings)
    _add_oip(app, shelf)
    generate = app.openapi

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = describe(generate(), served, settings)
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign] # the documented way to extend the schema
    return app


def _add_project(app: FastAPI, shelf: Shelf, settings: ServingSettings) -> None:
    @app.get(f"{settings.root}/", tags=["project API"], summary="The application's name")
    async def root() -> dict[str, str]:
        return {"name": settings.fastapi_name}

    if not settings.add_model_bio:
        return

    @app.get(
        f"{settings.root}/model/{{m}}/bio",
        tags=["project API"],
        summary="What a model says of itself",
    )
    async def bio(m: str, request: Request, response: Response) -> dict[str, Any]:
        found = shelf.find(request, m)
        _say_who(response, found)
        return dict(found.artifact.manifest.bio) or {"name": m}


def _add_oip(app: FastAPI, shelf: Shelf) -> None:
    @app.get("/v2", tags=["Open Inference Protocol"], summary="The server")
    async def server() -> dict[str, Any]:
        return oip_rest.server_metadata(fairlead.__version__)

    @app.get("/v2/models/{m}", tags=["Open Inference Protocol"], summary="A model's tensors")
    async def model(m: str, request: Request, response: Response) -> dict[str, Any]:
        return _metadata(shelf, shelf.find(request, m), response)

    @app.get(
        "/v2/models/{m}/versions/{v}",
        tags=["Open Inference Protocol"],
        summary="A version's tensors",
    )
    async def version(m: str, v: str, request: Request, response: Response) -> dict[str, Any]:
        return _metadata(shelf, shelf.find(request, m, v), response)


def _metadata(shelf: Shelf, found: ServedRevision, response: Response) -> dict[str, Any]:
    _say_who(response, found)
    name, manifest = found.revision.service, found.artifact.manifest
    platform = _PLATFORMS[manifest.engine]
    return oip_rest.metadata(name, shelf.versions(name), platform, found.artifact.model.signature)


def _say_who(response: Response, found: ServedRevision) -> None:
    for name, value in found.headers():
        response.headers[name.decode()] = value.decode()


async def _answer_error(request: Request, error: Exception) -> Response:
    """Whatever was refused, in the shape of the path's dialect."""
    path: bytes = request.scope["raw_path"]
    statuses, error_body = shape_for(path)
    headers = dict(getattr(error, "headers", None) or {})
    if not isinstance(error, FairleadError):  # the framework's, by its status
        kind = _KINDS[getattr(error, "status_code", 404)]
        shown = path.decode("latin-1")[:200]
        message = (
            f"nothing answers {shown}"
            if kind is Kind.NOT_FOUND
            else f"{request.method} is not for this path; use GET"
        )
        error = Refused(kind, message)
    name, value = error_code(error.kind)
    headers[name.decode()] = value.decode()
    return Response(error_body(error), statuses[error.kind], headers, "application/json")


__all__ = ["JSONResponse", "build_site"]
