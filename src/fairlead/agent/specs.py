"""What a worker is told to be: from a revision and the node's settings to its spec."""

from __future__ import annotations

import secrets
from pathlib import Path

from fairlead.agent.settings import AgentSettings
from fairlead.api.worker import ServedEndpoint, WorkerSpec
from fairlead.domain.batching import batching_to_json
from fairlead.domain.catalog import Revision
from fairlead.domain.layout import Home
from fairlead.domain.scale_units import WHOLE, ScaleUnit, served


def spec_of(
    revision: Revision,
    home: Home[Path],
    settings: AgentSettings,
    life_fd: int | None,
    *,
    endpoint: str = WHOLE,
    alone: bool = True,
) -> WorkerSpec:
    """One more replica of the revision, or with `endpoint` of that one alone; `alone`: in a process of its own."""
    name = secrets.token_hex(4)
    serves = served(revision, ScaleUnit(revision.id, endpoint))
    return WorkerSpec(
        worker=name,
        revision=revision.id,
        artifact=home.artifact(revision.digest),
        digest=revision.digest,
        endpoints=tuple(
            ServedEndpoint(one.name, one.concurrency, one.paths, batching_to_json(one.batching))
            for one in serves
        ),
        socket=home.worker_socket(name),
        settings=settings.serving,
        # Many that each took all cores for a run would take them from their neighbours.
        threads=settings.threads or (0 if alone else 1),
        pod_name=settings.pod_name,
        # As long as its requests may take, so that none is cut when the worker goes.
        drain_seconds=max(one.timeout_seconds or settings.drain_seconds for one in serves),
        deadline_seconds=max(one.timeout_seconds or settings.deadline_seconds for one in serves),
        life_fd=life_fd,
        allow_pickle=settings.allow_pickle,
        measured=home.measured(revision.digest),
        only=endpoint,
        legacy_key=revision.legacy_key,
    )
