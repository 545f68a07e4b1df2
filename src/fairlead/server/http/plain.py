"""Health, identity and metrics: answered without a framework, so that asking costs a worker nothing.

`/livez` says that the process runs; ready is said only once every model here has proved itself, and not while
runs that do not end keep one of them from answering anybody.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import os
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import msgspec

from fairlead.api.cancellation import UnderWay, under_way
from fairlead.api.held import held_to_json
from fairlead.api.load import LOAD_PATH, loads_to_json
from fairlead.api.speech import speaks
from fairlead.api.worker import (
    BATCHING_PATH,
    IDENTITY_PATH,
    METRICS_PATH,
    PROVED_PATH,
    REPLICAS_PATH,
    RETIRE_PATH,
    ServingSettings,
)
from fairlead.domain.errors import FairleadError
from fairlead.domain.ids import RevisionId
from fairlead.engines.sharing import once_more
from fairlead.kits.timeouts import timeout
from fairlead.server.dataplane import Counted, DataPlane
from fairlead.server.endpoint import Endpoint
from fairlead.server.held import held
from fairlead.server.http.routes import HeaderList, ServedRevision
from fairlead.server.stats import RouteStats

_log = logging.getLogger(__name__)
_JSON = b"application/json"
_HEARTBEAT_SECONDS = 5.0
_HEALTHY = "/healthy"  # of speech models (S0-28)

Reply = tuple[int, bytes, bytes]  # status, content type, body


@dataclass(frozen=True, slots=True)
class Plain:
    """One path that is answered here."""

    stats: RouteStats
    reply: Callable[[], Awaitable[Reply]]
    headers: HeaderList
    methods: tuple[str, ...] = ("GET", "HEAD")


class PlainRoutes:
    """The paths that are answered here, before and after models are loaded.

    `failed` is why the revision will not be served, if that is certain; `company` tells of everybody in this
    process, when there are others.
    """

    def __init__(
        self,
        plane: DataPlane,
        settings: ServingSettings,
        identity: Mapping[str, object],
        pod_name: str,
    ) -> None:
        self.ready = False
        self.failed = ""
        self.company: Callable[[], Iterable[PlainRoutes]] = lambda: (self,)
        self._plane = plane
        self._settings = settings
        self._identity = identity
        self._pod_name = pod_name
        self._served: Sequence[ServedRevision] = ()
        self._paths: dict[bytes, Plain] = {}
        self._own: list[bytes] = []  # those of the models that are served
        self._add("/livez", self._live)
        self._add("/healthz", self._ready)
        self._add("/v2/health/live", self._live)
        self._add("/v2/health/ready", self._ready)
        self._add(METRICS_PATH, self._metrics)
        self._add(IDENTITY_PATH, self._who)
        self._add(REPLICAS_PATH, self._replicas)
        self._add(BATCHING_PATH, self._batching)
        self._add(LOAD_PATH, self._load)
        if settings.add_liveness:
            self._add(f"{settings.root}/live", self._project_live)
        if settings.add_readiness:
            self._add(f"{settings.root}/ready", self._project_ready)

    def find(self, path: bytes) -> Plain | None:
        return self._paths.get(path)

    def serve(self, served: Sequence[ServedRevision]) -> None:
        for gone in self._own:
            self._paths.pop(gone, None)  # versions of one service share a path
        self._own = []
        self._served = served
        for one in served:
            name, version = one.revision.service, one.artifact.manifest.ref.version
            for path, template in (
                (f"/v2/models/{name}/ready", "/v2/models/{m}/ready"),
                (
                    f"/v2/models/{name}/versions/{version}/ready",
                    "/v2/models/{m}/versions/{v}/ready",
                ),
            ):
                ready = functools.partial(self._ready, one.revision)
                self._add(path, ready, template, one.headers())
                self._own.append(path.encode())
            if speaks(one.artifact.model):
                self._add(_HEALTHY, self._healthy, headers=one.headers())
                self._own.append(_HEALTHY.encode())
        self.ready = True

    def forget(self) -> None:
        """Nothing is served any more."""
        self.ready, self._served = False, ()

    def retire_by(self, retire: Callable[[], Awaitable[None]]) -> None:
        """Let whoever asks for it retire this replica; answered when it is gone."""

        async def retired() -> Reply:
            await retire()
            return _json({"retired": True})

        self._do(RETIRE_PATH, retired)

    def forget_proofs(self) -> None:
        """Let the agent say that it has proved what is served here: its examples are in no model's statistics."""

        async def proved() -> Reply:
            for endpoint in self._endpoints(self._served):
                endpoint.executions.forget()
            return _json({"proved": True})

        self._do(PROVED_PATH, proved)

    def replica(self, runs: Sequence[UnderWay] = ()) -> Mapping[str, object]:
        """How far this one is, and whether those of `runs`, the process's, that nobody waits for hold it."""
        of = {name: self._identity.get(name) for name in ("worker", "digest")}
        kept = held(list(self._endpoints(self._served)), runs) if runs else None
        return {**of, "ready": self.ready, "failed": self.failed, "held": held_to_json(kept)}

    def batching(self) -> list[dict[str, object]]:
        """How each endpoint of what is served here batches, and why."""
        return [
            {
                "service": one.revision.service,
                "line": one.revision.line,
                "revision": one.revision.revision,
                "digest": one.artifact.digest,
                "batching": {
                    given.name: self._plane.find(one.spec.endpoint_id(given.name)).batching
                    for given in one.spec.endpoints
                },
            }
            for one in self._served
        ]

    def _do(self, path: str, reply: Callable[[], Awaitable[Reply]]) -> None:
        stats = self._plane.stats.route(path, "POST")
        self._paths[path.encode()] = Plain(stats, reply, [], ("POST",))

    def _add(
        self,
        path: str,
        reply: Callable[[], Awaitable[Reply]],
        template: str | None = None,
        headers: Sequence[tuple[bytes, bytes]] = (),
    ) -> None:
        stats = self._plane.stats.route(template or path, "GET")
        self._paths[path.encode()] = Plain(stats, reply, list(headers))

    async def _live(self) -> Reply:
        return _json({"live": True})

    async def _ready(self, asked: RevisionId | None = None) -> Reply:
        """Is everything here ready, or what is asked for?"""
        if not self.ready:
            return _json({"ready": False}, 503)
        problems = list(self._held([one for one in self._served if asked in (None, one.revision)]))
        if problems:
            return _json({"ready": False, "problems": problems}, 503)
        return _json({"ready": True})

    def _held(self, served: Sequence[ServedRevision]) -> Iterable[str]:
        """Which of these answer nobody, because runs go on for longer than requests have; costs nothing while none runs."""
        runs = under_way()
        for one in served if runs else ():
            kept = held(list(self._endpoints((one,))), runs)
            if kept is not None and kept.beyond(one.spec.drain_seconds):
                yield f"{one.revision}: {kept}"

    async def _healthy(self) -> Reply:
        return 200, b"text/plain; charset=utf-8", b"ok"

    async def _project_live(self) -> Reply:
        if self._settings.betterstack_enable:
            await _heartbeat(self._settings)
        if self._settings.liveness_sample_inference:
            return _json({"live": True}, 200 if await self._sample() else 503)
        return await self._live()

    async def _project_ready(self) -> Reply:
        if self.ready and self._settings.readiness_sample_inference and not await self._sample():
            return _json({"ready": False}, 503)
        return await self._ready()

    async def _sample(self) -> bool:
        """Does every model here answer a golden example right now?"""
        for endpoint in self._endpoints(self._served):
            try:
                sample = once_more(endpoint.model, endpoint.artifact.sample)
                await endpoint.infer(sample, endpoint.deadline_seconds)
            except FairleadError as error:
                _log.warning("%s did not answer its sample: %s", endpoint.id, error.message)
                return False
        return True

    def _endpoints(self, served: Sequence[ServedRevision]) -> Iterable[Endpoint]:
        for one in served:
            for endpoint in one.spec.endpoints:
                yield self._plane.find(one.spec.endpoint_id(endpoint.name))

    async def _replicas(self) -> Reply:
        runs = under_way()
        return _json(
            {
                "counted": self._plane.stats.counted,
                "replicas": [one.replica(runs) for one in self.company()],
            }
        )

    async def _load(self) -> Reply:
        loads = {one.id: one.load() for one in self._plane.endpoints()}
        return 200, _JSON, loads_to_json(loads)

    async def _batching(self) -> Reply:
        return _json({"serves": [found for one in self.company() for found in one.batching()]})

    async def _metrics(self) -> Reply:
        # In a thread: requests are answered meanwhile, also while the library is imported.
        counted, name = self._plane.counted(), self._settings.fastapi_name
        return await asyncio.to_thread(_exposition, counted, name, self._pod_name)

    async def _who(self) -> Reply:
        import psutil  # noqa: PLC0415 - only who asks pays for it

        served = [
            {
                **said,
                "inline": one.artifact.profile.inline,
                "run_microseconds": round(one.artifact.profile.run_microseconds, 1),
            }
            for one, said in zip(self._served, self.batching(), strict=True)
        ]
        document = {
            **self._identity,
            "pid": os.getpid(),
            "ready": self.ready,
            "failed": self.failed,
            "rss_bytes": psutil.Process().memory_info().rss,
            **(served[0] if len(served) == 1 else {}),
            "serves": served,
        }
        return _json(document)


def _exposition(counted: Counted, app_name: str, pod_name: str) -> Reply:
    # prometheus_client costs memory that a worker nobody scrapes need not have.
    from fairlead.server.http.metrics import CONTENT_TYPE, exposition  # noqa: PLC0415 - see above

    return 200, CONTENT_TYPE, exposition(counted, app_name, pod_name)


async def _heartbeat(settings: ServingSettings) -> None:
    """Tell the uptime service that we live; that it cannot be reached is not our death."""
    import httpx  # noqa: PLC0415 - off by default, and a client is not small

    url = settings.betterstack_base_url + settings.betterstack_api_token
    try:
        async with timeout(_HEARTBEAT_SECONDS), httpx.AsyncClient() as client:
            await client.post(url)
    except (httpx.HTTPError, TimeoutError) as error:
        _log.warning("the heartbeat was not delivered: %s", type(error).__name__)


def _json(document: Mapping[str, object], status: int = 200) -> Reply:
    return status, _JSON, msgspec.json.encode(document)
