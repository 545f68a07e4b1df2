"""What belongs to a key outlives the gateway's process: its bucket, its count, the end of its old secret."""

from __future__ import annotations

import contextlib
import os
from dataclasses import replace

import pytest

from fairlead.adapters.secrets import SecretsFile
from fairlead.domain.catalog import Catalog, with_key
from fairlead.domain.keys import Quota, Rate
from fairlead.domain.ports import OldSecret
from support.gateway import (
    CLOCK,
    World,
    catalog,
    eventually,
    gateway_process,
    new_world,
    revision,
)

pytestmark = [pytest.mark.enable_socket, pytest.mark.timeout(120)]

PREDICT = "/v1/model/speech/predict"


def wanted() -> Catalog:
    found = catalog(
        revision("speech/v1.1"),
        traffic={"speech/v1": {"1": 100}},
        pins={"speech": "v1"},
        keys={"app": ("speech",), "free": ("*",)},
    )
    return with_key(found, replace(found.keys["app"], quota=Quota(Rate(1, 3600, 5))))


async def statuses(world: World, secret: str, count: int) -> list[int]:
    async with world.client() as client:
        headers = {"x-api-key": secret}
        return [(await client.post(PREDICT, headers=headers)).status_code for _ in range(count)]


@pytest.mark.slow
async def test_a_killed_gateway_takes_no_bucket_no_count_and_no_end_with_it() -> None:
    async with new_world(on_disk=True) as world, contextlib.AsyncExitStack() as stack:
        world.set_catalog(wanted())
        secrets = SecretsFile(world.home.keys)
        secrets.put("free", "s-free")
        secrets.put("app", "s-app", (OldSecret("s-before", CLOCK.now() + 60),))
        await world.add_worker("w1", "speech/v1.1")
        world.write_status()
        life, owner = os.pipe()
        stack.callback(os.close, life)
        stack.callback(os.close, owner)
        async with gateway_process(world, life) as first:
            await world.routed(15)
            assert await statuses(world, "s-before", 2) == [200, 200]
            assert await statuses(world, "s-free", 50) == [200] * 50
            pid = world.envoy_pid()
            first.kill()
            await first.wait()
        # Nobody counts and nobody ends anything now, but Envoy still knows the quota.
        assert await statuses(world, "s-app", 4) == [200, 200, 200, 429]
        secrets.put("app", "s-app", (OldSecret("s-before", CLOCK.now() - 1),))  # its time is over
        world.home.gateway_status.unlink()
        async with gateway_process(world, life):
            await world.routed(15)
            assert world.envoy_pid() == pid
            assert await statuses(world, "s-before", 1) == [401]
            assert await statuses(world, "s-app", 1) == [429]

            async def counted() -> bool:
                async with world.client() as client:
                    told = (await client.get("/metrics")).text
                wanted = {"app": 7, "free": 50}
                return all(
                    f'fairlead_key_requests_total{{key="{key}"}} {count}\n' in told
                    for key, count in wanted.items()
                )

            await eventually(counted, 12, "every request was counted once")
