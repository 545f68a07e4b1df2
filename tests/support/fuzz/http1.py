"""Streams of HTTP/1.1 that are wrong on purpose: a small corpus of right requests, and what is done to them."""

from __future__ import annotations

import json
from random import Random

ODD_HEADERS = (
    b"content-length: 3",
    b"content-length: 0",
    b"content-length: -1",
    b"content-length: +5",
    b"content-length: 5, 5",
    b"content-length: 99999999999999999999",
    b"content-length : 5",
    b"Content-Length:\x0b5",
    b"transfer-encoding: chunked",
    b"transfer-encoding: xchunked",
    b"transfer-encoding: chunked, identity",
    b"Transfer-Encoding:\tchunked",
    b"transfer-encoding : chunked",
    b"X: y\r\n transfer-encoding: chunked",
    b"X: y\ntransfer-encoding: chunked",
    b"X: y\rtransfer-encoding: chunked",
    b"connection: close",
    b"connection: content-length",
    b"connection: transfer-encoding, x-api-key",
    b"connection: upgrade\r\nupgrade: h2c\r\nhttp2-settings: AAMAAABkAAQAAP__",
    b"connection: upgrade\r\nupgrade: websocket\r\nsec-websocket-key: x\r\nsec-websocket-version: 13",
    b"expect: 100-continue",
    b"expect: nothing",
    b"te: trailers",
    b"trailer: content-length",
    b"host: other",
    b"host:",
    b"x-api-key: wrong",
    b"x-request-id: " + b"r" * 300,
    b"x-request-id: \xff\xfe",
    b"accept-version: " + b"9" * 5000,
    b"accept-version: v\xe9",
    b"x-sticky-key: \x80",
    b"inference-header-content-length: 18446744073709551616",
    b"inference-header-content-length: \xb2",
    b"x-envoy-expected-rq-timeout-ms: 1",
    b"x-envoy-original-path: /internal/identity",
    b"x-client: admin",
    b"x-forwarded-for: \x00",
    b"a\x00b: c",
    b": empty",
    b"no colon",
    b"big: " + b"b" * 70_000,
    b"\r\n".join(b"h%d: v" % number for number in range(300)),
)
TARGETS = (
    b"*", b"/", b"//", b"/%", b"/%00", b"/../livez", b"/livez?\xff", b"http://h/livez", b"http://h", b"h:80",
    b"/internal/identity", b"/v2/models/\xff/infer", b"/v2/models/digits/versions/%s/infer" % (b"9" * 5000),
    b"/" + b"a" * 70_000, b"/v1/model/digits/predict#x", b"/v1/model/digits/predict;x", b"\\livez", b"",
)  # fmt: skip
METHODS = (
    b"GET",
    b"HEAD",
    b"PUT",
    b"OPTIONS",
    b"CONNECT",
    b"TRACE",
    b"PRI",
    b"get",
    b"",
    b"G\x00T",
    b"X" * 500,
)
VERSIONS = (b"HTTP/1.0", b"HTTP/0.9", b"HTTP/2.0", b"HTTP/1.1 ", b"http/1.1", b"HTTP/11", b"")
BITS = (
    b"\r",
    b"\n",
    b"\r\n",
    b"\0",
    b"\xff",
    b" ",
    b"0\r\n\r\n",
    b"\r\n\r\n",
    b"GET /livez HTTP/1.1\r\nhost: x\r\n\r\n",
)
_LARGE = 1100 * 64 * 4  # bytes of a tensor
LEFT = b"POST /v1/model/digits/predict HTTP/1.1\r\nhost: x\r\n"


def right_requests(key: str) -> list[bytes]:
    """What every kind of caller sends: bodies of known length and in chunks, JSON and bytes, reads."""
    pixels = [0.0] * 64
    predict = json.dumps({"instances": [pixels]}).encode()
    tensor = {"name": "pixels", "shape": [1, 64], "datatype": "FP32"}
    infer = json.dumps({"inputs": [{**tensor, "data": pixels}]}).encode()
    asked = json.dumps({"inputs": [{**tensor, "parameters": {"binary_data_size": 256}}]}).encode()
    # So large that it goes past the parser.
    wide = json.dumps(
        {"inputs": [{**tensor, "shape": [1100, 64], "parameters": {"binary_data_size": _LARGE}}]}
    ).encode()
    text = json.dumps({"instances": ["a good film"]}).encode()
    length = b"inference-header-content-length: %d\r\n"
    binary, large = length % len(asked), length % len(wide)
    paths = ("/v1/model/digits/bio", "/v2/models/sentiment", "/v2/models/lsh/ready", "/livez")
    heads = [
        request("POST", "/v1/model/digits/predict", key, predict),
        request("POST", "/v2/models/digits/infer", key, infer),
        request("POST", "/v2/models/digits/infer", key, asked + bytes(256), binary),
        request("POST", "/v2/models/digits/infer", key, wide + bytes(_LARGE), large),
        request("POST", "/v1/model/sentiment/predict", key, text),
        request("POST", "/v1/model/lsh/predict", key, b'{"documents": [{"id": 1, "text": "a"}]}'),
        request("POST", "/v1/model/digits/predict", key, predict, chunks=3),
    ]
    return heads + [request("GET", path, key) for path in paths]


def request(
    method: str, path: str, key: str, body: bytes = b"", more: bytes = b"", chunks: int = 0
) -> bytes:
    head = f"{method} {path} HTTP/1.1\r\nhost: x\r\nx-api-key: {key}\r\n".encode() + more
    if chunks:
        size = len(body) // chunks + 1
        parts = (body[at : at + size] for at in range(0, len(body), size))
        body = b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in parts) + b"0\r\n\r\n"
        return head + b"transfer-encoding: chunked\r\n\r\n" + body
    length = b"content-length: %d\r\n" % len(body) if body or method == "POST" else b""
    return head + length + b"\r\n" + body


class Mutations:
    """Streams made wrong by a seeded random; each comes as the parts it is sent in."""

    def __init__(self, random: Random, right: list[bytes]) -> None:
        self._random = random
        self._right = right

    def stream(self) -> list[bytes]:
        random = self._random
        stream = b"".join(random.choice(self._right) for _ in range(random.choice((1, 1, 2, 5))))
        for _ in range(random.choice((1, 1, 1, 2, 3))):
            stream = self._changed(stream)
        if random.random() < 0.1:
            stream *= random.choice((3, 50))
        stream = stream[: 1 << 20]
        cuts = sorted(random.randrange(len(stream) + 1) for _ in range(random.choice((0, 0, 1, 3))))
        return [stream[a:b] for a, b in zip([0, *cuts], [*cuts, len(stream)], strict=True)]

    def _changed(self, stream: bytes) -> bytes:
        change = self._random.choice(
            (self._flip, self._cut, self._again, self._insert, self._header, self._header,
             self._header, self._target, self._method, self._version, self._chunks, self._bare, self._desync)
        )  # fmt: skip
        return change(stream)

    def _at(self, stream: bytes) -> int:
        """Anywhere, but more often in the first bytes, where the head is."""
        most = len(stream) if self._random.random() < 0.4 else min(len(stream), 300)
        return self._random.randrange(most + 1)

    def _flip(self, stream: bytes) -> bytes:
        data = bytearray(stream or b" ")
        for _ in range(self._random.choice((1, 1, 2, 8))):
            data[self._at(stream) % len(data)] ^= 1 << self._random.randrange(8)
        return bytes(data)

    def _cut(self, stream: bytes) -> bytes:
        at = self._at(stream)
        return stream[:at] if self._random.random() < 0.5 else stream[:at] + stream[at + 5 :]

    def _again(self, stream: bytes) -> bytes:
        start, end = sorted((self._at(stream), self._at(stream)))
        return stream[:end] + stream[start:]

    def _insert(self, stream: bytes) -> bytes:
        at = self._at(stream)
        return stream[:at] + self._random.choice(BITS) + stream[at:]

    def _header(self, stream: bytes) -> bytes:
        """One more header line, at the start or at the end of a head."""
        odd = self._random.choice(ODD_HEADERS)
        if self._random.random() < 0.5:
            return stream.replace(b"\r\n\r\n", b"\r\n" + odd + b"\r\n\r\n", 1)
        return stream.replace(b"\r\n", b"\r\n" + odd + b"\r\n", 1)

    def _first_line(self, stream: bytes, place: int, word: bytes) -> bytes:
        line, end, rest = stream.partition(b"\r\n")
        words = line.split(b" ", 2)
        if place < len(words):
            words[place] = word
        return b" ".join(words) + end + rest

    def _target(self, stream: bytes) -> bytes:
        return self._first_line(stream, 1, self._random.choice(TARGETS))

    def _method(self, stream: bytes) -> bytes:
        return self._first_line(stream, 0, self._random.choice(METHODS))

    def _version(self, stream: bytes) -> bytes:
        return self._first_line(stream, 2, self._random.choice(VERSIONS))

    def _chunks(self, stream: bytes) -> bytes:
        sizes = (
            b"0",
            b"-1",
            b"fffffffffffffffff",
            b"5;ext=" + b"e" * 400,
            b"0x5",
            b" 5",
            b"5 ",
            b"5\n",
            b"G",
        )
        chunk = self._random.choice(sizes) + b"\r\nhello\r\n0\r\nx-client: t\r\n\r\n"
        return LEFT + b"transfer-encoding: chunked\r\n\r\n" + chunk + stream

    def _bare(self, stream: bytes) -> bytes:
        return stream.replace(b"\r\n", self._random.choice((b"\n", b"\r", b"\r\n ", b"\r\n\t")))

    def _desync(self, stream: bytes) -> bytes:
        """Two lengths for one body, in all the ways that have fooled a proxy."""
        games = (
            b"content-length: 4\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
            b"content-length: 6\r\nTransfer-Encoding:\x0bchunked\r\n\r\n0\r\n\r\nX",
            b"transfer-encoding: chunked\r\ntransfer-encoding: identity\r\n\r\n0\r\n\r\n",
            b"content-length: 0\r\ncontent-length: 44\r\n\r\n",
            b"content-length: 44\r\nconnection: content-length\r\n\r\n",
            b"expect: 100-continue\r\ncontent-length: 300\r\n\r\n",
        )
        return LEFT + self._random.choice(games) + stream
