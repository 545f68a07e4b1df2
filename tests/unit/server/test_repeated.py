"""Heads that come again on a connection: whatever else comes between them, the answers are those of the parser."""

from __future__ import annotations

import asyncio
import gc
import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import pytest_asyncio
from hypothesis import given, strategies as st

from fairlead.domain.ids import RevisionId
from fairlead.server.http.protocol import HttpProtocol
from fairlead.server.http.repeated import LastHead
from support.asked import Asked, Served, by_asgi, read_answer, send_cut, served_at, standing_at
from support.effort import PATIENCE
from support.models import scaled_artifact
from support.serving import in_process, listening

SCALED = RevisionId("scaled", "v9", "2")
PREDICT = "/v1/model/scaled/predict"
HEAD = b"POST %b HTTP/1.1\r\nhost: here\r\ncontent-length: 2\r\n\r\n" % PREDICT.encode()
RAW = [(b"host", b"here"), (b"content-length", b"2")]


def ask(text: str, *headers: tuple[str, str]) -> Asked:
    return Asked("POST", PREDICT, headers, (text.encode(),))


# Bodies of one length have one head; what is wrong with one is that one's.
ALIKE = [
    ask('{"instances": [[1, 2, 3]]}'),
    ask('{"instances": [[4, 5, 6]]}'),
    ask('{"instances": [[4, 5,"6"]]}'[:26]),
    ask("{" * 26),
    ask('{"instances": [[7, 8, 9]]}', ("x-request-id", "an-id")),
    ask('{"instances": [[7, 8, 9]]}', ("accept-encoding", "gzip")),
    ask('{"instances": [[7, 8, 9], [1, 2, 3]]}'),
    ask('{"instances": [[1, 2, 3]]}', ("x-request-timeout-ms", "60000")),
    Asked("POST", PREDICT, (), (b'{"instances": ', b"[[1, 2, 3]]}")),
    Asked("GET", "/livez", (), (b"",)),
    Asked("POST", "/v1/model/other/predict", (), (b'{"instances": [[1, 2, 3]]}',)),
]


@pytest_asyncio.fixture
async def server(tmp_path: Path) -> AsyncIterator[Served]:
    async with served_at(tmp_path, scaled_artifact(tmp_path / "scaled").spec(SCALED)) as found:
        yield found


@pytest.fixture(scope="module")
def standing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[asyncio.Runner, Served]]:
    """One server for many examples."""
    directory = tmp_path_factory.mktemp("repeated")
    with standing_at(directory, scaled_artifact(directory / "scaled").spec(SCALED)) as standing:
        yield standing


def protocol_of_here() -> HttpProtocol:
    """The only connection's."""
    loop = asyncio.get_running_loop()
    found = [
        one
        for one in gc.get_objects()
        if isinstance(one, HttpProtocol) and one.loop is loop and one.transport is not None
    ]
    return next(one for one in found if not one.transport.is_closing())


@given(
    turns=st.lists(
        st.tuples(
            st.lists(st.sampled_from(ALIKE), min_size=1, max_size=3),  # sent at once
            st.lists(st.integers(1, 400), max_size=2),  # where they are cut
        ),
        min_size=2,
        max_size=12,
    )
)
def test_whatever_comes_between_them_the_answers_are_asgis(
    standing: tuple[asyncio.Runner, Served], turns: list[tuple[list[Asked], list[int]]]
) -> None:
    runner, found = standing

    async def compare() -> None:
        reader, writer = await asyncio.open_unix_connection(str(found.path))
        async with asyncio.timeout(10):
            for requests, cuts in turns:
                await send_cut(writer, b"".join(one.wire() for one in requests), cuts)
                for one in requests:
                    status, headers, body = await read_answer(reader)
                    kind, code = (headers.get(key, "") for key in ("content-type", "x-error-code"))
                    if ("accept-encoding", "gzip") not in one.headers:
                        assert (status, kind, code, body) == await by_asgi(found.running, one)
                    sent = dict(one.headers).get("x-request-id", headers["x-request-id"])
                    assert headers["x-request-id"] == sent
        writer.close()

    runner.run(compare())
    assert all(route.in_progress == 0 for route in found.running.plane.stats)


async def test_the_second_time_the_parser_is_not_asked(server: Served) -> None:
    reader, writer = await asyncio.open_unix_connection(str(server.path))
    for number in range(3):
        writer.write(ask(json.dumps({"instances": [[number, 2, 3]]})).wire())
        _, headers, body = await read_answer(reader)
        assert json.loads(body)["predictions"][0][0] == 2 * number
        assert headers["x-request-id"]
        if not number:
            protocol_of_here().parser = None  # whoever asked it now would fail
    writer.close()


async def test_a_model_that_is_gone_is_gone_for_a_head_that_comes_again(server: Served) -> None:
    reader, writer = await asyncio.open_unix_connection(str(server.path))
    statuses = []
    for turn in range(3):
        if turn == 2:
            server.running.app.forget()
        writer.write(ALIKE[0].wire())
        statuses.append((await read_answer(reader))[0])
    writer.close()
    assert statuses == [200, 200, (await by_asgi(server.running, ALIKE[0]))[0]]
    assert statuses[2] == 503


async def test_an_idle_connection_is_closed_whoever_read_its_heads(tmp_path: Path) -> None:
    spec = scaled_artifact(tmp_path / "scaled").spec(SCALED)
    async with in_process(spec) as running, listening(running.app, tmp_path / "s", 0.2) as path:
        reader, writer = await asyncio.open_unix_connection(str(path))
        start = asyncio.get_running_loop().time()
        while asyncio.get_running_loop().time() - start < 0.5:  # longer than the limit, never idle
            writer.write(ALIKE[0].wire())
            status, _, _ = await read_answer(reader)
            assert status == 200
        async with asyncio.timeout(5 * PATIENCE):
            assert await reader.read() == b""
        writer.close()


@pytest.mark.parametrize(
    ("begun", "raw"),
    [
        (b"\r\n\r\n" + HEAD, RAW),  # llhttp skips empty lines before a request
        (HEAD.replace(b"host: here", b"host:\r\n here"), RAW),
        (HEAD.replace(b"\r\n", b"\n"), RAW),
        (HEAD.replace(b"host: here\r\n", b"host: here\n"), RAW),
        (HEAD[:-4], RAW),
        (HEAD.replace(b"1.1", b"1.0"), RAW),
        (b"GET" + HEAD[4:], RAW),
        (HEAD.replace(b"here", b"h" * 3000), [(b"host", b"h" * 3000), RAW[1]]),
        (b"", RAW),
    ],
)
def test_a_head_that_may_mean_something_else_is_not_kept(
    begun: bytes, raw: list[tuple[bytes, bytes]]
) -> None:
    last = LastHead()
    last.came(HEAD + b"{}", PREDICT.encode(), dict(RAW), RAW, 2)
    assert last.known is not None
    assert (last.known.start, last.known.size) == (HEAD, len(HEAD) + 2)
    last.came(begun + b"{}", PREDICT.encode(), dict(raw), raw, 2)
    assert last.known is None


def test_where_no_two_heads_are_alike_none_is_kept_any_more() -> None:
    last = LastHead()
    for number in range(40):
        head = HEAD.replace(b"here", b"h%d" % number)
        last.came(head + b"{}", PREDICT.encode(), dict(RAW), RAW, 2)
        assert (last.known is not None) == (number < 16)
    again = LastHead()
    for number in range(40):
        again.came(HEAD + b"{}", PREDICT.encode(), dict(RAW), RAW, 2)
        if number % 8 == 0:
            again.came_again()
    assert again.known is not None
