"""The models of a stand-alone server: loaded at its start, unloaded and loaded again when a caller asks.

Loading is the same as at the start: every byte verified, the golden examples answered. Unloading takes the
model's paths away first, lets what is under way finish, and then frees what it holds.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from fairlead.api.speech import speaks
from fairlead.api.worker import WorkerSpec
from fairlead.dialects.oip_model import LOADING, READY, UNAVAILABLE, UNLOADING, index_entry
from fairlead.domain.errors import FairleadError, Kind, Refused
from fairlead.domain.ids import RevisionId
from fairlead.kits import memory
from fairlead.kits.clock import Clock
from fairlead.server.dataplane import DataPlane
from fairlead.server.endpoints import endpoints_of
from fairlead.server.http.app import ServerApp
from fairlead.server.http.oip import unavailable
from fairlead.server.http.routes import ServedRevision
from fairlead.server.http.speech import PATHS
from fairlead.server.loading import LOOK_AGAIN_SECONDS, LoadedArtifact, load_artifact, unload

_log = logging.getLogger(__name__)


async def load_revision(
    spec: WorkerSpec, plane: DataPlane, clock: Clock, loaded: dict[str, LoadedArtifact]
) -> ServedRevision:
    """Load and prove one revision, and put its endpoints into the plane; raises whatever is wrong with it.

    `loaded` are the artifacts that are here already, by digest: revisions may share one.
    """
    start = clock.monotonic()
    fresh = False
    if spec.digest not in loaded:
        loaded[spec.digest] = await load_artifact(
            spec.artifact,
            spec.digest,
            spec.threads,
            clock,
            allow_pickle=spec.allow_pickle,
            measured=spec.measured,
        )
        fresh = True
    artifact = loaded[spec.digest]
    try:
        made = await endpoints_of(spec, artifact, clock)
    except BaseException:
        if fresh:
            loaded.pop(spec.digest).close()
        raise
    for endpoint in made:
        plane.add(endpoint)
    _log.info(
        "%s is loaded and proved in %.2f s: a run takes %.0f µs, %s%s",
        spec.revision,
        clock.monotonic() - start,
        artifact.profile.run_microseconds,
        "on the event loop" if artifact.on_loop else "in a thread",
        "".join(f"; {one.id.endpoint}: {one.batching}" for one in made if one.batching),
        extra={"digest": spec.digest},
    )
    return ServedRevision(spec, artifact)


class Repository:
    """What a server was started with, and what of it is served."""

    def __init__(
        self, specs: Sequence[WorkerSpec], plane: DataPlane, app: ServerApp, clock: Clock
    ) -> None:
        self._specs = specs
        self._plane = plane
        self._app = app
        self._clock = clock
        self._served: list[ServedRevision] = []
        self._states: dict[str, tuple[str, str]] = {}
        self._versions: dict[RevisionId, int] = {}
        self._named_by: dict[str, str] = {}  # the models that own paths beside Open Inference's
        self._changing = asyncio.Lock()

    def start(self, served: Sequence[ServedRevision]) -> None:
        """These are served from now on, and callers may change it."""
        self._served = list(served)
        self._states = {spec.revision.service: (READY, "") for spec in self._specs}
        self._versions = {one.revision: one.artifact.manifest.ref.version for one in served}
        self._named_by = {path: one.revision.service for one in served for path in _paths(one)}

    def index(self) -> list[dict[str, str]]:
        return [
            index_entry(
                spec.revision.service,
                self._versions[spec.revision],
                *self._states[spec.revision.service],
            )
            for spec in self._specs
        ]

    def missing(self, name: str) -> str | None:
        state, reason = self._states.get(name, (READY, ""))
        return None if state == READY else reason or state.lower()

    def missing_at(self, path: str) -> str | None:
        """The same in words, for who asked at a path that belongs to such a model."""
        name = self._named_by.get(path, "")
        reason = self.missing(name)
        return None if reason is None else unavailable(name, reason)

    async def load(self, name: str, parameters: Mapping[str, Any]) -> None:
        """Load every version of a model; nothing to do if it is loaded, for artifacts never change."""
        mine = self._named("load", name)
        if parameters:
            given = ", ".join(sorted(parameters))[:80]
            message = f"failed to load {name!r}: {given} cannot be given: configuration and files are the artifact's; publish another version"
            raise Refused(Kind.INVALID, message)
        async with self._changing:
            if self._states[name][0] == READY:
                return
            self._states[name] = (LOADING, "")
            loaded = {one.artifact.digest: one.artifact for one in self._served}
            found: list[ServedRevision] = []
            failed: Exception | None = None
            try:
                found = [
                    await load_revision(spec, self._plane, self._clock, loaded) for spec in mine
                ]
            except Exception as error:  # noqa: BLE001 - whatever a model's library raises is why it is not loaded
                failed = error
            finally:
                if len(found) < len(mine):
                    self._states[name] = (UNAVAILABLE, _why(failed))
                    await self._release(mine, loaded)
            if failed is not None:
                _log.error("%s is not loaded", name, exc_info=failed)
                failed.__traceback__ = None  # its frames hold what was loaded
                loaded.clear()
                await asyncio.to_thread(memory.give_back)  # what was tried took as much
                kind = failed.kind if isinstance(failed, FairleadError) else Kind.MODEL
                raise Refused(kind, f"failed to load {name!r}: {_why(failed)}")
            self._served += found
            self._states[name] = (READY, "")
            self._app.serve(self._served, versioned=True)
            await asyncio.to_thread(memory.give_back)  # what its proof and its measuring took

    async def unload(self, name: str) -> None:
        """Serve a model no more and free what it holds; nothing to do if it is not loaded."""
        mine = self._named("unload", name)
        async with self._changing:
            if self._states[name][0] != READY:
                return
            self._states[name] = (UNLOADING, "")
            gone = [one for one in self._served if one.revision.service == name]
            self._served = [one for one in self._served if one.revision.service != name]
            self._app.serve(self._served, versioned=True)
            try:
                await self._drained(mine)
            finally:
                await self._release(mine, {one.artifact.digest: one.artifact for one in gone})
                gone.clear()  # nobody has it any more
                self._states[name] = (UNAVAILABLE, "unloaded")
                _log.info("%s is unloaded", name)
            await asyncio.to_thread(memory.give_back)

    def _named(self, action: str, name: str) -> list[WorkerSpec]:
        mine = [spec for spec in self._specs if spec.revision.service == name]
        if not mine:
            known = ", ".join(dict.fromkeys(spec.revision.service for spec in self._specs))
            message = f"failed to {action} {name!r:.80}: no such model here; models: {known}"
            raise Refused(Kind.NOT_FOUND, message)
        return mine

    async def _drained(self, specs: Sequence[WorkerSpec]) -> None:
        """Wait until nothing of these is being answered, for at most their drain time."""
        names = {spec.endpoint_id(one.name) for spec in specs for one in spec.endpoints}
        stop = self._clock.monotonic() + max(spec.drain_seconds for spec in specs)
        while self._clock.monotonic() < stop:
            if not any(route.in_progress for route in self._plane.stats if route.endpoint in names):
                return
            await self._clock.sleep(LOOK_AGAIN_SECONDS)

    async def _release(
        self, specs: Sequence[WorkerSpec], loaded: Mapping[str, LoadedArtifact]
    ) -> None:
        """Take endpoints out of the plane and unload their artifacts, unless others are served from them."""
        kept = {one.artifact.digest for one in self._served}
        gone = self._plane.remove(
            spec.endpoint_id(one.name) for spec in specs for one in spec.endpoints
        )
        kept |= {one.artifact.digest for one in self._plane.endpoints()}
        kept |= {one.digest for one in gone}
        gone += [artifact for digest, artifact in loaded.items() if digest not in kept]
        await unload(gone, self._clock)


def _paths(served: ServedRevision) -> Iterator[str]:
    """Where its model is asked besides /v2, which finds models by name."""
    spec, settings = served.spec, served.spec.settings
    own = f"{settings.root}/model/{served.revision.service}"
    if settings.add_model_predict:
        yield f"{own}/predict"
    if settings.add_model_bio:
        yield f"{own}/bio"
    for one in spec.endpoints:
        yield from one.paths
    if speaks(served.artifact.model):
        yield from PATHS


def _why(error: Exception | None) -> str:
    if error is None:
        return "loading was given up"
    return str(error) if isinstance(error, FairleadError) else f"{type(error).__name__}: {error}"
