"""gRPC through the gateway byte by byte: what clients rely on that look closer than grpcio's, and what none would send."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence

import grpc
import pytest
import pytest_asyncio

from fairlead.api.oip_messages import message
from fairlead.gateway.replies import NO_MESSAGE
from fairlead.kits.frames import framed
from support.effort import PATIENCE
from support.grpc_calls import HEALTH
from support.grpc_raw import raw_call
from support.grpc_world import KEY, GrpcWorld, grpc_world

pytestmark = [
    pytest.mark.enable_socket,
    pytest.mark.timeout(60),
    pytest.mark.asyncio(loop_scope="module"),
]
Code = grpc.StatusCode
SERVICE = "/inference.GRPCInferenceService"
STREAM = f"{SERVICE}/ModelStreamInfer"
REFLECTION = "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo"
NAMED = (*KEY, ("x-model-name", "scaled"))


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def asked(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[GrpcWorld]:
    async with grpc_world(tmp_path_factory.mktemp("wire")) as found:
        yield found


@pytest.mark.parametrize("metadata", [KEY, NAMED])
async def test_a_streams_answer_says_no_length_that_it_does_not_have(
    asked: GrpcWorld, metadata: Sequence[tuple[str, str]]
) -> None:
    sent = framed(asked.scaled(id="1").SerializeToString())
    port = asked.world.settings.port
    code, _, headers, body = await raw_call(port, STREAM, sent + sent, metadata)
    assert code == Code.OK.value[0]
    assert "content-length" not in headers
    size = int.from_bytes(body[1:5], "big")
    answer = message("ModelStreamInferResponse").FromString(body[5 : 5 + size])
    assert answer.infer_response.id == "1"
    assert len(body) == 2 * (5 + size)
    code, _, headers, body = await raw_call(port, REFLECTION, framed(b"\x3a\0"), ())
    assert (code, len(body) > 5) == (Code.OK.value[0], True)
    assert "content-length" not in headers


@pytest.mark.parametrize(
    ("path", "metadata", "code", "words"),
    [
        (STREAM, KEY, Code.OK, ""),
        (STREAM, NAMED, Code.OK, ""),
        (STREAM, (), Code.UNAUTHENTICATED, "No API key found in request"),
        (REFLECTION, (), Code.OK, ""),
        (f"{HEALTH}/Watch", (), Code.INVALID_ARGUMENT, NO_MESSAGE),
        (f"{HEALTH}/Check", (), Code.INVALID_ARGUMENT, NO_MESSAGE),
        (f"{SERVICE}/ServerLive", (), Code.INVALID_ARGUMENT, NO_MESSAGE),
        (f"{SERVICE}/ModelInfer", KEY, Code.INVALID_ARGUMENT, NO_MESSAGE),
        (f"{SERVICE}/ModelInfer", NAMED, Code.INVALID_ARGUMENT, "the message names the model ''"),
        (f"{SERVICE}/ModelMetadata", NAMED, Code.INVALID_ARGUMENT, NO_MESSAGE),
        (f"{SERVICE}/RepositoryIndex", KEY, Code.INVALID_ARGUMENT, NO_MESSAGE),
        (f"{SERVICE}/Nothing", KEY, Code.UNIMPLEMENTED, "nothing answers"),
    ],
)
async def test_a_call_that_ends_with_its_head_is_answered_with_a_code(
    asked: GrpcWorld,
    path: str,
    metadata: Sequence[tuple[str, str]],
    code: grpc.StatusCode,
    words: str,
) -> None:
    async with asyncio.timeout(10 * PATIENCE):
        told = await raw_call(asked.world.settings.port, path, None, metadata)
    assert told[0] == code.value[0]
    assert words in told[1]
    assert told[3] == b""


@pytest.mark.parametrize("sent", [b"", b"\0\0\0"])
@pytest.mark.parametrize("metadata", [KEY, NAMED])
async def test_a_call_without_a_whole_frame_is_the_callers_mistake(
    asked: GrpcWorld, sent: bytes, metadata: Sequence[tuple[str, str]]
) -> None:
    for method in ("ModelInfer", "ModelMetadata", "RepositoryIndex", "Nothing"):
        told = await raw_call(asked.world.settings.port, f"{SERVICE}/{method}", sent, metadata)
        assert told[:2] == (Code.INVALID_ARGUMENT.value[0], NO_MESSAGE)


async def test_a_time_that_is_over_already_is_exceeded_and_not_wrong(asked: GrpcWorld) -> None:
    slow = message("ModelInferRequest")(model_name="boom")
    given = slow.inputs.add(name="request", datatype="BYTES", shape=[1])
    given.contents.bytes_contents.append(b'{"seconds": 5}')
    sent = framed(slow.SerializeToString())
    for time in ("0n", "0m", "0S"):
        metadata = (*KEY, ("grpc-timeout", time))
        told = await raw_call(asked.world.settings.port, f"{SERVICE}/ModelInfer", sent, metadata)
        assert told[:2] == (Code.DEADLINE_EXCEEDED.value[0], "no answer within 0 s")


@pytest.mark.parametrize("kind", ["", "+proto", "-text", "-text+proto"])
async def test_grpc_web_is_told_that_it_is_not_spoken(asked: GrpcWorld, kind: str) -> None:
    port, kind = asked.world.settings.port, f"application/grpc-web{kind}"
    sent = framed(asked.scaled().SerializeToString())
    for path in (f"{SERVICE}/ModelInfer", f"{SERVICE}/ServerLive", STREAM, f"{HEALTH}/Check"):
        for metadata in (KEY, NAMED):
            code, words, headers, body = await raw_call(port, path, sent, metadata, kind)
            assert code == Code.UNIMPLEMENTED.value[0]
            assert words.startswith("gRPC-Web is not spoken here")
            assert (headers["content-type"], body) == (kind, b"")
        assert (await raw_call(port, path, sent, (), kind))[0] == Code.UNAUTHENTICATED.value[0]
