"""What `fairlead up` prints once everything is ready: where it is, the key, lines to try."""

from __future__ import annotations

import json
import shlex
from typing import Any

from fairlead.api.speech_openapi import Use, use_of
from fairlead.domain.catalog import Catalog, Revision
from fairlead.domain.golden import golden_from_bytes
from fairlead.domain.ids import DEFAULT_ENDPOINT
from fairlead.domain.manifest import Manifest
from fairlead.domain.signature import DocumentSignature, TensorSignature
from fairlead.wiring.homes import Control

_LONGEST_BODY = 240  # characters of a request that may stand in a line to copy


def banner(control: Control, url: str, root: str, seconds: float) -> str:
    """Several lines; the key is the demo key, which lies in the home too. `root` starts the project API's paths."""
    catalog = control.catalogs.read()
    key_path = control.home.demo_key
    demo = key_path.read_text(errors="replace").strip() if key_path.exists() else None
    key = demo or "<your key>"
    where = f"   (also in {key_path})" if demo else "   (`fairlead keys create NAME` makes one)"
    lines = [
        "",
        f"Ready after {seconds:.1f} s: {_amount(catalog)}.",
        "",
        f"  gateway   {url}/",
        f"  docs      {url}/docs",
        f"  metrics   {url}/metrics",
        f"  health    {url}/healthz",
        f"  key       {key}{where}",
        "",
        "Try:",
        "",
    ]
    insecure = "-k " if url.startswith("https") else ""
    for service in sorted(catalog.services.values(), key=lambda service: service.name):
        live = service.lines[service.pin.line].live()
        body = _example(control, live[-1]) if live else None
        path, into = _path(control, live[-1], root) if live else (None, "")
        if body is None or path is None:
            lines.append(f"  fairlead predict {service.name}")
            continue
        quoted = shlex.quote(json.dumps(body, ensure_ascii=False))
        lines.append(f"  curl {insecure}-s -H 'X-Api-Key: {key}' {url}{path} -d {quoted}{into}")
    lines += ["", "From another terminal: fairlead status, fairlead predict, fairlead logs.", ""]
    return "\n".join(lines)


def _path(control: Control, revision: Revision, root: str) -> tuple[str | None, str]:
    """Where the revision is asked, and where its answer goes: sound is nothing for a terminal."""
    service = revision.id.service
    if any(one.name == DEFAULT_ENDPOINT for one in revision.endpoints):
        return f"{root}/model/{service}/predict", ""
    if control.artifacts.manifest(revision.artifact).engine != "speech":
        return None, ""
    uses = {path: use_of(path, one.name) for one in revision.endpoints for path in one.paths}
    path = next((path for path, use in uses.items() if use is Use.SPEAK), None)
    return path, f" -o {service}.mp3"


def _amount(catalog: Catalog) -> str:
    revisions, services = len(catalog.live()), len(catalog.services)
    return (
        f"{revisions} revision{'' if revisions == 1 else 's'} "
        f"of {services} service{'' if services == 1 else 's'}"
    )


def _example(control: Control, revision: Revision) -> Any:  # noqa: ANN401 - a JSON value
    """The first golden example as a request of the project API; None if it is too long to print."""
    manifest = control.artifacts.manifest(revision.artifact)
    body = first_example(control, manifest)
    return body if len(json.dumps(body)) <= _LONGEST_BODY else None


def first_example(control: Control, manifest: Manifest) -> Any:  # noqa: ANN401 - a JSON value
    """The first golden example of an artifact as a request of the project API."""
    (file,) = [file for file in manifest.files if file.path == manifest.golden]
    request = (
        golden_from_bytes(control.artifacts.read(file.sha256, 0, file.size)).examples[0].request
    )
    if isinstance(manifest.signature, DocumentSignature):
        return request
    return {"instances": [_first_instance(manifest.signature, request)]}


def _first_instance(signature: TensorSignature, request: Any) -> Any:  # noqa: ANN401 - a JSON value
    if len(signature.inputs) == 1:
        return request[signature.inputs[0].name][0]
    return {spec.name: request[spec.name][0] for spec in signature.inputs}
