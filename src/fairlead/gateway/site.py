"""The pages that belong to no service: home, liveness, health, metrics, docs, and the dialects' own."""

from __future__ import annotations

import asyncio
import html
import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from starlette.responses import FileResponse, HTMLResponse, Response

from fairlead.domain.errors import Kind
from fairlead.domain.layout import Home
from fairlead.domain.paths import STATIC_PREFIX
from fairlead.domain.routing import Refusal
from fairlead.gateway.called import Visit
from fairlead.gateway.front import Page, json_response, refusal_response
from fairlead.gateway.health import Health, Report
from fairlead.gateway.home import home_document, home_html
from fairlead.gateway.metrics import CONTENT_TYPE, Metrics
from fairlead.gateway.models import EXTENSIONS, ModelPages
from fairlead.gateway.openapi import Manifests, openapi_document
from fairlead.gateway.settings import GatewaySettings
from fairlead.gateway.state import View

_OK = 200
_FAILING = 503
# The files of the docs page, without its library: FastAPI would be half of what starting a gateway costs.
_STATIC = Path(getattr(importlib.util.find_spec("fastapi_offline"), "origin", "")).parent / "static"
_DOCS = """<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{title}</title>
<meta name="viewport" content="width=device-width"><link rel="icon" href="{static}favicon.png">
<link rel="stylesheet" href="{static}swagger-ui.css"></head><body><div id="api"></div>
<script src="{static}swagger-ui-bundle.js"></script><script>
SwaggerUIBundle({{url: "/openapi.json", dom_id: "#api", deepLinking: true, persistAuthorization: true}})
</script></body></html>
"""


class Site:
    """Every open path's page."""

    def __init__(
        self,
        settings: GatewaySettings,
        home: Home[Path],
        view: View,
        health: Health,
        metrics: Metrics,
    ) -> None:
        self._settings = settings
        self._view = view
        self._health = health
        self._metrics = metrics
        self._manifests = Manifests(home)
        self._models = ModelPages(settings, view, home.activator_socket)

    def pages(self) -> Mapping[str, Page]:
        """By the names of `domain.paths.open_paths`."""
        return {
            "home": self._home,
            "livez": self._livez,
            "healthz": self._healthz,
            "metrics": self._exposition,
            "docs": self._docs,
            "openapi": self._openapi,
            "static": self._static,
            "root": self._root,
            "live": self._live,
            "ready": self._ready,
            "v2": self._v2,
            "v2_live": self._live,
            "v2_ready": self._ready,
            **self._models.pages(),
        }

    async def _home(self, visit: Visit) -> Response:
        table = self._view.index.table
        if "text/html" in visit.headers.get("accept", ""):
            return HTMLResponse(home_html(table, self._settings))
        return json_response(home_document(table, self._settings))

    async def _livez(self, visit: Visit) -> Response:  # noqa: ARG002 - every page takes the visit
        return json_response({"status": "ok"})

    async def _healthz(self, visit: Visit) -> Response:  # noqa: ARG002 - every page takes the visit
        report = await self._health.report()
        return json_response(_health_document(report), _FAILING if report.problems else _OK)

    async def _exposition(self, visit: Visit) -> Response:  # noqa: ARG002 - every page takes the visit
        return Response(await self._metrics.exposition(), media_type=CONTENT_TYPE)

    async def _docs(self, visit: Visit) -> Response:  # noqa: ARG002 - every page takes the visit
        title = html.escape(f"{self._settings.name}: API")
        return HTMLResponse(_DOCS.format(title=title, static=STATIC_PREFIX))

    async def _openapi(self, visit: Visit) -> Response:  # noqa: ARG002 - every page takes the visit
        table = self._view.index.table
        document = await asyncio.to_thread(
            openapi_document, table, self._manifests.of, self._settings
        )
        return json_response(document)

    async def _static(self, visit: Visit) -> Response:
        name = visit.path.removeprefix(STATIC_PREFIX)
        file = _STATIC / name
        # Names, never paths: nothing beside these files can be asked for.
        if "/" in name or name.startswith(".") or not await asyncio.to_thread(file.is_file):
            nothing = Refusal(Kind.NOT_FOUND, f"nothing answers {visit.path}")
            return refusal_response(visit, nothing, self._settings.api_version)
        return FileResponse(file)

    async def _root(self, visit: Visit) -> Response:  # noqa: ARG002 - every page takes the visit
        return json_response({"name": self._settings.name})  # S3-A 2

    async def _live(self, visit: Visit) -> Response:  # noqa: ARG002 - every page takes the visit
        return json_response({"live": True})

    async def _ready(self, visit: Visit) -> Response:  # noqa: ARG002 - every page takes the visit
        ready = not (await self._health.report()).problems
        return json_response({"ready": ready}, _OK if ready else _FAILING)

    async def _v2(self, visit: Visit) -> Response:  # noqa: ARG002 - every page takes the visit
        name = self._settings.name
        version = self._settings.version
        return json_response({"name": name, "version": version, "extensions": list(EXTENSIONS)})


def _health_document(report: Report) -> dict[str, Any]:
    document: dict[str, Any] = {"status": report.status}
    if report.problems:
        document["problems"] = list(report.problems)
    if report.warnings:
        document["warnings"] = list(report.warnings)
    return document
