"""The gateway ends while its callers ask on: whoever has asked is answered, and told to ask no more here."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

import pytest

from support.gateway import World, catalog, eventually, new_world, revision

pytestmark = [pytest.mark.enable_socket, pytest.mark.timeout(60)]

_CALLERS = 4
# So slow that some request is always under way.
_REQUEST = (
    b"POST /v1/model/speech/predict HTTP/1.1\r\nhost: gateway\r\nx-api-key: demo-secret\r\n"
    b"x-wait: 0.1\r\ncontent-length: 0\r\n\r\n"
)


@dataclass
class Seen:
    """How each caller's last request on its connection ended."""

    answered: int = 0
    others: set[str] = field(default_factory=set)  # headers that are Envoy's own business
    told: int = 0  # the answer said that the connection closes
    cut: list[str] = field(default_factory=list)


async def ask_on(port: int, seen: Seen) -> None:
    """Ask on one connection, as a client that keeps its connections does, until the answer says that it closes."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        while True:
            writer.write(_REQUEST)
            try:
                head = await reader.readuntil(b"\r\n\r\n")
                length = next(
                    int(line.partition(b":")[2])
                    for line in head.lower().split(b"\r\n")
                    if line.startswith(b"content-length:")
                )
                await reader.readexactly(length)
            except (asyncio.IncompleteReadError, ConnectionError) as error:
                seen.cut.append(repr(error))
                return
            seen.answered += 1
            names = {line.partition(b":")[0].decode() for line in head.lower().split(b"\r\n")}
            seen.others |= {name for name in names if name.startswith("x-envoy")}
            if b"\r\nconnection: close\r\n" in head.lower():
                seen.told += 1
                return
    finally:
        writer.close()


async def prepared(world: World) -> None:
    world.set_catalog(
        catalog(
            revision("speech/v1.1"),
            traffic={"speech/v1": {"1": 100}},
            pins={"speech": "v1"},
            keys={"demo": ("*",)},
        )
    )
    world.set_keys({"demo": "demo-secret"})
    await world.add_worker("w1", "speech/v1.1")
    world.write_status()


async def test_callers_who_ask_on_are_answered_and_told_that_their_connection_closes() -> None:
    """Before Envoy ends: what they sent into an open connection of an Envoy that is gone would be lost."""
    seen = Seen()
    async with new_world() as world:
        await prepared(world)
        async with asyncio.TaskGroup() as group, world.running():
            await world.routed()
            for _ in range(_CALLERS):
                group.create_task(ask_on(world.settings.port, seen))
            await eventually(lambda: seen.answered >= 2 * _CALLERS, 10, "they ask")
            before = seen.answered
            await world.envoy.drain(5.0)
            assert (seen.told, seen.cut) == (_CALLERS, [])
            # Each in the answer that was under way, or in the one after it. Envoy itself begins to tell a second later:
            # too late where nobody happens to have a request under way when it is asked whether somebody has.
            assert seen.answered - before <= 2 * _CALLERS
            with pytest.raises(ConnectionRefusedError):
                await asyncio.open_connection("127.0.0.1", world.settings.port)
    assert seen.others == set()
