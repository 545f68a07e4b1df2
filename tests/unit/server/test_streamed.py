"""Streams over the real protocol: early first bytes, leaving, breaking, waiting, and everybody's own sound."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import psutil
import pytest

from fairlead.domain.errors import Kind
from fairlead.engines.speech.tone import CRASH, pitch_of
from fairlead.server.endpoint import Endpoint
from support.plain import NO_TLS
from support.serving import InProcess, eventually, in_process, listening
from support.speech import STREAM, VALIDATE, heard, heard_samples, hum_artifact, speech_spec

LONG = "b" * 9999  # ten minutes of sound
WAV = {"accept": "audio/wav"}


@dataclass
class Running:
    inner: InProcess
    client: httpx.AsyncClient
    socket: Path
    listening: list[AsyncIterator[bytes]] = field(
        default_factory=list
    )  # one that is forgotten is closed

    async def first(self, answer: httpx.Response) -> bytes:
        """The first piece; the rest of the answer stays to be read."""
        self.listening.append(answer.aiter_raw())
        return await anext(self.listening[-1])

    async def rest(self) -> bytes:
        """All that follows it."""
        return b"".join([piece async for piece in self.listening[-1]])

    @property
    def endpoint(self) -> Endpoint:
        return next(one for one in self.inner.plane.endpoints() if one.id.endpoint == "stream")

    def errors(self) -> dict[Kind, int]:
        found: dict[Kind, int] = {}
        for route in self.inner.plane.stats:
            for kind, count in route.errors.items():
                found[kind] = found.get(kind, 0) + count
        return found

    def say(
        self, text: str, **headers: str
    ) -> contextlib.AbstractAsyncContextManager[httpx.Response]:
        body = json.dumps({"speaker_id": 0, "text": text})
        return self.client.stream("POST", STREAM, content=body, headers=headers)


@contextlib.asynccontextmanager
async def running(tmp_path: Path, pace: float = 0, concurrency: int = 1, **more: float):
    spec = speech_spec(hum_artifact(tmp_path / "voice", pace), concurrency, **more)
    async with in_process(spec) as inner, listening(inner.app, tmp_path / "s") as socket:
        transport = httpx.AsyncHTTPTransport(
            uds=str(socket), limits=httpx.Limits(max_connections=None), verify=NO_TLS
        )
        async with httpx.AsyncClient(
            transport=transport, base_url="http://w", timeout=40
        ) as client:
            yield Running(inner, client, socket)


def now() -> float:
    return asyncio.get_running_loop().time()


async def test_the_first_byte_comes_long_before_the_last(tmp_path):
    async with running(tmp_path, pace=1) as server, server.say("a" * 20) as answer:
        began = now()
        times = [now() - began async for _ in answer.aiter_raw()]
        assert times[0] < 0.25 * 1.2
        assert times[-1] > 0.9


async def test_each_stream_has_its_own_sound(tmp_path):
    async with running(tmp_path, concurrency=4) as server:

        async def one(text: str) -> None:
            async with server.say(text, accept="audio/pcm") as answer:
                sound = heard_samples(await answer.aread())
            assert sound.hertz == pytest.approx(pitch_of(text), abs=2)
            assert sound.seconds == pytest.approx(0.06 * len(text), abs=0.02)

        async with asyncio.TaskGroup() as group:
            for number in range(32):
                group.create_task(one(f"this is text number {number}"))
        assert server.endpoint.admission.taken == 0
        assert not server.errors()


async def test_a_client_that_leaves_frees_its_slot_within_100_ms(tmp_path):
    times: list[float] = []
    async with running(tmp_path, pace=2) as server:
        while len(times) < 3 and min(times, default=1.0) > 0.1:  # a machine may be busy
            async with server.say(LONG) as answer:
                await server.first(answer)
                assert server.endpoint.admission.taken == 1
                began = now()
            await eventually(lambda: server.endpoint.admission.taken == 0, 2)
            times.append(now() - began)
        assert min(times) < 0.1, times
        await eventually(lambda: server.errors() == {Kind.CANCELLED: len(times)}, 2)
        assert server.endpoint.wasted_seconds > 0


async def test_one_that_leaves_in_the_queue_takes_no_slot(tmp_path):
    async with running(tmp_path, pace=2) as server, server.say(LONG) as first:
        await server.first(first)
        async with asyncio.TaskGroup() as group:
            waiting = group.create_task(
                server.client.post(STREAM, content=b'{"speaker_id":0,"text":"hm"}')
            )
            await eventually(lambda: server.endpoint.admission.waiting == 1)
            waiting.cancel()
        await eventually(lambda: server.endpoint.admission.waiting == 0)
        assert server.endpoint.admission.taken == 1


async def test_what_fails_after_the_first_byte_breaks_the_connection(tmp_path):
    async with running(tmp_path) as server:
        async with server.say(f"a {CRASH} and more") as answer:
            assert answer.status_code == 200
            with pytest.raises(httpx.RemoteProtocolError):
                await answer.aread()
        assert server.errors() == {Kind.MODEL: 1} == server.endpoint.streams.broken
        async with server.say("fine") as answer:
            assert heard(await answer.aread()).hertz == pytest.approx(pitch_of("fine"), abs=5)


async def test_what_fails_before_the_first_byte_is_an_answer(tmp_path):
    async with running(tmp_path) as server, server.say(CRASH) as answer:
        await answer.aread()
        assert answer.status_code == 500
        assert answer.json() == {"message": "Unknown error.", "code": "UNKNOWN_ERROR"}
        assert server.errors() == {Kind.MODEL: 1}


async def test_the_total_time_is_kept_and_breaks_the_stream(tmp_path):
    async with running(tmp_path, pace=2) as server:
        headers = {"x-request-timeout-ms": "1500"}  # the first byte comes long before
        began = now()
        async with server.say(LONG, **headers) as answer:
            with pytest.raises(httpx.RemoteProtocolError):
                await answer.aread()
        assert 1.4 < now() - began < 10
        assert server.errors() == {Kind.DEADLINE: 1}


async def test_a_full_queue_is_refused_and_a_late_one_too(tmp_path):
    async with running(tmp_path, pace=2) as server, server.say(LONG) as first:
        await server.first(first)
        async with server.say("hm", **{"x-request-timeout-ms": "50"}) as answer:
            await answer.aread()
            assert answer.status_code == 504
            assert answer.json() == {"message": "no answer within 0.05 s", "code": "UNKNOWN_ERROR"}
        async with asyncio.TaskGroup() as group:
            waiting = [
                group.create_task(
                    server.client.post(STREAM, content=b'{"speaker_id":0,"text":"hm"}')
                )
                for _ in range(10)
            ]
            await eventually(lambda: server.endpoint.admission.waiting == 10)
            async with server.say("hm") as answer:
                await answer.aread()
                assert answer.status_code == 503
                assert answer.json()["message"] == "pending request queue full"
            check = await server.client.post(VALIDATE, content=b'{"speaker_id":0,"text":"hm"}')
            assert check.status_code == 200  # another endpoint
            for one in waiting:
                one.cancel()


async def test_a_client_that_takes_nothing_holds_up_the_voice_and_is_broken_off(tmp_path):
    async with running(tmp_path) as server:
        server.inner.app.streaming.idle_seconds = 0.5
        reader, writer = await asyncio.open_unix_connection(str(server.socket), limit=1024)
        body = json.dumps({"speaker_id": 0, "text": LONG}).encode()
        writer.write(
            b"POST %b HTTP/1.1\r\nhost: w\r\naccept: audio/wav\r\ncontent-length: %d\r\n\r\n%b"
            % (STREAM.encode(), len(body), body)
        )
        await reader.readline()
        await eventually(lambda: server.errors() == {Kind.DEADLINE: 1}, 5)
        assert server.endpoint.admission.taken == 0
        taken = 0
        with contextlib.suppress(ConnectionError):
            while piece := await reader.read(65536):
                taken += len(piece)
        assert taken < 2_000_000  # of 28 MB: what lies in buffers, and no more
        writer.close()


async def test_a_slow_client_gets_all_of_it(tmp_path):
    async with running(tmp_path) as server, server.say("c" * 400, **WAV) as answer:
        first = await server.first(answer)
        child = psutil.Process(server.endpoint.model.pids[0])  # type: ignore[attr-defined]
        await eventually(lambda: child.status() == psutil.STATUS_SLEEPING)
        assert server.endpoint.admission.taken == 1  # 1.1 MB: more than lies in buffers
        assert heard(first + await server.rest()).seconds == pytest.approx(24.0, abs=0.05)


async def test_a_model_that_falls_silent_is_a_failure_of_the_model(tmp_path):
    async with running(tmp_path, pace=2) as server:
        server.inner.app.streaming.idle_seconds = 0.3
        async with server.say(LONG) as answer:
            await server.first(answer)
            (pid,) = server.endpoint.model.pids  # type: ignore[attr-defined]
            os.kill(pid, signal.SIGSTOP)
            with pytest.raises(httpx.RemoteProtocolError):
                await server.rest()
        assert server.errors() == {Kind.MODEL: 1}
        await eventually(lambda: server.endpoint.admission.taken == 0)


async def test_a_stream_ends_uncleanly_when_its_server_must(tmp_path):
    async with running(tmp_path, pace=2) as server, server.say(LONG) as answer:
        await server.first(answer)
        (task,) = [one for one in asyncio.all_tasks() if "run_asgi" in repr(one)]
        task.cancel()  # as the server does when its drain time is over
        with pytest.raises(httpx.RemoteProtocolError):
            await server.rest()
        assert server.errors() == {Kind.UNAVAILABLE: 1}
