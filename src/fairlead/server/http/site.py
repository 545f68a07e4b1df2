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
from fairlead.domain.errors import FairleadError, Kind, Refused
from fairlead.server.http.errors import error_code, shape_for
from fairlead.server.http.openapi import describe
from fairlead.server.http.routes import ServedRevision
from fairlead.server.http.shelf import Shelf

_KINDS = {404: Kind.NOT_FOUND, 405: Kind.METHOD}


def build_site(
    served: Sequence[ServedRevision], settings: ServingSettings, *, versioned: bool
) -> FastAPI:
    """The docs, and what of the project API is not hot; `versioned` if `Accept-Version` chooses among the `served`."""
    app: FastAPI = FastAPIOffline(
        title=settings.fastapi_name, version=fairlead.__version__, redoc_url=None, docs_url="/docs"
    )
    app.add_exception_handler(FairleadError, _answer_error)
    for status in _KINDS:
        app.add_exception_handler(status, _answer_error)
    shelf = Shelf(served, versioned=versioned)
    _add_project(app, shelf, settings)
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
        found = shelf.find(dict(request.headers.raw), m)
        _say_who(response, found)
        return dict(found.artifact.manifest.bio) or {"name": m}


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
