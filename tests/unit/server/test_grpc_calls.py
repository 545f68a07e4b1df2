"""Translated gRPC calls at a worker: the hot lane, ASGI, the pages behind other methods, streams, and counting."""

from __future__ import annotations

import asyncio
import gzip
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import httpx
import pytest
import pytest_asyncio

from fairlead.api.grpc_status import MARKER, MESSAGE, PROTOBUF, STATUS
from fairlead.api.oip_messages import message
from fairlead.api.worker import ServingSettings
from fairlead.domain.errors import Kind
from fairlead.domain.ids import RevisionId
from fairlead.kits.frames import Frames, framed
from fairlead.server.http.streams import one_answer
from support.effort import PATIENCE
from support.models import scaled_artifact
from support.plain import NO_TLS
from support.serving import InProcess, in_process, listening

SCALED = RevisionId("scaled", "v9", "2")
INFER = "/v2/models/scaled/infer"


def asking(*values: float, rows: int = 1, **more: Any) -> bytes:
    asked = message("ModelInferRequest")(model_name="scaled", **more)
    one = asked.inputs.add(name="x", datatype="FP32", shape=[rows, len(values) // rows])
    one.contents.fp32_contents.extend(values)
    return bytes(asked.SerializeToString())


@pytest_asyncio.fixture
async def server(tmp_path: Path) -> AsyncIterator[InProcess]:
    async with in_process(scaled_artifact(tmp_path / "scaled").spec(SCALED)) as running:
        yield running


async def call(
    client: httpx.AsyncClient, method: str, path: str, body: bytes = b""
) -> httpx.Response:
    verb = "POST" if method == "ModelInfer" else "GET"
    headers = {MARKER: method, "content-type": PROTOBUF, "content-length": str(len(body))}
    return await client.request(verb, path, content=body, headers=headers)


def said(answer: httpx.Response) -> tuple[int, str]:
    assert answer.status_code == 200
    return int(answer.headers[STATUS]), unquote(answer.headers.get(MESSAGE, ""))


async def test_both_lanes_answer_a_call_alike(server: InProcess, tmp_path: Path) -> None:
    bodies = (asking(1, 2, 3, id="7"), asking(1, 2), b"\xff\xff", b"")
    expected = [
        (0, ""),
        (3, "x: shape [1, 2] does not fit, the model takes [-1, 3]"),
        (3, "the message is not a ModelInferRequest"),
        (3, "the message names the model '', this is 'scaled'"),
    ]
    async with listening(server.app, tmp_path / "s") as path:
        transport = httpx.AsyncHTTPTransport(uds=str(path), verify=NO_TLS)
        async with httpx.AsyncClient(
            transport=transport, base_url="http://worker", timeout=40
        ) as quick:
            await call(quick, "ModelInfer", INFER, bodies[0])  # the first loads protobuf
            for body, (code, words) in zip(bodies, expected, strict=True):
                found = [
                    await call(one, "ModelInfer", INFER, body) for one in (quick, server.client)
                ]
                for one in found:
                    assert said(one) == (code, words)
                    assert one.headers["content-type"] == PROTOBUF
                    assert one.headers["x-served-version"] == "v9.2"
                assert found[0].content == found[1].content
    answer = message("ModelInferResponse").FromString(
        (await call(server.client, "ModelInfer", INFER, bodies[0])).content
    )
    assert (answer.id, list(answer.outputs[0].contents.fp32_contents)) == ("7", [2, 4, 6])


async def test_calls_are_counted_as_http_would_count_them(server: InProcess) -> None:
    await call(server.client, "ModelInfer", INFER, asking(1, 2, 3))
    await call(server.client, "ModelInfer", INFER, asking(1, 2))
    counted = {
        one.template: one for one in server.plane.stats if one.template.startswith("/inference.")
    }["/inference.GRPCInferenceService/ModelInfer"]
    assert counted.statuses == {200: 1, 400: 1}
    assert counted.errors == {Kind.INVALID: 1}
    assert counted.in_progress == 0


async def test_other_methods_are_the_pages_that_http_has(server: InProcess) -> None:
    ready = await call(server.client, "ModelReady", "/v2/models/scaled/ready")
    assert said(ready) == (0, "")
    assert message("ModelReadyResponse").FromString(ready.content).ready
    about = await call(server.client, "ModelMetadata", "/v2/models/scaled/versions/1")
    assert message("ModelMetadataResponse").FromString(about.content).inputs[0].name == "x"
    assert about.headers["x-served-version"] == "v9.2"
    nobody = await call(server.client, "ModelMetadata", "/v2/models/nobody")
    assert said(nobody) == (5, "Request for unknown model: 'nobody' is not found; models: scaled")
    for path in ("/v2/models/nobody/ready", "/v2/models/scaled/versions/9/ready"):
        absent = await call(server.client, "ModelReady", path)
        assert said(absent) == (0, "")
        assert not message("ModelReadyResponse").FromString(absent.content).ready
        assert said(await call(server.client, "Check", path))[0] == 5
    server.app.stop()
    stopped = await call(server.client, "ModelReady", "/v2/models/scaled/ready")
    assert not message("ModelReadyResponse").FromString(stopped.content).ready


async def test_before_the_model_is_loaded_a_call_is_unavailable() -> None:
    async with in_process() as running:
        answer = await call(running.client, "ModelInfer", INFER, asking(1, 2, 3))
        assert said(answer) == (14, "not ready: no model is loaded here yet")


async def streamed(
    server: InProcess, parts: list[bytes], *, leaves: bool = False, encoding: bytes = b""
) -> list[Any]:
    """Answers to a stream whose body comes in these parts; with `leaves` its caller goes after the first answer."""
    answers = Frames(1 << 20)
    gone = asyncio.Event()
    events = [{"type": "http.request", "body": part, "more_body": True} for part in parts]
    if not leaves:
        events.append({"type": "http.request", "body": b"", "more_body": False})

    async def receive() -> dict[str, Any]:
        if events:
            return events.pop(0)
        await gone.wait()
        return {"type": "http.disconnect"}

    async def send(event: dict[str, Any]) -> None:
        answers.feed(event.get("body", b""))
        if leaves and event.get("body"):
            gone.set()

    scope = {
        "type": "http",
        "method": "POST",
        "path": INFER,
        "raw_path": INFER.encode(),
        "query_string": b"",
        "http_version": "1.1",
        "headers": [
            (MARKER.encode(), b"ModelStreamInfer"),
            *([(b"grpc-encoding", encoding)] if encoding else []),
        ],
    }
    async with asyncio.timeout(5 * PATIENCE):
        await server.app(scope, receive, send)
    found = []
    while (one := answers.take()) is not None:
        found.append(message("ModelStreamInferResponse").FromString(one.content))
    return found


async def test_a_stream_is_read_however_it_is_cut(server: InProcess) -> None:
    whole = b"".join(framed(asking(1, 2, number, id=str(number))) for number in range(6))
    for size in (1, 7, 64, len(whole)):
        parts = [whole[at : at + size] for at in range(0, len(whole), size)]
        found = await streamed(server, parts)
        assert [one.infer_response.id for one in found] == list("012345")
        values = [one.infer_response.outputs[0].contents.fp32_contents[2] for one in found]
        assert values == [2 * number for number in range(6)]


async def test_what_is_no_message_ends_a_stream_with_its_words(server: InProcess) -> None:
    good = framed(asking(1, 2, 3))
    for bad, words in (
        (b"\x01" + good[1:], "compressed in a way that is not read here; send gzip, deflate or"),
        (b"\x00\xff\xff\xff\xff", "is larger than"),
        (good[:9], "the stream ends within a message"),
    ):
        first, second = await streamed(server, [good + bad])
        assert not first.error_message
        assert words in second.error_message
    (wrong,) = await streamed(server, [framed(b"\xff")])
    assert wrong.error_message == "the message is not a ModelInferRequest"


def packed(message: bytes) -> bytes:
    """A frame of a message compressed with gzip."""
    small = gzip.compress(message)
    return b"\x01" + len(small).to_bytes(4, "big") + small


async def test_compressed_messages_of_a_stream_are_unpacked_and_held_as_they_are(
    server: InProcess,
) -> None:
    one = asking(1, 2, 3, id="1")
    found = await streamed(server, [packed(one) + framed(one) + packed(one)], encoding=b"gzip")
    assert [answer.infer_response.id for answer in found] == ["1"] * 3
    assert server.app.bodies.held == 0
    bomb = packed(bytes(server.app.limit_bytes + 1))
    for bad, words in (
        (packed(one)[:-1] + b"x", "cannot be unpacked"),
        (bomb, f"larger than {server.app.limit_bytes} bytes once it is unpacked"),
    ):
        first, second = await streamed(server, [packed(one) + bad + packed(one)], encoding=b"gzip")
        assert first.infer_response.id == "1"
        assert words in second.error_message
        assert server.app.bodies.held == 0


async def test_a_stream_waits_for_room_for_what_it_unpacks(tmp_path: Path) -> None:
    one = asking(*[0.0] * 3000, rows=1000)
    settings = ServingSettings(bodies_limit_bytes=2 * len(one))
    spec = scaled_artifact(tmp_path / "scaled").spec(SCALED, settings=settings)
    async with in_process(spec) as server:
        found = await streamed(server, [packed(one) * 6], encoding=b"gzip")
        assert [answer.error_message for answer in found] == [""] * 6
        (full,) = await streamed(server, [packed(one * 3)], encoding=b"gzip")
        assert f"may hold {2 * len(one)} bytes together" in full.error_message
        assert server.app.bodies.held == 0


async def test_a_stream_holds_what_it_has_not_answered_and_no_more_than_there_is_room(
    tmp_path: Path,
) -> None:
    one = framed(asking(1, 2, 3))
    settings = ServingSettings(bodies_limit_bytes=3 * len(one))
    spec = scaled_artifact(tmp_path / "scaled").spec(SCALED, settings=settings)
    async with in_process(spec) as server:
        whole = await streamed(server, [one] * 9)
        assert [answer.error_message for answer in whole] == [""] * 9
        (full,) = await streamed(server, [4 * one])
        limit = f"may hold {3 * len(one)} bytes together"
        assert limit in full.error_message
        assert server.app.bodies.held == 0
        server.app.bodies.take(3 * len(one))  # somebody else's
        (full,) = await streamed(server, [one])
        assert limit in full.error_message
        assert server.app.bodies.held == 3 * len(one)
        counted = {one.template: one for one in server.plane.stats}
        assert counted["/inference.GRPCInferenceService/ModelStreamInfer"].errors == {
            Kind.OVERLOADED: 2
        }


async def test_a_caller_that_leaves_ends_its_stream(server: InProcess) -> None:
    (answer,) = await streamed(server, [framed(asking(1, 2, 3))], leaves=True)
    assert answer.infer_response.model_name == "scaled"
    assert all(one.in_progress == 0 for one in server.plane.stats)


@pytest.mark.parametrize("method", ["ModelInfer", "ModelStreamInfer", "Nonsense"])
async def test_a_marker_changes_nothing_where_no_model_is(server: InProcess, method: str) -> None:
    answer = await server.client.post("/v1/model/scaled/predict", headers={MARKER: method}, json={})
    assert answer.status_code == 422


@pytest.mark.parametrize("size", [0, 80, 90, 100, 16_000, 16_383, 1 << 20])
def test_an_answer_of_a_stream_is_put_together_without_being_read(size: int) -> None:
    answer = message("ModelInferResponse")
    name = answer(model_name="m", id="7").SerializeToString()
    blob = answer(raw_output_contents=[b"x" * size]).SerializeToString()
    answered = blob + name  # in an order that whoever wrote it again would change
    wrapped = one_answer(answered)
    assert answered in wrapped
    read = message("ModelStreamInferResponse").FromString(wrapped)
    assert not read.error_message
    found = read.infer_response
    assert (found.model_name, found.id) == ("m", "7")
    assert list(found.raw_output_contents) == [b"x" * size]
    assert dict(found.parameters)["triton_final_response"].bool_param
