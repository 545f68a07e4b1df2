"""What the activator does with a worker whose answer is none."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import AsyncIterator
from pathlib import Path

from fairlead.domain.ids import RevisionId
from fairlead.domain.layout import Home
from fairlead.domain.status import NodeStatus, Replica, State, node_status_to_bytes
from fairlead.domain.table import RoutingTable, table_from
from fairlead.gateway.activator import Activator
from fairlead.gateway.index import index
from fairlead.gateway.settings import GatewaySettings
from fairlead.gateway.state import View
from fairlead.kits.clock import SystemClock
from support.gateway import DIGEST, catalog, revision
from support.serving import eventually

ONE = RevisionId("speech", "v1", "1")
REQUEST = b"GET /v1/model/speech/predict HTTP/1.1\r\nx-fairlead-held: speech/v1/1/predict\r\n\r\n"
ENDLESS = b"HTTP/1.1 200 OK\r\n" + b"x-filler: more and more\r\n" * 10_000


@contextlib.asynccontextmanager
async def activator(directory: Path, answer: bytes) -> AsyncIterator[Activator]:
    """An activator at `directory/a`, and one worker that says this to everybody and then waits."""

    async def says(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)
        with contextlib.suppress(ConnectionError):
            await reader.read()
        writer.close()

    home, path, clock = Home(directory, directory), directory / "w", SystemClock()
    replica = Replica("w1", ONE, DIGEST, State.READY, socket=str(path))
    status = NodeStatus("node", clock.now(), os.getpid(), 1, (replica,))
    home.node_status.parent.mkdir()
    home.node_status.write_bytes(node_status_to_bytes(status))
    wanted = catalog(
        revision("speech/v1.1"), traffic={"speech/v1": {"1": 100}}, pins={"speech": "v1"}, keys={}
    )
    table = index(table_from(wanted, [ONE], {}, RoutingTable()))
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(str(directory / "a"))
    listening.listen()
    one = Activator(View(table, table), home, clock, GatewaySettings())
    async with await asyncio.start_unix_server(says, str(path)), asyncio.TaskGroup() as group:
        serving = group.create_task(one.serve(listening))
        yield one
        serving.cancel()


async def ask(directory: Path) -> bytes:
    """All that comes back, also from a connection that breaks off."""
    reader, writer = await asyncio.open_unix_connection(str(directory / "a"))
    writer.write(REQUEST)
    got = b""
    async with asyncio.timeout(5):
        with contextlib.suppress(ConnectionError):
            while piece := await reader.read(65_536):
                got += piece
    writer.close()
    return got


async def test_an_answer_whose_head_has_no_end_breaks_the_connection_off(tmp_path: Path) -> None:
    async with activator(tmp_path, ENDLESS) as one:
        assert await ask(tmp_path) == b""
        await eventually(lambda: not one.using())
        assert not one.callers


async def test_an_answer_with_a_large_head_passes_whole(tmp_path: Path) -> None:
    head = ENDLESS[:100_000].rpartition(b"\r\n")[0]
    async with activator(tmp_path, head + b"\r\n\r\nbody") as one:
        reader, writer = await asyncio.open_unix_connection(str(tmp_path / "a"), limit=1 << 20)
        writer.write(REQUEST)
        async with asyncio.timeout(5):
            got = await reader.readuntil(b"\r\n\r\nbody")
        assert got.startswith(head)
        writer.close()
        await eventually(lambda: not one.using())
