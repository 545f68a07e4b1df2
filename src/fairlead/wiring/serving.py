"""`fairlead serve`: artifacts, or folders that could be published, served directly over TCP."""

from __future__ import annotations

import asyncio
import functools
import importlib
import os
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from fairlead.api.worker import ServingSettings, WorkerSpec
from fairlead.domain.errors import InvalidInput, Problem
from fairlead.domain.ids import ArtifactRef, RevisionId
from fairlead.domain.manifest import DESCRIPTION, MANIFEST, Manifest, manifest_to_bytes
from fairlead.domain.paths import SERVICE, SERVICE_RULE
from fairlead.kits import garbage, jsonlog
from fairlead.kits.addresses import is_loopback
from fairlead.kits.clock import SystemClock
from fairlead.server.settings import serving_settings_from
from fairlead.wiring.publishing import ProverInChild, pickles_allowed, publish_to
from fairlead.wiring.settings import environment, legacy_speech_keys, prepare_engines

LINE = "v1"  # a server without releases has one line
# A third of a second of modules: read while a child proves the model, where there is one.
_SERVER = "fairlead.server.standalone"


class _Staged:
    """Where a proved folder is put so that a worker can verify it: a publisher into one directory."""

    def __init__(self, target: Path) -> None:
        self._target = target

    def publish(self, manifest: Manifest, directory: Path) -> str:
        for file in manifest.files:
            path = self._target / file.path
            path.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(directory / file.path, path)
        (self._target / MANIFEST).write_bytes(manifest_to_bytes(manifest))
        return "new"


def serve(
    what: tuple[str, ...], home: Path | None, given: dict[str, Any], tell: Callable[[str], None]
) -> int:
    """Serve until SIGTERM or SIGINT; `what` names folders or published artifacts.

    Raises FairleadError, with a message for the person, if it cannot.
    """
    prepare_engines()
    settings = _settings(given)
    jsonlog.setup(
        settings.logconfig_service,
        level=settings.logconfig_level,
        json_format=settings.logconfig_json_format,
        access_to_stdout=True,
    )
    host, port = settings.uvicorn_host, settings.uvicorn_http_port
    with tempfile.TemporaryDirectory(prefix="fairlead-serve-") as staging:
        allow_pickle = pickles_allowed()
        legacy_keys = legacy_speech_keys()
        specs = [
            replace(
                _spec(name, home, Path(staging) / str(number), settings, tell),
                allow_pickle=allow_pickle,
                legacy_key=bool(legacy_keys),
                legacy_keys=legacy_keys,
            )
            for number, name in enumerate(what)
        ]
        for spec in specs:
            service = spec.revision.service
            tell(f"{service}: http://{host}:{port}/v2/models/{service}/infer")
        if settings.grpc_port:
            tell(f"gRPC: {host}:{settings.grpc_port}")
        if not is_loopback(host):
            tell(f"whoever reaches {host}:{port} may call: keys are the gateway's")
        return _run(specs, settings)


def _run(specs: list[WorkerSpec], settings: ServingSettings) -> int:
    from fairlead.kits.loops import new_event_loop
    from fairlead.server.standalone import Standalone, run_standalone

    options = Standalone(
        settings.uvicorn_host, settings.uvicorn_http_port, settings.uvicorn_workers
    )
    garbage.as_usual()
    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        return runner.run(run_standalone(specs, options, SystemClock()))


def _import_server(workers: int, manifest: Manifest) -> None:
    """What serving this model takes, besides the model; with several workers, they load it."""
    importlib.import_module(_SERVER)
    if workers == 1:
        from fairlead.engines.loading import loader_of

        loader_of(manifest.engine)


def _settings(given: dict[str, Any]) -> ServingSettings:
    """The environment's settings, under the command's options. An address is loopback unless one is set."""
    found = serving_settings_from(environment().serving)
    named = {name.upper() for name in environment().serving}
    host = found.uvicorn_host if "FAIRLEAD_SERVING_UVICORN_HOST" in named else "127.0.0.1"
    return replace(
        found,
        uvicorn_host=given["host"] or host,
        uvicorn_http_port=given["port"] or found.uvicorn_http_port,
        grpc_port=found.grpc_port if given["grpc_port"] is None else given["grpc_port"],
        uvicorn_workers=given["workers"] or found.uvicorn_workers,
        access_log=bool(given["access_log"]),
    )


def _spec(
    name: str,
    home: Path | None,
    staging: Path,
    settings: ServingSettings,
    tell: Callable[[str], None],
) -> WorkerSpec:
    if (Path(name) / DESCRIPTION).is_file():
        staging.mkdir()
        published = publish_to(
            _Staged(staging),
            Path(name),
            tell,
            ProverInChild(
                allow_pickle=environment().allow_pickle,
                meanwhile=functools.partial(_import_server, settings.uvicorn_workers),
            ),
        )
        manifest, directory = published.manifest, staging
    else:
        manifest, directory = _published(name, home)
    service = manifest.ref.name
    if not SERVICE.fullmatch(service):
        raise InvalidInput(
            name,
            [Problem("name", f"{service!r} cannot be a service's name", f"write {SERVICE_RULE}")],
        )
    return WorkerSpec(
        worker="1",
        revision=RevisionId(service, LINE, str(manifest.ref.version)),
        artifact=directory,
        digest=manifest.digest,
        settings=settings,
        pod_name=os.environ.get("HOSTNAME", "unknown_pod"),
    )


def _published(name: str, home: Path | None) -> tuple[Manifest, Path]:
    try:
        ref = ArtifactRef.parse(name)
    except ValueError:
        right = f"name a folder with a {DESCRIPTION}, or a published artifact: sentiment/1"
        raise InvalidInput(
            name, [Problem("", "is neither a model's folder nor an artifact", right)]
        ) from None
    from fairlead.agent.pull import pull
    from fairlead.wiring.homes import open_home

    control = open_home(home)
    manifest = control.artifacts.manifest(ref)
    asyncio.run(
        pull(ref, manifest.digest, control.artifacts, control.home, lambda _here, _total: None)
    )
    return manifest, control.home.artifact(manifest.digest)
