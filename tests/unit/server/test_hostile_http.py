"""What a hostile caller sends a worker or a stand-alone server: bytes that mean two things, heads and bodies without end."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from fairlead.api.worker import ServingSettings
from fairlead.domain.ids import RevisionId
from support.effort import PATIENCE
from support.models import ECHO, example, make_artifact, scaled_artifact
from support.serving import eventually, in_process, listening

PREDICT = b"POST /v1/model/scaled/predict HTTP/1.1\r\nhost: here\r\n"
BODY = json.dumps({"instances": [[1.0, 2.0, 3.0]]}).encode()
GOOD = PREDICT + b"content-length: %d\r\n\r\n%b" % (len(BODY), BODY)
SMUGGLED = b"GET /internal/identity HTTP/1.1\r\nhost: here\r\n\r\n"


@pytest_asyncio.fixture
async def server(tmp_path: Path) -> AsyncIterator[Path]:
    spec = scaled_artifact(tmp_path / "scaled").spec(RevisionId("scaled", "v1", "1"))
    async with in_process(spec) as running, listening(running.app, tmp_path / "s", 30) as path:
        yield path


async def exchange(path: Path, sent: bytes, *, wait_for: bytes = b"") -> bytes:
    """Everything that comes back until `wait_for`, or the end of the connection."""
    reader, writer = await asyncio.open_unix_connection(str(path))
    found = b""
    try:
        writer.write(sent)
        async with asyncio.timeout(5 * PATIENCE):
            while not wait_for or wait_for not in found:
                part = await reader.read(65536)
                if not part:
                    break
                found += part
    except ConnectionError:
        pass  # it was cut off, which is an answer too
    finally:
        writer.transport.abort()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()
    return found


CHUNKED = b"0\r\n\r\n"
AMBIGUOUS = {
    "length and chunks": PREDICT
    + b"content-length: 5\r\ntransfer-encoding: chunked\r\n\r\n"
    + CHUNKED,
    "chunks and length": PREDICT
    + b"transfer-encoding: chunked\r\ncontent-length: 5\r\n\r\n"
    + CHUNKED,
    "two lengths": PREDICT + b"content-length: 0\r\ncontent-length: 5\r\n\r\n",
    "two lengths in one": PREDICT + b"content-length: 0, 5\r\n\r\n",
    "a signed length": PREDICT + b"content-length: +5\r\n\r\n",
    "a length in hex": PREDICT + b"content-length: 0x5\r\n\r\n",
    "a negative length": PREDICT + b"content-length: -1\r\n\r\n",
    "a length of too many digits": PREDICT + b"content-length: 99999999999999999999\r\n\r\n",
    "an encoding nobody knows": PREDICT + b"transfer-encoding: xchunked\r\n\r\n" + CHUNKED,
    "chunked is not last": PREDICT + b"transfer-encoding: chunked, identity\r\n\r\n" + CHUNKED,
    "a space before the colon": PREDICT + b"content-length : 0\r\n\r\n",
    "a folded header": PREDICT + b"x-a: b\r\n content-length: 5\r\n\r\n",
    "a bare return in a header": PREDICT + b"x-a: b\rcontent-length: 5\r\n\r\n",
    "a zero byte in a header": PREDICT + b"x-a: b\0c\r\n\r\n",
    "a chunk without a size": PREDICT + b"transfer-encoding: chunked\r\n\r\n;a\r\n\r\n",
    "a chunk longer than its size": PREDICT
    + b"transfer-encoding: chunked\r\n\r\n1\r\nabc\r\n0\r\n\r\n",
    "no such version": b"GET /livez HTTP/9.9\r\nhost: here\r\n\r\n",
}


@pytest.mark.parametrize("name", AMBIGUOUS)
async def test_bytes_that_could_be_read_in_two_ways_end_the_connection(
    server: Path, name: str
) -> None:
    answer = await exchange(server, AMBIGUOUS[name] + SMUGGLED)
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert answer.count(b"HTTP/1.1") == 1
    assert b"worker" not in answer
    assert b"200 OK" in await exchange(server, GOOD, wait_for=b"}")


async def test_a_head_without_an_end_is_not_kept(server: Path) -> None:
    for head in (b"x-a: " + b"a" * 400_000, b"x-a: a\r\n" * 50_000):
        answer = await exchange(server, PREDICT + head)
        assert not answer or answer.startswith(b"HTTP/1.1 431 ")


@pytest.mark.parametrize("body", [b"", BODY[:-5]], ids=["no byte", "some bytes"])
@pytest.mark.parametrize("length", [len(BODY), 1 << 20], ids=["quick", "large"])
async def test_a_body_that_never_comes_frees_its_connection(
    tmp_path: Path, body: bytes, length: int
) -> None:
    spec = scaled_artifact(tmp_path / "scaled").spec(RevisionId("scaled", "v1", "1"))
    async with in_process(spec) as running, listening(running.app, tmp_path / "s", 0.05) as path:
        assert (
            await exchange(path, PREDICT + b"content-length: %d\r\n\r\n%b" % (length, body)) == b""
        )
        stats = [one for one in running.plane.stats if one.endpoint is not None]
        await eventually(lambda: not any(one.in_progress for one in stats))


LENGTHS = {
    "quick": b"content-length: 4000\r\n\r\n",
    "ordinary": b"content-length: 100000\r\n\r\n",
    "large": b"content-length: 1000000\r\n\r\n",
    "chunked": b"transfer-encoding: chunked\r\n\r\n",
}


@pytest.mark.parametrize("kind", LENGTHS)
async def test_a_body_that_comes_too_slowly_frees_its_connection(tmp_path: Path, kind: str) -> None:
    spec = scaled_artifact(tmp_path / "scaled").spec(RevisionId("scaled", "v1", "1"))
    piece = b"1\r\n \r\n" if kind == "chunked" else b" "
    async with in_process(spec) as running, listening(running.app, tmp_path / "s", 0.1) as path:
        reader, writer = await asyncio.open_unix_connection(str(path))
        writer.write(PREDICT + LENGTHS[kind])

        async def trickle() -> None:
            while True:
                writer.write(piece)
                await asyncio.sleep(0.01)  # far less than an idle connection may stay

        sending = asyncio.ensure_future(trickle())
        async with asyncio.timeout(5 * PATIENCE):
            with contextlib.suppress(ConnectionError):
                assert await reader.read() == b""
        sending.cancel()
        writer.close()
        stats = [one for one in running.plane.stats if one.endpoint is not None]
        await eventually(lambda: not any(one.in_progress for one in stats))
        assert running.app.bodies.held == 0


async def test_many_large_bodies_at_once_are_refused_and_the_memory_comes_back(
    tmp_path: Path,
) -> None:
    slow = ECHO.replace("def predict", "async def predict").replace(
        "        if request.text",
        "        import asyncio; await asyncio.sleep(0.3)\n        if request.text",
    )
    artifact = make_artifact(
        tmp_path / "echo",
        {"model.py": slow, "suffix.txt": "!"},
        [example({"text": "a"}, {"text": "a!"})],
    )
    settings = ServingSettings(bodies_limit_bytes=250_000)
    spec = artifact.spec(RevisionId("echo", "v1", "1"), settings=settings)
    body = json.dumps({"text": "x" * 100_000}).encode()
    async with in_process(spec) as running:
        ask = functools.partial(running.client.post, "/v1/model/echo/predict", content=body)
        answers = await asyncio.gather(*(ask() for _ in range(5)))
        assert sorted(one.status_code for one in answers) == [200, 200, 503, 503, 503]
        refused = next(one for one in answers if one.status_code == 503)
        assert "may hold 250000 bytes together" in refused.text
        assert running.app.bodies.held == 0
        assert (await ask()).status_code == 200


async def test_paths_and_methods_of_strangers_make_no_new_metrics(server: Path) -> None:
    async def series() -> set[bytes]:
        text = await exchange(server, b"GET /metrics HTTP/1.1\r\n\r\n", wait_for=b"# EOF")
        return {line.rpartition(b" ")[0] for line in text.splitlines() if line.startswith(b"fa")}

    await exchange(server, b"GET /nope HTTP/1.1\r\n\r\n", wait_for=b"}")
    before = await series()
    for number in range(60):
        method = (b"GET", b"POST", b"PROPFIND")[number % 3]
        target = (b"/x%d", b"/v2/models/x%d", b"/v1/model/scaled/predict?x=%d")[
            number // 20
        ] % number
        await exchange(
            server, b"%b %b HTTP/1.1\r\ncontent-length: 0\r\n\r\n" % (method, target), wait_for=b"}"
        )
    grown = await series() - before
    strange = (b"/x", b"PROPFIND", b"?x=")
    assert not [line for line in grown if any(one in line for one in strange)]
