"""gRPC through the gateway: real clients, the real Envoy, real models; codes and messages to the letter."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import json
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import pytest_asyncio
from google.protobuf.descriptor_pool import DescriptorPool
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import (
    ProtoReflectionDescriptorDatabase,
)

from fairlead.api.oip_messages import message
from fairlead.domain.keys import KeyRecord, Quota, Rate, Scope
from fairlead.gateway.replies import NOT_WHOLE, TOO_LONG, UNNAMED
from fairlead.kits import reflection
from support.effort import PATIENCE
from support.gateway import eventually
from support.grpc_calls import HEALTH, call, infer_request, stream
from support.grpc_raw import raw_call
from support.grpc_world import KEY, GrpcWorld, grpc_world

pytestmark = [
    pytest.mark.enable_socket,
    pytest.mark.timeout(60),
    pytest.mark.asyncio(loop_scope="module"),
]
Code = grpc.StatusCode
INFER = "/inference.GRPCInferenceService/ModelInfer"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def asked(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[GrpcWorld]:
    """One for all that change nothing in it."""
    async with grpc_world(tmp_path_factory.mktemp("grpc"), deadline_seconds=2.0) as found:
        yield found


@pytest_asyncio.fixture(loop_scope="module")
async def own(tmp_path: Path) -> AsyncIterator[GrpcWorld]:
    async with grpc_world(tmp_path) as found:
        yield found


async def ended(waiting: Any) -> tuple[grpc.StatusCode, str]:
    """How a call that must fail ended."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await waiting
    return caught.value.code(), caught.value.details()


def documents(*texts: Any) -> Any:
    asking = message("ModelInferRequest")(model_name="boom")
    given = asking.inputs.add(name="request", datatype="BYTES", shape=[len(texts)])
    given.contents.bytes_contents.extend(json.dumps(one).encode() for one in texts)
    return asking


async def test_a_call_is_answered_by_the_revision_that_http_would_ask(asked: GrpcWorld) -> None:
    infer = call(asked.channel, "ModelInfer")
    for metadata, version in (
        ((), "v1."),
        ((("accept-version", "v1.2"),), "v1.2"),
        ((("accept-version", "v2"),), "v2.1"),
        ((("x-sticky-key", "somebody"),), "v1."),
    ):
        calling = infer(asked.scaled(id="17"), metadata=(*KEY, *metadata), timeout=10)
        answer = await calling
        served = (await calling.initial_metadata())["x-served-version"]
        assert served.startswith(version)
        async with asked.world.client() as client:
            body = {
                "inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 3], "data": [1, 2, 3]}]
            }
            over_http = await client.post(
                "/v2/models/scaled/infer", json=body, headers=dict((*KEY, *metadata))
            )
        assert over_http.headers["x-served-version"] == served
        assert answer.id == "17"
        values = np.frombuffer(answer.raw_output_contents[0], np.float32)
        assert values.tolist() == over_http.json()["outputs"][0]["data"]
    by_artifact = await asked.infer(asked.scaled(model_version="2"))
    assert by_artifact.model_version == "2"


async def test_every_refusal_has_its_code_and_its_words(asked: GrpcWorld) -> None:
    infer = call(asked.channel, "ModelInfer")
    plain = asked.channel.unary_unary
    scaled = asked.scaled()

    async def of(asking: Any, *metadata: tuple[str, str]) -> tuple[grpc.StatusCode, str]:
        return await ended(infer(asking, metadata=metadata, timeout=10))

    assert await of(scaled) == (Code.UNAUTHENTICATED, "No API key found in request")
    wrong = (Code.UNAUTHENTICATED, "Invalid authentication credentials")
    assert await of(scaled, ("x-api-key", "nope")) == wrong
    twice = (Code.UNAUTHENTICATED, "Duplicate API key found")
    assert await of(scaled, *KEY, *KEY) == twice
    others = (Code.PERMISSION_DENIED, "You cannot consume this service")
    assert await of(scaled, ("x-api-key", "other-secret")) == others
    reader = ("x-api-key", "reader-secret")
    assert await of(scaled, reader) == others
    about = call(asked.channel, "ModelMetadata")
    await about(message("ModelMetadataRequest")(name="scaled"), metadata=(reader,), timeout=10)
    assert await of(infer_request("nobody", {}), *KEY) == (
        Code.NOT_FOUND,
        "Request for unknown model: 'nobody' is not found; the repository index lists what is here",
    )
    assert await of(scaled, *KEY, ("accept-version", "v7")) == (
        Code.NOT_FOUND,
        "no version 'v7' here; versions: v1, v1.1, v1.2, v2, v2.1",
    )
    conflict = await of(asked.scaled(model_version="2"), *KEY, ("accept-version", "v1"))
    assert conflict[0] is Code.INVALID_ARGUMENT
    assert await of(infer_request("scaled", {"z": np.ones((1, 3), np.float32)}), *KEY) == (
        Code.INVALID_ARGUMENT,
        "unknown input 'z'; the model's inputs are 'x'",
    )
    assert await of(scaled, *KEY, ("x-model-name", "boom")) == (
        Code.INVALID_ARGUMENT,
        "the message names the model 'scaled', this is 'boom'",
    )
    for name in ("", "../metrics", "scaled/infer", "scaled?x", "a" * 200, "%2e"):
        assert (await of(infer_request(name, {}), *KEY))[0] is Code.INVALID_ARGUMENT
    for path in ("/inference.GRPCInferenceService/Nothing", "/some.Service/Nothing"):
        calling = plain(path)(b"", metadata=KEY, timeout=10)
        assert await ended(calling) == (Code.UNIMPLEMENTED, f"nothing answers {path}")
    garbage = plain("/inference.GRPCInferenceService/ModelInfer")(
        b"\xff\xff", metadata=KEY, timeout=10
    )
    assert (await ended(garbage))[0] is Code.INVALID_ARGUMENT


def field(number: int, content: bytes) -> bytes:
    """A field with a length, as protobuf writes it."""
    found, rest = bytearray(), [number << 3 | 2, len(content)]
    for value in rest:
        while value >= 0x80:
            found.append(value & 0x7F | 0x80)
            value >>= 7  # noqa: PLW2901 - what is left of it
        found.append(value)
    return bytes(found) + content


async def test_the_fields_of_a_message_may_come_in_any_order(asked: GrpcWorld) -> None:
    infer = asked.channel.unary_unary(INFER)
    answer = message("ModelInferResponse").FromString
    name, version = field(1, b"scaled"), field(2, b"2")
    rest = infer_request("", {"x": np.ones((1, 3), np.float32)}).SerializeToString()
    unknown = (
        field(1000, b"x" * 500) + b"\xf8\x3e\x07" + b"\xfd\x3e" + bytes(4) + b"\xf9\x3e" + bytes(8)
    )
    for whole, version_of in (
        (rest + name, None),
        (unknown + name + rest, None),
        (rest + version + name, "2"),
        (version + unknown + name + rest, "2"),
        (name + version + unknown + rest, "2"),
    ):
        told = answer(await infer(whole, metadata=KEY, timeout=10))
        assert told.model_name == "scaled"
        assert version_of in (None, told.model_version)
    about = asked.channel.unary_unary("/inference.GRPCInferenceService/ModelMetadata")
    told = await about(name + unknown + version, metadata=KEY, timeout=10)
    assert message("ModelMetadataResponse").FromString(told).versions == ["2"]
    # What would take too long to look at, or goes beyond what is looked at, names nothing.
    for wrong in (b"\xf8\x3e\x07" * 20 + name + rest, field(1000, b"x" * 5000) + name + rest):
        code, words = await ended(infer(wrong, metadata=KEY, timeout=10))
        assert code is Code.INVALID_ARGUMENT
        assert "first fields do not name a model" in words


async def test_statistics_without_a_name_are_those_of_every_model_the_key_may_read(
    asked: GrpcWorld,
) -> None:
    statistics = call(asked.channel, "ModelStatistics")
    request = message("ModelStatisticsRequest")

    async def named(secret: str, **of: str) -> list[str]:
        answer = await statistics(request(**of), metadata=(("x-api-key", secret),), timeout=10)
        return sorted({one.name for one in answer.model_stats})

    for secret, names in (
        ("demo-secret", ["boom", "scaled"]),
        ("reader-secret", ["boom", "scaled"]),
        ("other-secret", ["boom"]),
    ):
        assert await named(secret) == names
        assert await named(secret, version="1") == names
    assert await named("demo-secret", name="scaled") == ["scaled"]
    nobody = statistics(request(), timeout=10)
    assert await ended(nobody) == (Code.UNAUTHENTICATED, "No API key found in request")
    for wrong in (b"\xff\xff", b"\x0a\x40scaled", b"\x0b"):
        path = "/inference.GRPCInferenceService/ModelStatistics"
        garbage = asked.channel.unary_unary(path)(wrong, metadata=KEY, timeout=10)
        assert (await ended(garbage))[0] is Code.INVALID_ARGUMENT


@pytest.mark.parametrize("how", [grpc.Compression.Gzip, grpc.Compression.Deflate])
async def test_compressed_messages_are_read_as_if_they_were_not(
    asked: GrpcWorld, how: grpc.Compression
) -> None:
    infer = call(asked.channel, "ModelInfer")
    small, large = asked.scaled(id="1"), asked.scaled(*[[0.0, 1.0, 2.0]] * 50_000, id="2")
    for asking in (small, large):  # which is sent as it is: compressing would make it longer
        for metadata in (KEY, (*KEY, ("x-model-name", "scaled"))):
            plain = await infer(asking, metadata=metadata, timeout=10)
            assert await infer(asking, metadata=metadata, timeout=10, compression=how) == plain
    forged = (*KEY, ("content-encoding", "gzip"))  # is not gRPC's way to say it
    assert await infer(small, metadata=forged, timeout=10) == await infer(small, metadata=KEY)
    streaming = stream(asked.channel)(
        metadata=(*KEY, ("x-model-name", "scaled")), timeout=20, compression=how
    )
    for asking in (large, small):
        await streaming.write(asking)
        answer = await streaming.read()
        assert not answer.error_message
        assert answer.infer_response.id == asking.id
    await streaming.done_writing()
    assert await streaming.read() is grpc.aio.EOF
    unnamed = stream(asked.channel)(metadata=KEY, timeout=20, compression=how)
    with contextlib.suppress(grpc.aio.AioRpcError):
        await unnamed.write(large)
    assert await unnamed.code() is Code.INVALID_ARGUMENT
    assert await unnamed.details() == UNNAMED
    loads = message("RepositoryModelLoadRequest")(model_name="scaled")
    loads.parameters["config"].string_param = "x" * 3000
    refused = call(asked.channel, "RepositoryModelLoad")(loads, metadata=KEY, compression=how)
    code, words = await ended(refused)
    assert code is Code.PERMISSION_DENIED
    assert "'scaled'" in words


def packed_frame(message: bytes, flag: int = 1) -> bytes:
    return bytes((flag,)) + len(message).to_bytes(4, "big") + message


async def test_what_cannot_be_unpacked_is_refused_in_clear_words(asked: GrpcWorld) -> None:
    whole = gzip.compress(asked.scaled(*[[1.0, 2.0, 3.0]] * 500).SerializeToString())
    bomb = gzip.compress(asked.scaled().SerializeToString() + bytes(70 << 20))
    unknown = (
        "a message is compressed in a way that is not read here; send gzip, deflate or identity"
    )
    damaged = "the message is not what its grpc-encoding says: it cannot be unpacked"
    body = "the body is not what its content-encoding says: it cannot be unpacked"
    for encoding, message_bytes, code, words in (
        ("gzip", whole, Code.OK, ""),
        ("gzip", whole[:-9], Code.INVALID_ARGUMENT, body),
        ("gzip", whole + b"more", Code.INVALID_ARGUMENT, body),
        ("gzip", b"\xff" * 40, Code.INVALID_ARGUMENT, damaged),
        ("gzip", b"", Code.INVALID_ARGUMENT, "the message's first fields do not name a model"),
        ("deflate", whole, Code.INVALID_ARGUMENT, damaged),
        ("snappy", whole, Code.UNIMPLEMENTED, unknown),
        ("identity", whole, Code.UNIMPLEMENTED, unknown),
        ("", whole, Code.UNIMPLEMENTED, unknown),
        ("gzip", bomb, Code.RESOURCE_EXHAUSTED, "is larger than"),
    ):
        metadata = [*KEY, *([("grpc-encoding", encoding)] if encoding else [])]
        port = asked.world.settings.port
        answer = await raw_call(port, INFER, packed_frame(message_bytes), metadata)
        assert answer[0] == code.value[0], (encoding, answer)
        assert words in answer[1], (encoding, answer)
        if code is Code.UNIMPLEMENTED:
            assert answer[2]["grpc-accept-encoding"] == "identity,deflate,gzip"


async def test_nobody_asks_the_front_desk_to_unpack_but_the_gateway(asked: GrpcWorld) -> None:
    async with asked.world.client() as client:
        forged = {**dict(KEY), "x-fairlead-grpc": "/unpack", "content-encoding": "gzip"}
        for path in ("/", "/v2/models/nobody/infer"):
            answer = await client.post(path, headers=forged, content=gzip.compress(b"secret"))
            assert answer.status_code in (404, 405)
            assert b"secret" not in answer.content


async def test_without_a_front_desk_only_compressed_messages_fail(own: GrpcWorld) -> None:
    large = own.scaled(*[[0.0, 1.0, 2.0]] * 5000)
    desk = own.world.home.front_socket
    desk.rename(desk.with_suffix(".away"))

    async def away() -> bool:
        infer = call(own.channel, "ModelInfer")
        packed = infer(large, metadata=KEY, timeout=10, compression=grpc.Compression.Gzip)
        try:
            await packed
        except grpc.aio.AioRpcError as error:
            assert error.code() is Code.UNAVAILABLE
            return "send them uncompressed" in error.details()
        return False

    await eventually(away, 20, "away")
    assert (await own.infer(large)).model_name == "scaled"


async def test_a_models_failure_is_internal_and_tells_no_secret(asked: GrpcWorld) -> None:
    assert await ended(asked.infer(documents({"boom": True}))) == (
        Code.INTERNAL,
        "the model's code failed (ValueError); its log says why",
    )
    answer = await asked.infer(documents({"say": "a"}, {"say": "b"}))
    texts = [json.loads(text) for text in answer.outputs[0].contents.bytes_contents]
    assert texts == [{"said": "a"}, {"said": "b"}]


async def test_deadlines_are_the_gateways_and_the_callers(asked: GrpcWorld) -> None:
    slow = documents({"seconds": 5})
    code, words = await ended(asked.infer(slow))
    assert code is Code.DEADLINE_EXCEEDED  # whichever of the two looks at the clock first
    assert words in ("no answer within 2 s", "The upstream server is timing out")
    own = asked.infer(slow, ("x-request-timeout-ms", "200"))
    assert await ended(own) == (Code.DEADLINE_EXCEEDED, "no answer within 0.2 s")
    assert (await ended(asked.infer(slow, seconds=0.3)))[0] is Code.DEADLINE_EXCEEDED


async def test_failures_open_the_kill_switch_and_that_is_unavailable(own: GrpcWorld) -> None:
    for _ in range(22):
        await ended(own.infer(documents({"boom": True})))

    async def off() -> bool:
        try:
            await own.infer(documents({"say": "x"}))
        except grpc.aio.AioRpcError as error:
            assert error.code() is Code.UNAVAILABLE
            return "switched off after too many failures" in error.details()
        return False

    await eventually(off, 8, "switched off")


async def test_a_worker_that_is_gone_is_unavailable(own: GrpcWorld) -> None:
    world = own.world
    world.workers["w3"].replica = replace(
        world.workers["w3"].replica, worker="gone", socket=str(world.home.sockets / "gone.sock")
    )
    world.write_status()

    async def unavailable() -> bool:
        try:
            await own.infer(documents({"say": "x"}))
        except grpc.aio.AioRpcError as error:
            return error.code() is Code.UNAVAILABLE
        return False

    await eventually(unavailable, 8, "unavailable")


async def test_a_quota_is_resource_exhausted(own: GrpcWorld) -> None:
    catalog = own.world.catalogs.read()
    limited = KeyRecord("limited", (Scope.parse("*"),), 0.0, "f", quota=Quota(Rate(2, 3600, 2)))
    own.world.set_catalog(replace(catalog, keys={**catalog.keys, "limited": limited}))
    own.world.set_keys({"demo": "demo-secret", "limited": "limited-secret"})
    await own.world.routed()
    infer = call(own.channel, "ModelInfer")
    metadata = (("x-api-key", "limited-secret"),)
    for _ in range(2):
        answer = await infer(own.scaled(), metadata=metadata, timeout=10)
        assert answer.model_name == "scaled"
    assert await ended(infer(own.scaled(), metadata=metadata, timeout=10)) == (
        Code.RESOURCE_EXHAUSTED,
        "API rate limit exceeded",
    )


async def test_large_messages_pass_and_too_large_ones_are_resource_exhausted(
    own: GrpcWorld,
) -> None:
    rows = np.ones((2 << 20, 3), np.float32)  # 24 MB
    answer = await own.infer(infer_request("scaled", {"x": rows}))
    assert len(answer.raw_output_contents[0]) == rows.nbytes
    named = await own.infer(infer_request("scaled", {"x": rows}), ("x-model-name", "scaled"))
    assert named.raw_output_contents[0] == answer.raw_output_contents[0]
    huge = infer_request("scaled", {"x": np.ones((9 << 20, 3), np.float32)})  # 108 MB
    assert await ended(own.infer(huge)) == (Code.RESOURCE_EXHAUSTED, "Payload too large")


async def test_what_belongs_to_no_model_needs_no_key_and_what_does_needs_one(
    asked: GrpcWorld,
) -> None:
    for method, field in (("ServerLive", "live"), ("ServerReady", "ready")):
        answer = await call(asked.channel, method)(message(f"{method}Request")(), timeout=10)
        assert getattr(answer, field) is True
    server = await call(asked.channel, "ServerMetadata")(
        message("ServerMetadataRequest")(), timeout=10
    )
    assert server.name == "fairlead"
    for method in ("ModelReady", "ModelMetadata"):
        asking = message(f"{method}Request")(name="scaled")
        calling = call(asked.channel, method)
        assert (await ended(calling(asking, timeout=10)))[0] is Code.UNAUTHENTICATED
        await calling(asking, metadata=KEY, timeout=10)
        asking.name = "nobody"
        absent = calling(asking, metadata=KEY, timeout=10)
        if method == "ModelReady":  # clients ask it until it says yes
            assert (await absent).ready is False
        else:
            assert (await ended(absent))[0] is Code.NOT_FOUND
    metadata = await call(asked.channel, "ModelMetadata")(
        message("ModelMetadataRequest")(name="scaled", version="2"), metadata=KEY, timeout=10
    )
    assert [(one.name, one.datatype, list(one.shape)) for one in metadata.inputs] == [
        ("x", "FP32", [-1, 3])
    ]
    assert list(metadata.versions) == ["2"]


async def test_health_is_told_to_all_of_the_server_and_to_keys_of_a_service(
    asked: GrpcWorld,
) -> None:
    check = asked.channel.unary_unary(f"{HEALTH}/Check")
    assert await check(b"", timeout=10) == b"\x08\x01"
    of_scaled = b"\x0a\x06scaled"
    assert (await ended(check(of_scaled, timeout=10)))[0] is Code.UNAUTHENTICATED
    assert await check(of_scaled, metadata=KEY, timeout=10) == b"\x08\x01"
    restricted = check(of_scaled, metadata=(("x-api-key", "other-secret"),), timeout=10)
    assert (await ended(restricted))[0] is Code.PERMISSION_DENIED
    nobody = check(b"\x0a\x06nobody", metadata=KEY, timeout=10)
    assert (await ended(nobody))[0] is Code.NOT_FOUND


async def test_nobody_can_play_a_translated_call_over_http(asked: GrpcWorld) -> None:
    forged = {
        **dict(KEY),
        "content-type": "application/x-protobuf",
        "x-fairlead-grpc": "ModelInfer",
        "x-grpc-status": "0",
    }
    async with asked.world.client() as client:
        answer = await client.post("/v2/models/scaled/infer", headers=forged, content=b"{}")
        assert answer.status_code == 400
        assert "error" in answer.json()
        path = "/inference.GRPCInferenceService/ModelInfer"
        answer = await client.post(path, headers=forged, content=b"{}")
        assert answer.status_code == 404


async def test_a_stream_is_answered_message_by_message_and_survives_a_bad_one(
    asked: GrpcWorld,
) -> None:
    streaming = stream(asked.channel)(metadata=KEY, timeout=20)
    bad = infer_request("scaled", {}, id="bad")
    for one, error in ((asked.scaled(id="1"), ""), (bad, "missing"), (asked.scaled(id="2"), "")):
        await streaming.write(one)
        answer = await streaming.read()
        assert error in answer.error_message
        assert bool(answer.error_message) == bool(error)
        assert answer.infer_response.id == one.id
    await streaming.done_writing()
    assert await streaming.read() is grpc.aio.EOF
    assert await streaming.code() is Code.OK
    named = stream(asked.channel)(metadata=(*KEY, ("x-model-name", "scaled")), timeout=20)
    async with asyncio.timeout(5 * PATIENCE):  # also before anything is sent
        assert (await named.initial_metadata())["x-served-version"].startswith("v1.")
    named.cancel()


async def test_a_stream_with_nothing_in_it_ends_well_for_who_has_a_key(asked: GrpcWorld) -> None:
    for metadata in (KEY, (*KEY, ("x-model-name", "scaled"))):
        empty = stream(asked.channel)(metadata=metadata, timeout=10)
        await empty.done_writing()
        assert await empty.read() is grpc.aio.EOF
        assert await empty.code() is Code.OK
    keyless = stream(asked.channel)(timeout=10)
    assert await keyless.code() is Code.UNAUTHENTICATED


async def test_a_first_message_that_cannot_be_read_is_told_in_words_that_say_why(
    asked: GrpcWorld,
) -> None:
    port, path = asked.world.settings.port, "/inference.GRPCInferenceService/ModelStreamInfer"
    frame = packed_frame(asked.scaled().SerializeToString(), 0)
    for sent, metadata, words in (
        (frame[:-1], KEY, NOT_WHOLE),
        (frame[:3], KEY, NOT_WHOLE),
        (b"\2" + frame[1:], KEY, NOT_WHOLE),
        (b"\1" + frame[1:], (*KEY, ("grpc-encoding", "gzip")), UNNAMED),
    ):
        code, told, *_ = await raw_call(port, path, sent, metadata)
        assert (code, told) == (Code.INVALID_ARGUMENT.value[0], words)
    huge = infer_request("scaled", {"x": np.ones((6 << 20, 3), np.float32)})  # 72 MB

    def refused() -> tuple[grpc.StatusCode, str]:
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
            streaming = stream(channel)(iter([huge]), metadata=KEY, timeout=30)
            with contextlib.suppress(grpc.RpcError):
                list(streaming)
            return streaming.code(), streaming.details()

    assert await asyncio.to_thread(refused) == (Code.RESOURCE_EXHAUSTED, TOO_LONG)


@pytest.mark.parametrize(
    ("name", "metadata", "code"),
    [
        ("scaled", (), Code.UNAUTHENTICATED),
        ("scaled", (("x-api-key", "nope"),), Code.UNAUTHENTICATED),
        ("nobody", KEY, Code.NOT_FOUND),
        ("nobody", (*KEY, ("x-model-name", "nobody")), Code.NOT_FOUND),
        ("scaled", (*KEY, ("accept-version", "v7")), Code.NOT_FOUND),
        ("scaled", (("x-api-key", "other-secret"),), Code.PERMISSION_DENIED),
        ("", KEY, Code.INVALID_ARGUMENT),
    ],
)
async def test_a_stream_is_refused_with_its_code_however_often(
    asked: GrpcWorld, name: str, metadata: tuple[tuple[str, str], ...], code: grpc.StatusCode
) -> None:
    # Not by the asyncio client: to that one a write which a refusal crosses is INTERNAL, with grpcio's own server too.
    asking = [infer_request(name, {})] * 3

    def codes(port: int) -> set[grpc.StatusCode]:
        found = set()
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
            for _ in range(50):
                streaming = stream(channel)(iter(asking), metadata=metadata, timeout=10)
                with contextlib.suppress(grpc.RpcError):
                    list(streaming)
                found.add(streaming.code())
        return found

    assert await asyncio.to_thread(codes, asked.world.settings.port) == {code}


async def test_health_is_watched_and_the_services_are_reflected(asked: GrpcWorld) -> None:
    watch = asked.channel.unary_stream(f"{HEALTH}/Watch")
    for body, metadata, status in (
        (b"", (), b"\x08\x01"),
        (b"\x0a\x06scaled", KEY, b"\x08\x01"),
        (b"\x0a\x06scaled", (), b"\x08\x03"),
        (b"\x0a\x06nobody", KEY, b"\x08\x03"),
    ):
        watching = watch(body, metadata=metadata, timeout=10)
        assert await watching.read() == status
        watching.cancel()
    port = asked.world.settings.port
    assert await asyncio.to_thread(reflected, port) == (
        {"grpc.health.v1.Health", "inference.GRPCInferenceService", *reflection.SERVICES},
        {"ModelInfer", "ModelStreamInfer", "RepositoryIndex"},
    )


def reflected(port: int) -> tuple[set[str], set[str]]:
    """What the library's own client finds."""
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        database = ProtoReflectionDescriptorDatabase(channel)
        services = set(database.get_services())
        pool = DescriptorPool(database)
        service = pool.FindServiceByName("inference.GRPCInferenceService")
        some = {"ModelInfer", "ModelStreamInfer", "RepositoryIndex"}
        return services, some & set(service.methods_by_name)
