"""Heads that come again on a connection: whatever else comes between them, the answers are those of the parser."""

from __future__ import annotations

import asyncio
import gc
import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import httptools
import pytest
import pytest_asyncio
from hypothesis import given, strategies as st

from fairlead.domain.ids import RevisionId
from fairlead.server.http.protocol import HttpProtocol
from fairlead.server.http.repeated import LastHead
from support.asked import Asked, Served, by_asgi, read_answer, send_cut, served_at, standing_at
from support.models import scaled_artifact
from support.serving import eventually

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
    ask('{"instances": [[7, 8, 9.5]]}', ("x-request-id", "another-id")),
    ask('{"instances": [[7, 8, 9]]}', ("x-request-timeout-ms", "soon")),
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


@pytest.mark.parametrize("more", [0, 900])
async def test_the_second_time_the_parser_is_not_asked(server: Served, more: int) -> None:
    reader, writer = await asyncio.open_unix_connection(str(server.path))
    for number in range(3):
        sent = {"instances": [[number, 2, 3]]}
        writer.write(ask(json.dumps(sent), ("x-other", "o" * more)).wire())
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


def kept(head: bytes = HEAD, raw: list[tuple[bytes, bytes]] = RAW) -> LastHead:
    last = LastHead()
    last.came(head + b"{}", PREDICT.encode(), dict(raw), raw, 2)
    return last


@pytest.mark.parametrize(
    ("begun", "raw"),
    [
        (b"\r\n\r\n" + HEAD, RAW),  # llhttp skips empty lines before a request
        (b"\r\n" + HEAD, RAW),
        (HEAD.replace(b"host: here", b"host:\r\n here"), RAW),
        (HEAD.replace(b"\r\n", b"\n"), RAW),
        (HEAD.replace(b"host: here\r\n", b"host: here\n"), RAW),
        (HEAD.replace(b"length: 2", b"length: 2 "), RAW),
        (HEAD.replace(b"length: 2", b"length:  2"), RAW),
        (HEAD[:-4], RAW),
        (HEAD.replace(b"1.1", b"1.0"), RAW),
        (b"GET" + HEAD[4:], RAW),
        (HEAD.replace(b"here", b"h" * 1000), [(b"host", b"h" * 1000), RAW[1]]),
        (HEAD.replace(b"\r\nhost", b"\r\nhost: here\r\nhost"), [RAW[0], *RAW]),
        (b"", RAW),
    ],
)
def test_a_head_that_may_mean_something_else_is_not_kept(
    begun: bytes, raw: list[tuple[bytes, bytes]]
) -> None:
    assert kept().again(HEAD + b"[]") == (PREDICT.encode(), dict(RAW), b"[]")
    assert kept(begun, raw).again(HEAD + b"[]") is None
    assert kept(begun, raw).again(begun + b"[]") is None


LONGER = HEAD.replace(
    b"host: here",
    b"host: here\r\nX-Request-Id: an-id\r\naccept: */*\r\nX-Sticky-Key:me\r\nX-Client: ",
)
LONGER_RAW = [
    *(RAW[0], (b"x-request-id", b"an-id"), (b"accept", b"*/*")),
    *((b"x-sticky-key", b"me"), (b"x-client", b""), RAW[1]),
]


@pytest.mark.parametrize(
    ("old", "new", "differs"),
    [
        (b"", b"", {}),
        (b"an-id", b"another", {b"x-request-id": b"another"}),
        (b"an-id", b"--", {b"x-request-id": b"--"}),
        (b"an-id", b"1-a!~", {b"x-request-id": b"1-a!~"}),
        (b"X-Client: ", b"X-Client: app", {b"x-client": b"app"}),
        (b"length: 2\r\n\r\n", b"length: 3\r\n\r\n ", {b"content-length": b"3"}),
        (b":me\r\n", b":you\r\n", {b"x-sticky-key": b"you"}),
    ],
)
def test_what_may_differ_is_taken_over(old: bytes, new: bytes, differs: dict[bytes, bytes]) -> None:
    last = kept(LONGER, LONGER_RAW)
    data = LONGER.replace(old, new, 1) if old else LONGER
    found = last.again(data + b"[]")
    assert found is not None
    url, headers, body = found
    assert url == PREDICT.encode()
    assert headers == dict(LONGER_RAW) | differs
    assert list(headers) == [name for name, _ in LONGER_RAW]
    assert body == (b" []" if b"content-length" in differs else b"[]")
    # It was this message's, not the next one's.
    assert last.again(LONGER + b"[]") == (PREDICT.encode(), dict(LONGER_RAW), b"[]")


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"an-id", b"an id"),
        (b"an-id", b"\x00"),
        (b"an-id", b"na\xc3\xafve"),
        (b"an-id", b""),
        (b"an-id", b"a\nTransfer-Encoding:chunked"),
        (b"an-id", b"a\r\nTransfer-Encoding:chunked"),
        (b"an-id", b"i" * 513),
        (b"an-id", b"i" * 2048),
        (b"an-id", b"!" * 513),
        (b"an-id", b"an-id\r"),
        (b"an-id", b"an-id "),
        (b"length: 2", b"length: 2\r"),
        (b"length: 2", b"length: 2\r\naccept: */*"),
        (b"X-Request-Id: ", b"x-request-id: "),
        (b"X-Request-Id: ", b"X-Request-Id : "),
        (b"accept: */*", b"accept: a/b"),
        (b"accept: */*", b"expect: 100-continue"),
        (b"accept: */*", b"transfer-encoding: chunked"),
        (b"here", b"there"),
        (b"length: 2", b"length: 1"),
        (b"length: 2", b"length: 3"),
        (b"length: 2", b"length: +2"),
        (b"length: 2", b"length: 0x2"),
        (b"length: 2", b"length: 2,2"),
        (b"length: 2", b"length: 2\r\ncontent-length: 2"),
        (b"POST", b"PUT"),
        (b"HTTP/1.1", b"HTTP/1.0"),
        (b"predict", b"predict?a=b"),
        (b"\r\nX-Sticky-Key:me", b""),
    ],
)
def test_whatever_else_differs_is_for_the_parser(old: bytes, new: bytes) -> None:
    data = LONGER.replace(old, new, 1)
    assert data != LONGER
    assert kept(LONGER, LONGER_RAW).again(data + b"[]") is None


@pytest.mark.parametrize("cut", [1, 2, 40, len(HEAD), len(HEAD) + 1])
def test_half_a_request_and_more_than_one_are_for_the_parser(cut: int) -> None:
    data = HEAD + b"[]"
    assert kept().again(data[:cut]) is None
    assert kept().again(data + data[:cut]) is None
    assert kept().again(data + data) is None


def test_where_no_two_heads_are_alike_none_is_kept_any_more() -> None:
    last, again = LastHead(), LastHead()
    for number in range(40):
        host = b"h%d" % number
        head, raw = HEAD.replace(b"here", host), [(b"host", host), RAW[1]]
        last.came(head + b"{}", PREDICT.encode(), dict(raw), raw, 2)
        # One that comes again now and then is reason to go on.
        again.came(head + b"{}", PREDICT.encode(), dict(raw), raw, 2)
        if number % 8 == 0:
            again.misses = 0
    assert last.again(head + b"[]") is None
    assert again.again(head + b"[]") is not None


VALUES = st.one_of(
    st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=9),
    st.sampled_from(["", " a", "a ", "a b", "\xe9t\xe9", "\t"]),
)


@given(
    turns=st.lists(
        st.tuples(
            st.sampled_from(["x-request-id", "X-Sticky-Key", "x-client", "traceparent", "accept"]),
            VALUES,
            st.integers(0, 3),
        ),
        min_size=2,
        max_size=10,
    )
)
def test_what_is_read_without_the_parser_is_what_the_parser_reads(
    turns: list[tuple[str, str, int]],
) -> None:
    last = LastHead()
    for name, value, spaces in turns:
        body = b" " * spaces
        data = (
            f"POST /p HTTP/1.1\r\nhost: a\r\n{name}: {value}\r\ncontent-length: {spaces}\r\n\r\n"
        ).encode("latin-1") + body
        read = Read()
        httptools.HttpRequestParser(read).feed_data(data)
        found = last.again(data)
        if found is not None:
            url, headers, rest = found
            assert (url, list(headers.items()), rest) == (read.url, read.headers, body)
        else:
            last.came(data, read.url, dict(read.headers), read.headers, spaces)


class Read:
    """What the parser says of one request."""

    def __init__(self) -> None:
        self.url = b""
        self.headers: list[tuple[bytes, bytes]] = []

    def on_url(self, url: bytes) -> None:
        self.url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers.append((name.lower(), value))


def test_each_connection_has_its_own_however_many_there_are() -> None:
    hosts = [b"h%d" % number for number in range(300)]
    heads = [HEAD.replace(b"here", host) for host in hosts]
    lasts = [kept(head, [(b"host", host), RAW[1]]) for head, host in zip(heads, hosts, strict=True)]
    found = [last.again(head + b"[]") for last, head in zip(lasts, heads, strict=True)]
    assert [one and one[1][b"host"] for one in found] == hosts


async def test_who_reads_nothing_is_answered_no_more_though_its_head_is_known(
    server: Served,
) -> None:
    reader, writer = await asyncio.open_unix_connection(str(server.path))
    writer.write(ALIKE[0].wire())
    await read_answer(reader)
    found = protocol_of_here()
    before = found.server_state.total_requests
    found.pause_writing()  # as its transport does, when too much is unread
    for _ in range(3):
        writer.write(ALIKE[0].wire())
        live, asking = await asyncio.open_unix_connection(str(server.path))
        for _ in range(2):  # by then the other one has been read
            asking.write(Asked("GET", "/livez", (), (b"",)).wire())
            await read_answer(live)
            before += 1
        asking.close()
    assert found.server_state.total_requests == before
    found.resume_writing()
    for _ in range(3):
        assert (await read_answer(reader))[0] == 200
    await eventually(lambda: found.server_state.total_requests == before + 3)
    writer.close()
