"""A certificate that changes under a running gateway, with the real Envoy: new connections get it, old ones stay."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import httpx
import pytest

from fairlead.gateway.certificates import Pair, secret
from fairlead.gateway.listener import listener
from support.certificates import der, new_pair, shown, trusting
from support.gateway import World, catalog, eventually, new_world, revision

pytestmark = [pytest.mark.enable_socket, pytest.mark.timeout(60)]

PATH = "/v1/model/speech/predict"


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    certificate, key = new_pair(tmp_path, "first")
    live = tmp_path / "live.pem", tmp_path / "live.key"
    shutil.copy(certificate, live[0])
    shutil.copy(key, live[1])
    async with new_world(certificate=live[0], private_key=live[1]) as made:
        await made.add_worker("a", "speech/v1.1")
        made.write_status()
        made.set_keys({"app": "secret"})
        one = catalog(
            revision("speech/v1.1"),
            traffic={"speech/v1": {"1": 100}},
            pins={"speech": "v1"},
            keys={"app": ("*",)},
        )
        made.set_catalog(one)
        yield made


async def is_shown(world: World, certificate: Path) -> None:
    async def there() -> bool:
        try:
            return await shown(world.settings.port) == der(certificate)
        except OSError:  # nobody listens yet
            return False

    await eventually(there, 10, f"{certificate.name} is shown")


class Caller:
    """One connection that stays open."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    @classmethod
    async def open(cls, world: World) -> Caller:
        return cls(*await asyncio.open_connection("127.0.0.1", world.settings.port, ssl=trusting()))

    def send(self, *headers: str) -> None:
        lines = [f"POST {PATH} HTTP/1.1", "host: x", "x-api-key: secret", *headers]
        self._writer.write("\r\n".join([*lines, "content-length: 0", "", ""]).encode())

    async def status(self) -> int:
        head = (await self._reader.readuntil(b"\r\n\r\n")).decode()
        length = next(
            int(line.split(":")[1])
            for line in head.split("\r\n")
            if line.startswith("content-length:")
        )
        await self._reader.readexactly(length)
        return int(head.split()[1])

    def close(self) -> None:
        self._writer.close()


async def test_a_renewed_certificate_is_shown_and_open_connections_go_on(
    world: World, tmp_path: Path
) -> None:
    first, second = tmp_path / "first.pem", new_pair(tmp_path, "second")
    assert world.settings.certificate
    assert world.settings.private_key
    async with asyncio.TaskGroup() as group:
        beat = group.create_task(world.beat())
        async with world.running():
            await world.routed()
            await is_shown(world, first)
            idle, busy = await Caller.open(world), await Caller.open(world)
            idle.send()
            assert await idle.status() == 200
            busy.send("x-wait: 3")  # under way while the certificate changes
            second[0].replace(world.settings.certificate)
            second[1].replace(world.settings.private_key)
            await is_shown(world, world.settings.certificate)
            assert await busy.status() == 200
            for caller in (idle, busy):
                caller.send()
                assert await caller.status() == 200
                caller.close()
            listeners = await world.envoy.stats(r"^listener_manager.listener_modified$")
            assert list(listeners.values()) == [0]
        beat.cancel()


async def test_halves_that_do_not_fit_are_told_and_the_pair_before_stays(
    world: World, tmp_path: Path
) -> None:
    live = world.settings.certificate
    first, second = tmp_path / "first.pem", new_pair(tmp_path, "second")
    assert live
    assert world.settings.private_key
    async with asyncio.TaskGroup() as group:
        beat = group.create_task(world.beat())
        async with world.running():
            await world.routed()
            live.write_bytes(second[0].read_bytes())  # in place, as `cp` does

            def told() -> bool:
                return "are no pair" in str(world.gateway_status().get("problem"))

            await eventually(told, 10, "told")
            assert await shown(world.settings.port) == der(first)
            live.unlink()
            await eventually(
                lambda: "cannot be read" in str(world.gateway_status().get("problem")), 10, "told"
            )
            live.symlink_to(second[0])
            world.settings.private_key.write_bytes(second[1].read_bytes())
            await is_shown(world, second[0])
            await eventually(lambda: not world.gateway_status().get("problem"), 5, "all right")
            # An Envoy that dies finds the newest pair on the disk, and nobody else can read it.
            kept = world.home.envoy / "sds" / "sds.json"
            assert kept.stat().st_mode & 0o777 == 0o600
            os.kill(world.envoy_pid(), signal.SIGKILL)
            await is_shown(world, second[0])
        beat.cancel()


async def test_without_tls_no_private_key_stays_on_the_disk(world: World) -> None:
    kept = world.home.envoy / "sds" / "sds.json"
    assert world.settings.certificate
    assert world.settings.private_key
    # What a gateway that spoke TLS has left behind.
    pair = Pair(world.settings.certificate, world.settings.private_key)
    await world.envoy.set_certificate(secret(pair))
    await world.envoy.set_listeners([listener(world.settings, world.home)])
    assert "PRIVATE KEY" in kept.read_text()
    world.settings = replace(world.settings, certificate=None, private_key=None)
    async with asyncio.TaskGroup() as group:
        beat = group.create_task(world.beat())
        async with world.running(), world.client(headers={"x-api-key": "secret"}) as client:

            async def answers() -> bool:
                try:
                    return (await client.post(PATH)).status_code == 200
                except httpx.HTTPError:
                    return False

            await eventually(answers, 10, "it answers without TLS")
            await eventually(lambda: "PRIVATE KEY" not in kept.read_text(), 10, "it is gone")
        beat.cancel()
