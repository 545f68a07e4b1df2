"""What `fairlead up` prints once everything is ready: where it is, the key, lines to try."""

from __future__ import annotations

import json
import shlex

from fairlead.api.speech_openapi import Use, use_of
from fairlead.domain.catalog import Catalog, Revision
from fairlead.domain.ids import DEFAULT_ENDPOINT
from fairlead.wiring.examples import Asking, first_example
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
        asking = _example(control, live[-1]) if live else None
        path, into = _path(control, live[-1], asking, root) if asking else (None, "")
        if asking is None or path is None:
            lines.append(f"  fairlead predict {service.name}")
            continue
        quoted = shlex.quote(json.dumps(asking.body, ensure_ascii=False))
        lines.append(f"  curl {insecure}-s -H 'X-Api-Key: {key}' {url}{path} -d {quoted}{into}")
    lines += ["", "From another terminal: fairlead status, fairlead predict, fairlead logs.", ""]
    return "\n".join(lines)


def _path(
    control: Control, revision: Revision, asking: Asking, root: str
) -> tuple[str | None, str]:
    """Where the revision is asked, and where its answer goes: sound is nothing for a terminal."""
    service = revision.id.service
    if any(one.name == DEFAULT_ENDPOINT for one in revision.endpoints):
        return asking.path(service, root), ""
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


def _example(control: Control, revision: Revision) -> Asking | None:
    """The first golden example as a request; None if it is too long to print."""
    asking = first_example(control, control.artifacts.manifest(revision.artifact))
    return asking if len(json.dumps(asking.body)) <= _LONGEST_BODY else None
