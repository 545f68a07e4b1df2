"""Replicas that take few requests at a time, behind the real Envoy: each request goes to whoever has the least."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from fairlead.domain.release import EndpointSpec
from support.gateway import catalog, new_world, revision

pytestmark = [pytest.mark.enable_socket, pytest.mark.timeout(60)]

PREDICT = "/v1/model/speech/predict"
REPLICAS = ("w1", "w2", "w3", "w4")


async def test_no_request_waits_behind_another_while_a_replica_has_nothing_to_do() -> None:
    spec = EndpointSpec("predict", 4, 4, 1)  # they cannot become more: requests go to them directly
    async with new_world() as world:
        first = replace(revision("speech/v1.1"), endpoints=(spec,))
        keys = {"demo": ("*",)}
        world.set_catalog(
            catalog(first, traffic={"speech/v1": {"1": 100}}, pins={"speech": "v1"}, keys=keys)
        )
        world.set_keys({"demo": "demo-secret"})
        for name in REPLICAS:
            await world.add_worker(name, "speech/v1.1")
        world.write_status()
        async with world.running(), world.client() as client:
            await world.routed()

            async def ask() -> str:
                headers = {"x-api-key": "demo-secret", "x-wait": "0.1"}
                answer = await client.post(PREDICT, headers=headers, content=b"{}")
                assert answer.status_code == 200
                return str(answer.json()["worker"])

            async def together() -> list[str]:
                return sorted(await asyncio.gather(*(ask() for _ in REPLICAS)))

            # A request that waits for a new connection is not counted yet.
            met: set[str] = set()
            async with asyncio.timeout(10):
                while met != set(REPLICAS):
                    met.update(await together())
            for _ in range(5):  # where Envoy draws two to compare, it misses the free one soon
                assert await together() == list(REPLICAS)
