"""Compressed requests and answers: read within limits, written only for who wants nothing else."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import httpx
import pytest
import pytest_asyncio
from hypothesis import given, strategies as st

from fairlead.api.worker import ServingSettings
from fairlead.domain.errors import FairleadError, Kind
from fairlead.domain.ids import RevisionId
from fairlead.server.http.encoding import packed, unpacked
from fairlead.server.http.exchange import Bodies, Holding
from support.models import scaled_artifact
from support.serving import InProcess, in_process

INFER = "/v2/models/scaled/infer"
LIMIT = 1 << 20
ASKED = json.dumps(
    {"inputs": [{"name": "x", "shape": [1, 3], "datatype": "FP32", "data": [1, 2, 3]}]}
).encode()
PACK: dict[str, Callable[[bytes], bytes]] = {"gzip": gzip.compress, "deflate": zlib.compress}


@pytest_asyncio.fixture
async def scaled(tmp_path: Path) -> AsyncIterator[InProcess]:
    settings = ServingSettings(body_limit_bytes=LIMIT, bodies_limit_bytes=4 * LIMIT)
    spec = scaled_artifact(tmp_path).spec(RevisionId("scaled", "v1", "1"), settings=settings)
    async with in_process(spec) as running:
        yield running


async def post(running: InProcess, body: bytes, **headers: str) -> httpx.Response:
    """As a client sends it, and the answer's body as it came."""
    sent = {name.replace("_", "-"): value for name, value in headers.items()}
    asked = running.client.build_request("POST", INFER, content=body, headers=sent)
    if "accept-encoding" not in sent:
        del asked.headers["accept-encoding"]
    answer = await running.client.send(asked, stream=True)
    raw = b"".join([piece async for piece in answer.aiter_raw()])
    return httpx.Response(answer.status_code, headers={**answer.headers, "x-raw": raw.hex()})


def raw(answer: httpx.Response) -> bytes:
    return bytes.fromhex(answer.headers["x-raw"])


@pytest.mark.parametrize("name", PACK)
async def test_a_compressed_request_is_answered_like_any_other(
    scaled: InProcess, name: str
) -> None:
    answer = await post(scaled, PACK[name](ASKED), content_encoding=name)
    assert answer.status_code == 200
    assert json.loads(raw(answer))["outputs"][0]["data"] == [2.0, 4.0, 6.0]
    assert "content-encoding" not in answer.headers
    assert scaled.app.bodies.held == 0


async def test_a_gzip_of_several_members_is_one_body(scaled: InProcess) -> None:
    parts = (ASKED[:20], b"", ASKED[20:])
    packed_parts = b"".join(map(gzip.compress, parts))
    answer = await post(scaled, packed_parts, content_encoding="gzip")
    assert json.loads(raw(answer))["outputs"][0]["data"] == [2.0, 4.0, 6.0]
    assert scaled.app.bodies.held == 0


@pytest.mark.parametrize("name", PACK)
async def test_who_asks_for_one_encoding_alone_gets_it(scaled: InProcess, name: str) -> None:
    answer = await post(scaled, ASKED, accept_encoding=name)
    assert answer.headers["content-encoding"] == name
    assert json.loads(zlib.decompress(raw(answer), zlib.MAX_WBITS | 32))["model_name"] == "scaled"
    assert int(answer.headers["content-length"]) == len(raw(answer))


@pytest.mark.parametrize("wish", ["gzip, deflate", "gzip, deflate, br", "*", "br", "identity"])
async def test_a_list_of_what_a_client_could_read_is_no_wish(scaled: InProcess, wish: str) -> None:
    answer = await post(scaled, ASKED, accept_encoding=wish)
    assert "content-encoding" not in answer.headers
    assert json.loads(raw(answer))["model_name"] == "scaled"


@pytest.mark.parametrize(
    ("body", "encoding", "status", "text"),
    [
        (ASKED, "gzip", 400, "cannot be unpacked"),
        (gzip.compress(ASKED)[:-4], "gzip", 400, "cannot be unpacked"),
        (gzip.compress(ASKED) + b"more", "gzip", 400, "cannot be unpacked"),
        (b"", "deflate", 400, "cannot be unpacked"),
        (ASKED, "br", 415, "content-encoding 'br' is not read here; send gzip, deflate or none"),
        (gzip.compress(bytes(LIMIT)) + gzip.compress(b"x"), "gzip", 413, "larger than 1048576 bytes once it is unpacked"),
        (gzip.compress(ASKED) + gzip.compress(b"")[:-1], "gzip", 400, "cannot be unpacked"),
        (gzip.compress(b"") * 20_000, "gzip", 400, "cannot be unpacked"),
        (zlib.compress(ASKED) + zlib.compress(b""), "deflate", 400, "cannot be unpacked"),
        (gzip.compress(bytes(LIMIT + 1)), "gzip", 413, "larger than 1048576 bytes once it is unpacked"),
    ],
    ids=["not packed", "cut short", "more behind it", "nothing", "unknown", "too large in two", "cut short in two", "nothing again and again", "deflate twice", "too large"],
)  # fmt: skip
async def test_what_cannot_be_unpacked_is_refused(
    scaled: InProcess, body: bytes, encoding: str, status: int, text: str
) -> None:
    answer = await post(scaled, body, content_encoding=encoding)
    assert answer.status_code == status
    assert text in json.loads(raw(answer))["error"]
    assert scaled.app.bodies.held == 0


async def test_a_bomb_is_given_up_before_it_is_unpacked_whole() -> None:
    bodies = Bodies(4 * LIMIT)
    holding = Holding(bodies)
    with pytest.raises(FairleadError) as caught:
        await unpacked(
            gzip.compress(bytes(64 * LIMIT)), {b"content-encoding": b"gzip"}, 32 * LIMIT, holding
        )
    assert caught.value.kind is Kind.OVERLOADED
    assert bodies.held <= 4 * LIMIT


@given(body=st.binary(max_size=3000), times=st.integers(1, 400), name=st.sampled_from(list(PACK)))
async def test_what_is_encoded_here_is_decoded_here(body: bytes, times: int, name: str) -> None:
    small, how = await packed(body * times, {b"accept-encoding": name.encode()})
    assert (b"content-encoding", name.encode()) in how
    holding = Holding(Bodies(1 << 30))
    assert await unpacked(small, {b"content-encoding": name.encode()}, 1 << 30, holding) == (
        body * times
    )


@given(parts=st.lists(st.binary(max_size=3000), min_size=1, max_size=5), times=st.integers(1, 100))
async def test_members_are_one_body(parts: list[bytes], times: int) -> None:
    small = b"".join(gzip.compress(part * times) for part in parts)
    holding = Holding(Bodies(1 << 30))
    whole = b"".join(part * times for part in parts)
    assert await unpacked(small, {b"content-encoding": b"gzip"}, 1 << 30, holding) == whole
    if len(whole) > 1:
        with pytest.raises(FairleadError, match="larger than"):
            await unpacked(small, {b"content-encoding": b"gzip"}, len(whole) - 1, holding)


@given(body=st.binary(max_size=300), name=st.sampled_from(["gzip", "deflate"]))
async def test_any_bytes_are_a_body_or_a_refusal(body: bytes, name: str) -> None:
    try:
        await unpacked(body, {b"content-encoding": name.encode()}, LIMIT, Holding(Bodies(LIMIT)))
    except FairleadError as error:
        assert error.kind in (Kind.INVALID, Kind.TOO_LARGE)
