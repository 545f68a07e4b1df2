"""`Server-Timing`: the same facts whichever way a request is answered."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
import xxhash
from hypothesis import assume, given, strategies as st

from fairlead.domain.ids import BUCKETS, RevisionId
from fairlead.domain.requests import Timing, read_timing
from fairlead.domain.routing import Ask, bucket_of
from fairlead.server.http.serve import Listen, Socket, serve
from fairlead.server.http.timing import after_run, bucket_only, not_run, so_far
from fairlead.server.times import Times
from support.models import scaled_artifact
from support.serving import InProcess, eventually, in_process

PREDICT = "/v1/model/scaled/predict"
BODY = json.dumps({"instances": [[1, 2, 3]]}).encode()


@pytest_asyncio.fixture
async def server(tmp_path: Path) -> AsyncIterator[tuple[InProcess, Path]]:
    spec = scaled_artifact(tmp_path / "scaled").spec(RevisionId("scaled", "v1", "2"))
    async with in_process(spec) as running, asyncio.TaskGroup() as group:
        stop = asyncio.Event()
        at = Socket(Listen(uds=tmp_path / "s"))
        group.create_task(serve(running.app, at, stop=stop, drain_seconds=5))
        await eventually((tmp_path / "s").exists)
        yield running, tmp_path / "s"
        stop.set()


async def over_the_wire(path: Path, body: bytes, *headers: tuple[str, str]) -> Timing:
    """One request through the fast lane; what its answer says of how it went."""
    reader, writer = await asyncio.open_unix_connection(str(path))
    lines = [f"POST {PREDICT} HTTP/1.1", f"content-length: {len(body)}"]
    lines += [f"{name}: {value}" for name, value in headers]
    writer.write("\r\n".join([*lines, "", ""]).encode() + body)
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
    (said,) = [line for line in head.split("\r\n") if line.startswith("server-timing: ")]
    writer.close()
    with contextlib.suppress(ConnectionError):
        await writer.wait_closed()
    return read_timing(said.partition(": ")[2])


def bucket(caller: str) -> int:
    return xxhash.xxh64_intdigest(caller.encode()) % BUCKETS


async def test_a_quick_request_says_how_it_went(server: tuple[InProcess, Path]) -> None:
    _, path = server
    told = await over_the_wire(path, BODY, ("x-client", "demo"))
    assert told.queue_ms is not None
    assert told.engine_ms is not None
    assert 0 <= told.queue_ms < 5000
    assert 0 < told.engine_ms < 5000
    assert (told.batch, told.bucket) == (1, bucket("demo"))
    sticky = await over_the_wire(path, BODY, ("x-client", "demo"), ("X-Sticky-Key", "me"))
    assert sticky.bucket == bucket("me")
    empty = await over_the_wire(path, BODY, ("x-client", "demo"), ("X-Sticky-Key", ""))
    assert empty.bucket == bucket("")
    assert (await over_the_wire(path, BODY)).bucket is None


async def test_a_request_that_is_wrong_was_not_run(server: tuple[InProcess, Path]) -> None:
    _, path = server
    told = await over_the_wire(path, b"{", ("x-client", "demo"))
    assert (told.engine_ms, told.batch, told.bucket) == (None, None, bucket("demo"))
    assert told.queue_ms is not None


@pytest.mark.parametrize(
    ("body", "ran"), [(BODY, True), (b"{", False), (b'{"instances": [[1]]}', False)]
)
async def test_through_asgi_it_says_the_same(
    server: tuple[InProcess, Path], body: bytes, ran: bool
) -> None:
    running, _ = server
    answer = await running.client.post(
        PREDICT, content=body, headers={"x-client": "demo", "x-sticky-key": "me"}
    )
    told = read_timing(answer.headers["server-timing"])
    assert (told.engine_ms is not None, told.batch) == (ran, 1 if ran else None)
    assert told.bucket == bucket("me")


async def test_what_needs_no_run_says_the_bucket_only(server: tuple[InProcess, Path]) -> None:
    running, _ = server
    for path in ("/v2/models/scaled", "/v2/models/scaled/ready", "/v1/model/scaled/nothing"):
        answer = await running.client.get(path, headers={"x-client": "demo"})
        assert read_timing(answer.headers["server-timing"]) == Timing(bucket=bucket("demo"))
    assert "server-timing" not in (await running.client.get("/livez")).headers


def test_a_sticky_key_sent_twice_has_no_bucket_that_we_would_know() -> None:
    raw = [(b"x-client", b"demo"), (b"x-sticky-key", b"a"), (b"x-sticky-key", b"b")]
    assert bucket_only(dict(raw), raw) == b""
    raw = [(b"x-client", b"demo"), (b"x-sticky-key", b"a"), (b"cookie", b"a"), (b"cookie", b"b")]
    assert bucket_only(dict(raw), raw) != b""


def test_a_request_says_how_far_it_got() -> None:
    times = Times(1.0)
    assert so_far(times, 2.0, {}, []) == b""
    times.arrived = 1.5
    assert so_far(times, 2.0, {}, []) == not_run(0.5, {}, []) == b"queue;dur=500.000"
    times.ran(1.75, 0.125)
    times.ran(2.0, 0.125)
    assert so_far(times, 3.0, {}, []) == b"queue;dur=250.000, engine;dur=250.000, batch;desc=1"


@given(
    st.floats(0, 1e5), st.floats(0, 1e5), st.text(st.characters(max_codepoint=255)), st.booleans()
)
def test_the_explanation_reads_what_the_worker_writes(
    queue: float, engine: float, caller: str, sticky: bool
) -> None:
    assume(sticky or caller)  # a key's client has a name
    name = b"x-sticky-key" if sticky else b"x-client"
    headers = {name: caller.encode("latin-1")}
    told = read_timing(after_run(queue, engine, headers, list(headers.items())).decode())
    assert told.queue_ms == pytest.approx(queue * 1000, abs=0.001)
    assert told.engine_ms == pytest.approx(engine * 1000, abs=0.001)
    ask = Ask("POST", "/", "" if sticky else caller, None, caller if sticky else None)
    assert told.bucket == bucket_of(ask, xxhash.xxh64_intdigest)
