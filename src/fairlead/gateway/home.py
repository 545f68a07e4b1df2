"""`GET /`: what this is and where to go, for people and for programs."""

from __future__ import annotations

import html
from collections.abc import Iterator
from typing import Any

from fairlead.domain.catalog import Kill
from fairlead.domain.table import LineRoute, RoutingTable, ServiceRoute
from fairlead.domain.versions import natural_key
from fairlead.gateway.settings import GatewaySettings

_STYLE = """
body{font:16px/1.5 system-ui,sans-serif;max-width:52rem;margin:3rem auto;padding:0 1rem;color:#1c2430;background:#fff}
h1{margin:0}h2{margin-top:2.2rem;font-size:1.1rem}a{color:#0b5cad}
table{border-collapse:collapse;width:100%}th,td{text-align:left;padding:.35rem .6rem;border-bottom:1px solid #e2e6ec;vertical-align:top}
th{font-weight:600;color:#5a6675;font-size:.85rem}code,pre{font:14px/1.5 ui-monospace,monospace}
pre{background:#f4f6f9;padding:.8rem 1rem;overflow-x:auto;border-radius:6px}.note{color:#5a6675}.off{color:#a5301c}
@media (prefers-color-scheme:dark){body{background:#12161c;color:#dde3ea}a{color:#7db6f0}th,.note{color:#93a0af}
th,td{border-color:#2a323d}pre{background:#1b212a}.off{color:#f0907d}}
"""


def home_document(table: RoutingTable, settings: GatewaySettings) -> dict[str, Any]:
    """For programs. It names services and versions, which anybody who can reach the gateway may know."""
    return {
        "name": settings.name,
        "version": settings.version,
        "links": {
            "docs": "/docs",
            "openapi": "/openapi.json",
            "health": "/healthz",
            "metrics": "/metrics",
        },
        "services": [_service(table.services[name]) for name in sorted(table.services)],
    }


def home_html(table: RoutingTable, settings: GatewaySettings) -> str:
    """For people."""
    title = html.escape(settings.name)
    rows = (
        "".join(_rows(table))
        or '<tr><td colspan="4" class="note">nothing is released yet</td></tr>'
    )
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
        '<link rel="icon" href="/static-offline-docs/favicon.png">'
        f'<meta name="viewport" content="width=device-width"><style>{_STYLE}</style></head><body>'
        f"<h1>{title}</h1><p>Machine-learning models, served by Fairlead. This gateway checks keys, "
        "finds the version a caller asks for, and splits traffic between revisions.</p>"
        '<p><a href="/docs">Try the API</a> · <a href="/openapi.json">OpenAPI</a> · '
        '<a href="/healthz">Health</a> · <a href="/metrics">Metrics</a></p>'
        "<h2>Services</h2><table><thead><tr><th>service</th><th>line</th><th>traffic</th>"
        f"<th>versions</th></tr></thead><tbody>{rows}</tbody></table>{_example(table, settings)}"
        f'<p class="note">generation {table.generation} · {title} {html.escape(settings.version)}</p>'
        "</body></html>"
    )


def _service(service: ServiceRoute) -> dict[str, Any]:
    return {
        "name": service.name,
        "latest": service.pin,
        "killed": service.kill.message if service.kill else None,
        "lines": [
            {
                "name": name,
                "traffic": [{"tag": share.tag, "percent": share.percent} for share in line.traffic],
                "versions": [line.revisions[tag].id.served_version for tag in _tags(line)],
                "ready": bool(line.traffic),
            }
            for name, line in _lines(service)
        ],
    }


def _rows(table: RoutingTable) -> Iterator[str]:
    for name in sorted(table.services):
        service = table.services[name]
        for number, (line_name, line) in enumerate(_lines(service)):
            first = f"<code>{html.escape(name)}</code>{_off(service.kill)}" if number == 0 else ""
            latest = ' <span class="note">latest</span>' if line_name == service.pin else ""
            traffic = ", ".join(
                f"{share.percent} % to <code>{html.escape(f'{line_name}.{share.tag}')}</code>"
                for share in line.traffic
                if share.percent
            )
            versions = " ".join(
                f"<code>{html.escape(line.revisions[tag].id.served_version)}</code>"
                for tag in _tags(line)
            )
            waiting = f'<span class="off">not ready: {html.escape(line.reason)}</span>'
            yield (
                f"<tr><td>{first}</td><td><code>{html.escape(line_name)}</code>{latest}</td>"
                f"<td>{traffic or waiting}</td><td>{versions}</td></tr>"
            )


def _off(kill: Kill | None) -> str:
    return f'<br><span class="off">switched off: {html.escape(kill.message)}</span>' if kill else ""


def _example(table: RoutingTable, settings: GatewaySettings) -> str:
    if not table.services:
        return ""
    name = min(table.services)
    url = html.escape(f"{settings.url}/v2/models/{name}")
    return f"<h2>Ask</h2><pre>curl -H 'X-Api-Key: …' {url}</pre>"


def _lines(service: ServiceRoute) -> list[tuple[str, LineRoute]]:
    return [(name, service.lines[name]) for name in sorted(service.lines, key=natural_key)]


def _tags(line: LineRoute) -> list[str]:
    return sorted(line.revisions, key=natural_key)
