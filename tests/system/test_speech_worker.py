"""A worker of a voice by itself: it ends in order, and streams under way are heard to their end."""

from __future__ import annotations

import asyncio
from pathlib import Path

import httpx
import pytest

from support.serving import worker
from support.speech import STREAM, heard, hum_artifact, speech_spec


@pytest.mark.parametrize(("drain_seconds", "whole"), [(20.0, True), (0.3, False)])
async def test_a_worker_that_ends_lets_its_streams_end_within_the_drain_time(
    tmp_path: Path, drain_seconds: float, *, whole: bool
) -> None:
    spec = speech_spec(
        hum_artifact(tmp_path / "voice", pace=2), socket=tmp_path / "s", drain_seconds=drain_seconds
    )
    asked = {"speaker_id": 0, "text": "a" * 60}  # 3.6 s of sound in 1.8
    async with (
        worker(spec, tmp_path) as running,
        running.client.stream(
            "POST", STREAM, json=asked, headers={"accept": "audio/wav"}
        ) as answer,
    ):
        pieces = answer.aiter_raw()
        sound = await anext(pieces)
        async with asyncio.TaskGroup() as group:
            ending = group.create_task(running.stop())
            try:
                sound += b"".join([piece async for piece in pieces])
            except httpx.RemoteProtocolError:
                assert not whole
            else:
                assert whole
                assert heard(sound).seconds == pytest.approx(3.6, abs=0.05)
        assert ending.result() == 0
