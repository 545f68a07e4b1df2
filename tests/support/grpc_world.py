"""A gateway with real models behind it, asked over gRPC: the real Envoy, the servers in this process."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from fairlead.domain.ids import ArtifactRef, RevisionId
from fairlead.domain.status import Replica, State
from fairlead.server.http.serve import Listen, Socket, serve
from support.gateway import World, catalog, eventually, new_world, revision
from support.grpc_calls import aio_channel, call, infer_request
from support.models import example, make_artifact, scaled_artifact
from support.serving import in_process

KEY = (("x-api-key", "demo-secret"),)
BOOM = """
class Model:
    async def predict(self, request: dict) -> dict:
        import asyncio
        if request.get("boom"):
            raise ValueError("a secret of the model")
        await asyncio.sleep(request.get("seconds", 0))
        return {"said": request.get("say", "")}
"""


@dataclass
class InThisProcess:
    """What stands where a test's worker does: a served revision."""

    replica: Replica

    async def stop(self) -> None:
        """Its server ends with the test."""


@dataclass
class GrpcWorld:
    """`scaled` (line v1 doubles, split over two revisions, v2 triples), `boom` (code), and a channel to the gateway."""

    world: World
    channel: Any

    async def infer(self, asked: Any, *metadata: tuple[str, str], seconds: float = 10) -> Any:
        return await call(self.channel, "ModelInfer")(
            asked, metadata=(*KEY, *metadata), timeout=seconds
        )

    def scaled(self, *rows: list[float], **more: Any) -> Any:
        return infer_request("scaled", {"x": np.array(rows or [[1, 2, 3]], np.float32)}, **more)


@contextlib.asynccontextmanager
async def grpc_world(directory: Path, **settings: Any) -> AsyncIterator[GrpcWorld]:
    async with new_world(**settings) as world, contextlib.AsyncExitStack() as stack:
        twice = scaled_artifact(directory / "twice")
        thrice = scaled_artifact(directory / "thrice", 3.0, 2)
        boom = make_artifact(
            directory / "boom",
            {"model.py": BOOM},
            [example({"say": "hi"}, {"said": "hi"})],
            ArtifactRef("boom", 1),
        )
        group = await stack.enter_async_context(asyncio.TaskGroup())
        stop = asyncio.Event()
        stack.callback(stop.set)
        for number, (artifact, one) in enumerate(
            [
                (twice, RevisionId("scaled", "v1", "1")),
                (twice, RevisionId("scaled", "v1", "2")),
                (thrice, RevisionId("scaled", "v2", "1")),
                (boom, RevisionId("boom", "v1", "1")),
            ]
        ):
            path = world.home.sockets / f"w{number}.sock"
            running = await stack.enter_async_context(in_process(artifact.spec(one, socket=path)))
            group.create_task(
                serve(running.app, Socket(Listen(uds=path)), stop=stop, drain_seconds=1)
            )
            await eventually(path.exists, 5, "listening")
            world.workers[f"w{number}"] = InThisProcess(  # type: ignore[assignment] # all that is asked of one
                Replica(f"w{number}", one, artifact.digest, State.READY, socket=str(path))
            )
        world.set_catalog(
            catalog(
                replace(revision("scaled/v1.1"), digest=twice.digest),
                replace(revision("scaled/v1.2"), digest=twice.digest),
                replace(revision("scaled/v2.1", 2), digest=thrice.digest),
                replace(revision("boom/v1.1"), digest=boom.digest),
                traffic={
                    "scaled/v1": {"1": 60, "2": 40},
                    "scaled/v2": {"1": 100},
                    "boom/v1": {"1": 100},
                },
                pins={"scaled": "v1", "boom": "v1"},
                keys={"demo": ("*",), "other": ("boom",), "reader": ("*:read",)},
            )
        )
        world.set_keys({"demo": "demo-secret", "other": "other-secret", "reader": "reader-secret"})
        world.write_status()
        async with world.running():
            await world.routed()
            async with aio_channel(world.settings.port) as channel:
                yield GrpcWorld(world, channel)
        stop.set()
