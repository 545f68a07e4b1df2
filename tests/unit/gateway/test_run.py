"""The process: when it gives up, and when it must not."""

from __future__ import annotations

import asyncio
import json
import os
import stat
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import pytest

from fairlead.adapters.memory.envoy import MemoryEnvoy
from fairlead.adapters.memory.store import MemoryObjectStore
from fairlead.adapters.store.catalogs import StoredCatalogs
from fairlead.domain.errors import FairleadError
from fairlead.domain.layout import Home
from fairlead.gateway.run import run_gateway
from fairlead.gateway.settings import GatewaySettings
from support.gateway import CLOCK, eventually


@contextmanager
def short_home(mode: int = 0o700) -> Iterator[Home[Path]]:
    with tempfile.TemporaryDirectory(prefix="fl-") as directory:
        root = Path(directory)
        (root / "s").mkdir()
        (root / "s").chmod(mode)
        yield Home(root, root / "s")


@asynccontextmanager
async def running(home: Home[Path], envoy: MemoryEnvoy) -> AsyncIterator[asyncio.Task[int]]:
    life, owner = os.pipe()
    catalogs = StoredCatalogs(MemoryObjectStore(), CLOCK)
    async with asyncio.TaskGroup() as group:
        task = group.create_task(run_gateway(GatewaySettings(), home, catalogs, envoy, CLOCK, life))
        try:
            yield task
        finally:
            os.close(owner)
    os.close(life)


async def test_an_adopted_envoy_is_never_stopped_because_it_refuses_a_move() -> None:
    envoy = MemoryEnvoy()
    envoy.alive, envoy.refuse = True, "routes"
    with short_home() as home:
        async with running(home, envoy) as task:

            def said() -> bool:
                return "routes stay" in json.loads(home.gateway_status.read_bytes())["problem"]

            await eventually(home.gateway_status.exists, 5, "a status")
            await eventually(said, 5, "the problem is said")
            assert envoy.alive
            assert not task.done()
            assert "stop" not in envoy.told
            envoy.refuse = ""
            await eventually(lambda: "routes" in envoy.told, 5, "it moves when it can")
        assert await task == 0


class _Forgetful(MemoryEnvoy):
    """Does not start with the routes it was told last, so it is started without."""

    async def start(self, bootstrap: dict[str, Any]) -> None:
        await self.set_routes({})
        await super().start(bootstrap)


async def test_an_envoy_that_was_started_anew_is_told_everything_once_more() -> None:
    envoy = _Forgetful()
    envoy.alive = True
    with short_home() as home:
        async with running(home, envoy):
            await eventually(envoy.routes, 5, "the first routes")
            first = envoy.routes()
            envoy.die()
            await eventually(lambda: "start" in envoy.told, 5, "the next one")
            await eventually(lambda: envoy.routes() == first, 5, "its routes")


async def test_sockets_are_for_this_user_only() -> None:
    envoy = MemoryEnvoy()
    envoy.alive = True
    with short_home() as home:
        async with running(home, envoy):
            await eventually(home.front_socket.exists, 5, "the front desk listens")
            assert stat.S_IMODE(home.front_socket.stat().st_mode) == 0o600


async def test_a_socket_directory_others_may_enter_is_refused_with_a_message() -> None:
    with short_home(0o755) as home:
        catalogs = StoredCatalogs(MemoryObjectStore(), CLOCK)
        with pytest.raises(FairleadError, match="only you may enter"):
            await run_gateway(GatewaySettings(), home, catalogs, MemoryEnvoy(), CLOCK)
