"""Batches in a real worker: measured once, kept, shared by clients that leave, and drained."""

from __future__ import annotations

import asyncio
import json
import re
from pathlib import Path

import pytest

from fairlead.api.worker import ServedEndpoint
from fairlead.domain.measured import measured_from_bytes
from support.models import HEAVY_WIDTH, heavy_artifact
from support.serving import eventually, worker

PATH = "/v1/model/echo/predict"
BODY = json.dumps({"instances": [[0.5] * HEAVY_WIDTH]}).encode()
HEAD = f"POST {PATH} HTTP/1.1\r\nhost: w\r\ncontent-length: {len(BODY)}\r\n\r\n".encode()


@pytest.mark.timeout(120)
async def test_many_share_runs_some_leave_and_nobody_is_forgotten(tmp_path: Path) -> None:
    made = heavy_artifact(tmp_path / "a")
    record = tmp_path / "kept.json"
    spec = made.spec(
        socket=tmp_path / "w.sock",
        endpoints=(ServedEndpoint(batching={"enabled": True, "maxBatchSize": 8}),),
        measured=record,
    )
    async with worker(spec, tmp_path) as one:
        assert measured_from_bytes(record.read_bytes()) is not None
        answers = []

        async def client(number: int) -> None:
            if number % 5 == 0:  # it asks and leaves
                _, writer = await asyncio.open_unix_connection(str(spec.socket))
                writer.write(HEAD + BODY)
                await writer.drain()
                writer.close()
                await writer.wait_closed()
                return
            answers.append(await one.client.post(PATH, content=BODY))

        async with asyncio.timeout(60):
            await asyncio.gather(*(client(number) for number in range(100)))
        assert {answer.status_code for answer in answers} == {200}
        timings = [answer.headers["server-timing"] for answer in answers]
        sizes = [int(found[1]) for each in timings if (found := re.search(r"desc=(\d+)", each))]
        assert len(sizes) == 80
        assert 1 < max(sizes) <= 8

        async def idle() -> bool:
            metrics = (await one.client.get("/metrics")).text
            waiting = re.search(r"^fairlead_batch_queue_size\{.*\} (\S+)$", metrics, re.MULTILINE)
            progress = re.findall(
                r"^fairlead_requests_in_progress\{.*\} (\S+)$", metrics, re.MULTILINE
            )
            assert waiting is not None
            return {float(waiting[1]), *map(float, progress)} == {0.0}

        await eventually(idle)
        last = [asyncio.ensure_future(one.client.post(PATH, content=BODY)) for _ in range(30)]
        await asyncio.sleep(0)
        assert (await asyncio.gather(*last))[0].status_code == 200
        assert await one.stop() == 0
