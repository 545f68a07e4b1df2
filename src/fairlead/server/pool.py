"""A pool worker: one process, many small revisions, each on a socket of its own.

Whoever calls one of them sees a worker of its own: its socket, its identity, its answers. What they share is
the process, its event loop and the waves of quick requests. One that cannot be loaded says so and stays away,
the others serve; one that is retired takes its socket and its model with it. The process ends when it is
told to, when its owner is gone, or with its last replica.
"""

from __future__ import annotations

import asyncio
import functools
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field

from fairlead.api.worker import WorkerSpec
from fairlead.kits import memory
from fairlead.kits.clock import Clock
from fairlead.server.dataplane import DataPlane
from fairlead.server.http.app import ServerApp
from fairlead.server.http.serve import Listen, Server, Socket, Way, serve_ways, server_of
from fairlead.server.loading import LoadedArtifact, unload
from fairlead.server.worker import (
    DONE,
    NotServed,
    ended_with,
    identity_of,
    load_one,
    owner_gone,
    set_up_process,
    stop_signals,
)

_log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Replica:
    spec: WorkerSpec
    way: Way

    @property
    def names(self) -> list[str]:
        return [one.name for one in self.spec.endpoints]


@dataclass(slots=True)
class _Pool:
    """The replicas of this process, and what they have loaded."""

    clock: Clock
    stop: asyncio.Event
    plane: DataPlane = field(default_factory=DataPlane)
    replicas: list[_Replica] = field(default_factory=list)
    artifacts: dict[str, LoadedArtifact] = field(default_factory=dict)
    gone: set[str] = field(default_factory=set)  # the names of those that were retired
    # One that goes must not close what another, of the same artifact, is just being loaded from.
    changing: asyncio.Lock = field(default_factory=asyncio.Lock)

    def open(self, specs: Sequence[WorkerSpec]) -> Server:
        """Bind every socket. Raises Refused (CONFLICT) if one is taken."""
        for spec in specs:
            assert spec.socket is not None
            app = ServerApp(self.plane, spec.settings, self.clock, identity_of(spec), spec.pod_name)
            if self.replicas:
                app.join(self.replicas[0].way.app)
            app.plain.company = lambda: [
                one.way.app.plain for one in self.replicas if one.spec.worker not in self.gone
            ]
            replica = _Replica(spec, Way(app, Socket(Listen(uds=spec.socket))))
            self.replicas.append(replica)
        server = server_of(
            [one.way for one in self.replicas], max(spec.drain_seconds for spec in specs)
        )
        for one in self.replicas:
            one.way.app.plain.retire_by(functools.partial(self._retire, one, server))
            one.way.app.plain.forget_proofs()
        return server

    async def load(self) -> None:
        """Load one after the other; each is ready as soon as it is itself."""
        for one in self.replicas:
            async with self.changing:
                await self._load(one)
        await asyncio.to_thread(memory.give_back)  # what proofs took

    async def _load(self, one: _Replica) -> None:
        if one.spec.worker in self.gone:
            return
        try:
            served = await load_one(one.spec, self.plane, self.artifacts, self.clock)
        except NotServed as refusal:
            ended_with(refusal)
            one.way.app.plain.failed = refusal.message
            return
        if one.spec.worker in self.gone:  # meanwhile
            await self._unload(one)
        else:
            one.way.app.serve([served])

    async def _retire(self, one: _Replica, server: Server) -> None:
        self.gone.add(one.spec.worker)
        await server.retire(one.way, one.spec.drain_seconds, self.clock)
        async with self.changing:
            await self._unload(one)
        await asyncio.to_thread(memory.give_back)
        _log.info("%s is retired here (worker %s)", one.spec.revision, one.spec.worker)
        if all(other.spec.worker in self.gone for other in self.replicas):
            self.stop.set()

    async def _unload(self, one: _Replica) -> None:
        gone = self.plane.remove([one.spec.endpoint_id(name) for name in one.names])
        one.way.app.forget()
        artifact = self.artifacts.get(one.spec.digest)
        if all(endpoint.artifact is not artifact for endpoint in self.plane.endpoints()):
            self.artifacts.pop(one.spec.digest, None)
        await unload(gone, self.clock)


async def run_pool(specs: Sequence[WorkerSpec], clock: Clock) -> int:
    """Serve these revisions until told to stop; returns the process's exit code."""
    set_up_process()
    stop = asyncio.Event()
    pool = _Pool(clock, stop)
    server = pool.open(specs)
    with stop_signals(stop), owner_gone(specs[0].life_fd, stop):
        try:
            async with asyncio.TaskGroup() as group:
                ways = [one.way for one in pool.replicas]
                serving = group.create_task(serve_ways(ways, server, stop))
                loading = group.create_task(pool.load())
                serving.add_done_callback(lambda _: loading.cancel())
        finally:
            pool.plane.close()
    return DONE
