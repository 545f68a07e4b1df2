"""Why Envoy refused a file, without telling anybody's key.

Envoy's own log line quotes the whole file, so it is switched off; the same resources with the keys
replaced are given to `envoy --mode validate` instead, whose words may be shown.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fairlead.kits.timeouts import timeout

Document = dict[str, Any]

_SECONDS = 10.0
_LONGEST = 600  # characters; Envoy quotes the whole document before it comes to the point
# Without it every listener inside Envoy would be the reason.
_INSIDE = {
    "name": "envoy.bootstrap.internal_listener",
    "typed_config": {
        "@type": "type.googleapis.com/envoy.extensions.bootstrap.internal_listener.v3.InternalListener"
    },
}
_POINT = re.compile(r"(?:\n: |\n\}\s*)(?=\S)")


async def refusal(binary: str, kind: str, resources: Mapping[str, Sequence[Document]]) -> str:
    """Envoy's reason for refusing `resources[kind]`, in one line."""
    with tempfile.TemporaryDirectory(prefix="fairlead-") as directory:
        path = Path(directory) / "validate.json"
        path.write_text(json.dumps(without_keys(_static(kind, resources))))
        process = await asyncio.create_subprocess_exec(
            binary,
            "--mode",
            "validate",
            "--config-path",
            str(path),
            "--log-level",
            "critical",
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        try:
            async with timeout(_SECONDS):
                output, _ = await process.communicate()
        except TimeoutError:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()
            return "it did not say why"
    return _point(output.decode(errors="replace"))


def without_keys(value: Any) -> Any:  # noqa: ANN401 - a JSON value
    """The same document with every key that callers show replaced, and none of their order known."""
    if isinstance(value, list):
        return [without_keys(one) for one in value]
    if not isinstance(value, dict):
        return value
    safe = {key: without_keys(one) for key, one in value.items()}
    if isinstance(value.get("credentials"), list):
        safe["credentials"] = [
            {**one, "key": f"key-{number}"} for number, one in enumerate(value["credentials"])
        ]
    tree = value.get("matcher_tree")
    if isinstance(tree, dict) and "x-api-key" in json.dumps(tree.get("input", {})):
        entries = safe["matcher_tree"]["exact_match_map"]["map"]
        safe["matcher_tree"]["exact_match_map"]["map"] = {
            f"key-{number}": one for number, one in enumerate(entries.values())
        }
    return safe


def _static(kind: str, resources: Mapping[str, Sequence[Document]]) -> Document:
    bare = {name: [_bare(one) for one in found] for name, found in resources.items()}
    listeners = bare["lds"] if kind == "lds" else []
    if kind == "rds":
        listeners = [_listener(routes) for routes in bare["rds"]]
    return {
        "static_resources": {"clusters": bare["cds"], "listeners": listeners},
        "node": {
            "id": "fairlead",
            "cluster": "fairlead",
        },  # a listener that reads its routes needs one
        "bootstrap_extensions": [_INSIDE],
    }


def _bare(resource: Document) -> Document:
    return {key: value for key, value in resource.items() if key != "@type"}


def _listener(routes: Document) -> Document:
    filters = "type.googleapis.com/envoy.extensions.filters"
    manager = {
        "@type": f"{filters}.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "validate",
        "route_config": {**routes, "validate_clusters": False},
        "http_filters": [
            {"name": "router", "typed_config": {"@type": f"{filters}.http.router.v3.Router"}}
        ],
    }
    return {
        "name": "validate",
        "address": {"pipe": {"path": "@fairlead-validate"}},
        "filter_chains": [{"filters": [{"name": "http", "typed_config": manager}]}],
    }


def _point(output: str) -> str:
    text = _POINT.split(output.strip())[-1]
    return " ".join(text.split())[-_LONGEST:] or "it did not say why"
