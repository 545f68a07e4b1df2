"""gRPC both ways, through the gateway and from grpcio's own server: the same answers, and clients nobody here wrote."""

from __future__ import annotations

import asyncio
import contextlib
import queue
import random
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import pytest_asyncio
import tritonclient.grpc as triton
import tritonclient.grpc.aio as triton_aio
from grpc_health.v1 import health_pb2, health_pb2_grpc
from tritonclient.utils import InferenceServerException

from fairlead.api.oip_messages import message
from fairlead.api.worker import ServingSettings
from fairlead.domain.ids import RevisionId
from fairlead.kits.clock import SystemClock
from fairlead.kits.frames import framed
from fairlead.server.grpc.serve import Server
from support.fuzz.http2 import Frames
from support.gateway import free_port
from support.grpc_calls import aio_channel, infer_request, stream
from support.grpc_raw import raw_call
from support.grpc_world import KEY, GrpcWorld, grpc_world
from support.models import scaled_artifact
from support.serving import in_process

pytestmark = [
    pytest.mark.enable_socket,
    pytest.mark.timeout(120),
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.filterwarnings("ignore:.*:DeprecationWarning"),
]
SERVICE = "/inference.GRPCInferenceService"
INFER = f"{SERVICE}/ModelInfer"
CODES = {code.value[0]: code for code in grpc.StatusCode}


@dataclass
class Both:
    """The same models behind the gateway and behind grpcio's server."""

    gateway: GrpcWorld
    port: int
    direct: Any

    @property
    def gateway_url(self) -> str:
        return f"127.0.0.1:{self.gateway.world.settings.port}"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def both(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Both]:
    directory = tmp_path_factory.mktemp("both")
    async with contextlib.AsyncExitStack() as stack:
        gateway = await stack.enter_async_context(grpc_world(directory / "gateway"))
        specs = [
            scaled_artifact(directory / "twice").spec(RevisionId("scaled", "v1", "1")),
            scaled_artifact(directory / "thrice", 3.0, 2).spec(RevisionId("scaled", "v2", "1")),
        ]
        running = await stack.enter_async_context(in_process(*specs, versioned=True))
        port, stop = free_port(), asyncio.Event()
        server = Server(
            running.app, f"127.0.0.1:{port}", SystemClock(), most_bytes=64 << 20, shared=False
        )
        group = await stack.enter_async_context(asyncio.TaskGroup())
        group.create_task(server.serve(stop, 1))
        stack.callback(stop.set)
        async with aio_channel(port) as direct:
            yield Both(gateway, port, direct)


async def outcome(channel: Any, body: bytes, metadata: Any) -> tuple[Any, ...]:
    """Code, words, who served, and the answer."""
    calling = channel.unary_unary(INFER)(body, metadata=metadata, timeout=20)
    try:
        answer = await calling
    except grpc.aio.AioRpcError as error:
        return error.code(), error.details(), None, None
    served = (await calling.initial_metadata()).get("x-served-version")
    return grpc.StatusCode.OK, "", served, message("ModelInferResponse").FromString(answer)


def random_call(dice: random.Random) -> tuple[bytes, tuple[tuple[str, str], ...]]:
    """A request, mostly right, with mistakes of every sort."""
    rows = dice.choice([0, 1, 1, 2, 5, 400])
    values = np.array([[dice.uniform(-9, 9) for _ in range(3)] for _ in range(rows)], np.float32)
    asked = message("ModelInferRequest")(
        model_name="scaled",
        id=dice.choice(["", "7", "a id"]),
        model_version=dice.choice(["", "", "1"]),
    )
    one = asked.inputs.add(
        name=dice.choice(["x"] * 8 + ["z"]),
        datatype=dice.choice(["FP32"] * 8 + ["INT64", "nonsense"]),
        shape=dice.choice([[rows, 3]] * 8 + [[rows], [-1, 3], [3, rows], [1 << 40, 3]]),
    )
    if dice.random() < 0.5:
        asked.raw_input_contents.append(values.tobytes()[dice.choice([0] * 8 + [1, 4]) :])
    else:
        one.contents.fp32_contents.extend(values.ravel().tolist())
        one.contents.SetInParent()
    for _ in range(dice.choice([0, 0, 0, 1, 2])):
        asked.outputs.add(name=dice.choice(["y", "y", "w"]))
    if (
        dice.random() < 0.2
    ):  # a parameter that is honoured, one that cannot be, one that nobody knows
        name = dice.choice(["priority", "timeout", "sequence_id", "sequence_start", "other"])
        dice.choice([asked, one]).parameters[name].int64_param = dice.choice([0, 1, 7, -1])
    if dice.random() < 0.1:
        dice.choice([one, *asked.outputs]).parameters["shared_memory_region"].string_param = "r"
    body = asked.SerializeToString()
    if dice.random() < 0.1:
        at = dice.randrange(15, len(body))  # behind the name: what routes is not touched
        return body[:at] + dice.randbytes(3) + body[at:], (("accept-version", "v1.1"),)
    version = dice.choice([(), (("accept-version", "v1"),), (("accept-version", "v1.1"),)])
    timeout = dice.choice([()] * 8 + [(("x-request-timeout-ms", "soon"),)])
    return body, (("accept-version", "v1.1"),) if not version else (*version, *timeout)


async def test_the_bridge_and_grpcios_server_answer_alike(both: Both) -> None:
    """400 random calls: codes, words, revisions and tensors; v1's second revision has the same model."""
    dice = random.Random(20261121)
    seen: set[grpc.StatusCode] = set()
    for _ in range(400):
        body, metadata = random_call(dice)
        through = await outcome(both.gateway.channel, body, (*KEY, *metadata))
        direct = await outcome(both.direct, body, metadata)
        assert through[:2] == direct[:2], (body, metadata)
        if metadata == (("accept-version", "v1.1"),):
            assert through[2] == direct[2]
        assert through[3] == direct[3]
        seen.add(through[0])
    assert seen >= {grpc.StatusCode.OK, grpc.StatusCode.INVALID_ARGUMENT}


async def test_streams_answer_alike(both: Both) -> None:
    dice = random.Random(7)
    bodies = [random_call(dice)[0] for _ in range(60)]
    answers = []
    for channel, metadata in (
        (both.gateway.channel, (*KEY, ("x-model-name", "scaled"), ("accept-version", "v1.1"))),
        (both.direct, (("accept-version", "v1.1"),)),
    ):
        streaming = channel.stream_stream(f"{SERVICE}/ModelStreamInfer")(
            metadata=metadata, timeout=30
        )
        found = []
        for body in bodies:
            await streaming.write(body)
            found.append(message("ModelStreamInferResponse").FromString(await streaming.read()))
        await streaming.done_writing()
        assert await streaming.code() is grpc.StatusCode.OK
        answers.append(found)
    assert answers[0] == answers[1]
    assert {bool(one.error_message) for one in answers[0]} == {True, False}


async def test_a_streams_time_is_its_callers_and_is_told_as_it_was_given(both: Both) -> None:
    asked = infer_request("scaled", {"x": np.ones((1, 3), np.float32)}, id="7")
    for channel, port, key in (
        (both.gateway.channel, both.gateway.world.settings.port, KEY),
        (both.direct, both.port, ()),
    ):
        streaming = stream(channel)(metadata=(*key, ("x-request-timeout-ms", "1")), timeout=20)
        words = ""
        while not words:  # the first may be answered in time
            await streaming.write(asked)
            answer = await streaming.read()
            assert answer.infer_response.id == "7"
            words = answer.error_message
        assert words == "no answer within 0.001 s"
        await streaming.done_writing()
        assert await streaming.code() is grpc.StatusCode.OK
        sent = framed(asked.SerializeToString())
        wrong = (*key, ("x-request-timeout-ms", "soon"))
        code, words, *_ = await raw_call(port, f"{SERVICE}/ModelStreamInfer", sent, wrong)
        assert CODES[code] is grpc.StatusCode.INVALID_ARGUMENT
        assert "'soon' is no time" in words


async def test_many_calls_at_once_are_answered_and_none_is_cancelled(both: Both) -> None:
    asked = infer_request("scaled", {"x": np.ones((1, 3), np.float32)}).SerializeToString()
    calls = [both.direct.unary_unary(INFER)(asked, timeout=60) for _ in range(2000)]
    assert len(await asyncio.gather(*calls)) == len(calls)


async def test_a_caller_that_leaves_cancels_and_frees_its_place(both: Both) -> None:
    streaming = stream(both.direct)(timeout=10)
    await streaming.write(infer_request("scaled", {"x": np.ones((1, 3), np.float32)}))
    await streaming.read()
    streaming.cancel()
    calling = both.direct.unary_unary(INFER)(b"", timeout=10)
    calling.cancel()
    with pytest.raises((asyncio.CancelledError, grpc.aio.AioRpcError)):
        await calling
    asked = infer_request("scaled", {"x": np.ones((1, 3), np.float32)}).SerializeToString()
    assert (await outcome(both.direct, asked, ()))[0] is grpc.StatusCode.OK


def given(values: np.ndarray[Any, Any]) -> list[Any]:
    tensor = triton.InferInput("x", list(values.shape), "FP32")
    tensor.set_data_from_numpy(values)
    return [tensor]


def asked_by_triton(url: str, headers: dict[str, str]) -> None:
    """What its example programs do: live, ready, metadata, infer, async, stream, errors."""
    values = np.array([[1, 2, 3]], np.float32)
    with triton.InferenceServerClient(url) as client:
        assert client.is_server_live()
        assert client.is_server_ready()
        assert client.get_server_metadata().name == "fairlead"
        assert client.is_model_ready("scaled", headers=headers)
        assert not client.is_model_ready("nobody", headers=headers)
        assert not client.is_model_ready("scaled", "9", headers=headers)
        metadata = client.get_model_metadata("scaled", headers=headers, as_json=True)
        assert metadata["inputs"] == [{"name": "x", "datatype": "FP32", "shape": ["-1", "3"]}]
        wanted = [triton.InferRequestedOutput("y")]
        answer = client.infer(
            "scaled", given(values), "1", outputs=wanted, request_id="7", headers=headers
        )
        assert answer.as_numpy("y").tolist() == (2 * values).tolist()
        assert answer.get_response().id == "7"
        for how in ("gzip", "deflate"):
            many = np.ones((1000, 3), np.float32)
            packed = client.infer(
                "scaled", given(many), "1", headers=headers, compression_algorithm=how
            )
            assert packed.as_numpy("y").tolist() == (2 * many).tolist()
        waiting: queue.Queue[Any] = queue.Queue()
        client.async_infer(
            "scaled",
            given(values),
            lambda result, error: waiting.put((result, error)),
            "2",
            headers=headers,
        )
        result, error = waiting.get(timeout=10)
        assert error is None
        assert result.as_numpy("y").tolist() == (3 * values).tolist()
        client.start_stream(lambda result, error: waiting.put((result, error)), headers=headers)
        for number in range(3):
            client.async_stream_infer("scaled", given(values * number), "1", request_id=str(number))
        client.async_stream_infer("scaled", given(np.ones((1, 2), np.float32)), "1")
        for number in range(3):
            result, error = waiting.get(timeout=10)
            assert error is None
            assert result.get_response().id == str(number)
            assert result.as_numpy("y").tolist() == (2 * number * values).tolist()
        result, error = waiting.get(timeout=10)
        assert "does not fit" in str(error)
        client.stop_stream()
        with pytest.raises(InferenceServerException) as caught:
            client.infer("scaled", given(np.ones((1, 2), np.float32)), headers=headers)
        assert caught.value.status() == "StatusCode.INVALID_ARGUMENT"
        with pytest.raises(InferenceServerException) as caught:
            client.infer("nobody", given(values), headers=headers)
        assert caught.value.status() == "StatusCode.NOT_FOUND"


def refused_by_triton(url: str, headers: dict[str, str]) -> None:
    """What cannot be honoured is said, in the words that REST says it in, and nothing is computed without it."""
    values = np.array([[1, 2, 3]], np.float32)
    shared = triton.InferInput("x", [1, 3], "FP32")
    shared.set_shared_memory("region", 12)
    elsewhere = triton.InferRequestedOutput("y")
    elsewhere.set_shared_memory("region", 12)
    no_memory, no_sequences = "shared memory is not served", "sequences are not served"
    waiting: queue.Queue[Any] = queue.Queue()
    with triton.InferenceServerClient(url) as client:
        client.start_stream(lambda result, error: waiting.put((result, error)), headers=headers)
        for inputs, more, words in (
            ([shared], {}, f"x: {no_memory}"),
            (given(values), {"outputs": [elsewhere]}, f"output 'y': {no_memory}"),
            (given(values), {"sequence_id": 7, "sequence_start": True}, no_sequences),
            (given(values), {"sequence_id": "seven", "sequence_end": True}, no_sequences),
        ):
            with pytest.raises(InferenceServerException, match=words) as caught:
                client.infer("scaled", inputs, "1", headers=headers, **more)
            assert caught.value.status() == "StatusCode.INVALID_ARGUMENT"
            client.async_stream_infer("scaled", inputs, "1", **more)
            result, error = waiting.get(timeout=10)
            assert result is None
            assert words in str(error)


async def test_what_cannot_be_honoured_is_refused_as_over_rest(both: Both) -> None:
    await asyncio.to_thread(refused_by_triton, both.gateway_url, dict(KEY))
    await asyncio.to_thread(refused_by_triton, f"127.0.0.1:{both.port}", {})


async def test_tritons_client_works_unchanged(both: Both) -> None:
    await asyncio.to_thread(asked_by_triton, both.gateway_url, dict(KEY))
    await asyncio.to_thread(asked_by_triton, f"127.0.0.1:{both.port}", {})


async def test_statistics_without_a_name_are_those_of_all_models(both: Both) -> None:
    def told() -> list[str]:
        with triton.InferenceServerClient(f"127.0.0.1:{both.port}") as client:
            counts = client.get_inference_statistics().model_stats
            return sorted(f"{one.name}/{one.version}" for one in counts)

    assert await asyncio.to_thread(told) == ["scaled/1", "scaled/2"]


async def test_nobodys_metadata_is_everybodys_statistics(both: Both) -> None:
    asked = message("ModelMetadataRequest")(name="stats").SerializeToString()
    for channel, key in ((both.gateway.channel, KEY), (both.direct, ())):
        calling = channel.unary_unary(f"{SERVICE}/ModelMetadata")(asked, metadata=key, timeout=20)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await calling
        assert caught.value.code() is grpc.StatusCode.NOT_FOUND
        assert caught.value.details() == "Request for unknown model: 'stats' is not found"


async def test_a_stream_says_what_is_missing_in_the_words_of_a_call(both: Both) -> None:
    for name, version, words in (
        ("scaled", "9", "scaled has no version '9' here; versions: 1, 2"),
        ("nobody", "", "Request for unknown model: 'nobody' is not found; models: scaled"),
    ):
        asked = infer_request(name, {"x": np.ones((1, 3), np.float32)}, model_version=version)
        asked.id = "7"
        body = asked.SerializeToString()
        assert await outcome(both.direct, body, ()) == (CODES[5], words, None, None)
        streaming = stream(both.direct)(timeout=10)
        await streaming.write(asked)
        told = await streaming.read()
        assert (told.error_message, told.infer_response.id) == (words, "7")
        await streaming.write(infer_request("scaled", {"x": np.ones((1, 3), np.float32)}))
        assert not (await streaming.read()).error_message
        await streaming.done_writing()


async def test_tritons_asyncio_client_works_unchanged(both: Both) -> None:
    values = np.array([[1, 2, 3]], np.float32)
    for url, headers in ((both.gateway_url, dict(KEY)), (f"127.0.0.1:{both.port}", {})):
        async with triton_aio.InferenceServerClient(url) as client:
            assert await client.is_server_ready()
            answers = await asyncio.gather(
                *(client.infer("scaled", given(values), "1", headers=headers) for _ in range(8))
            )
            assert all(one.as_numpy("y").tolist() == (2 * values).tolist() for one in answers)


def health(url: str, metadata: tuple[tuple[str, str], ...]) -> list[int]:
    with grpc.insecure_channel(url) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        found = [
            stub.Check(health_pb2.HealthCheckRequest(service=name), metadata=metadata).status
            for name in ("", "scaled", "inference.GRPCInferenceService")
        ]
        watching = stub.Watch(health_pb2.HealthCheckRequest(), metadata=metadata)
        found.append(next(watching).status)
        watching.cancel()
        return found


async def test_the_health_client_works_unchanged(both: Both) -> None:
    serving = health_pb2.HealthCheckResponse.SERVING
    assert await asyncio.to_thread(health, both.gateway_url, KEY) == [serving] * 4
    assert await asyncio.to_thread(health, f"127.0.0.1:{both.port}", ()) == [serving] * 4


async def test_no_bytes_end_grpcios_server_or_make_it_fail(both: Both) -> None:
    """Frames that are wrong on purpose: every call after them is answered, and none is INTERNAL."""
    frames = Frames(random.Random(11), "none")
    for _ in range(60):
        reader, writer = await asyncio.open_connection("127.0.0.1", both.port)
        with contextlib.suppress(ConnectionError, TimeoutError):
            for part in frames.stream():
                writer.write(part)
                await writer.drain()
            async with asyncio.timeout(0.05):
                await reader.read()
        writer.close()
    bodies = [frames.message() for _ in range(150)]
    for body in bodies:
        code, words, _, _ = await outcome(both.direct, body, ())
        assert code not in (grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN), (body, words)
        through = await outcome(both.gateway.channel, body, KEY)
        assert through[0] not in (grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN), (
            body,
            through,
        )


async def test_a_path_that_is_not_utf_8_ends_no_server(both: Both) -> None:
    """One such call ended grpcio's server from 1.84 on; see docs/decisions."""
    path = INFER.encode().replace(b"e.G", b"\xee.G")
    direct = await raw_call(both.port, path, framed(b""), ())
    assert direct[0] > 0
    through = await raw_call(both.gateway.world.settings.port, path, framed(b""), KEY)
    assert through[2][":status"] != "200" or through[0] > 0
    body = infer_request("scaled", {"x": np.ones((1, 3), np.float32)}).SerializeToString()
    assert (await outcome(both.direct, body, ()))[0] is grpc.StatusCode.OK
    assert (await outcome(both.gateway.channel, body, KEY))[0] is grpc.StatusCode.OK


async def test_a_server_that_holds_all_it_may_says_so_with_its_limit(tmp_path: Path) -> None:
    body = infer_request("scaled", {"x": np.ones((1, 3), np.float32)})
    size = len(body.SerializeToString())
    settings = ServingSettings(bodies_limit_bytes=4 * size)
    spec = scaled_artifact(tmp_path / "m").spec(RevisionId("scaled", "v1", "1"), settings=settings)
    words = f"may hold {4 * size} bytes together"
    port, stop = free_port(), asyncio.Event()
    async with in_process(spec) as running, asyncio.TaskGroup() as group:
        server = Server(
            running.app, f"127.0.0.1:{port}", SystemClock(), most_bytes=1 << 20, shared=False
        )
        group.create_task(server.serve(stop, 1))
        bodies = running.app.bodies
        async with aio_channel(port) as channel:
            for held in (4 * size - 1, 4 * size):  # found out with the message, and before it
                bodies.take(held)
                with pytest.raises(grpc.aio.AioRpcError, match=words) as refused:
                    await channel.unary_unary(INFER)(body.SerializeToString(), timeout=10)
                assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
                streaming = stream(channel)(timeout=10)
                with contextlib.suppress(grpc.aio.AioRpcError):
                    await streaming.write(body)
                assert (
                    await streaming.code()
                    in (
                        grpc.StatusCode.RESOURCE_EXHAUSTED,
                        grpc.StatusCode.INTERNAL,  # of the client's own, if the refusal crosses the write
                    )
                )
                bodies.held -= held
            streaming = stream(channel)(timeout=10)
            for _ in range(20):
                await streaming.write(body)
                assert not (await streaming.read()).error_message
            await streaming.done_writing()
            assert bodies.held == 0
        stop.set()
