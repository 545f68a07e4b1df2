"""HTTP/2 frames that are wrong on purpose, among them what a gRPC client would send; written by hand."""

from __future__ import annotations

import gzip
import zlib
from random import Random

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, PRIORITY, RST, SETTINGS, PUSH, PING, GOAWAY, WINDOW, CONTINUATION = range(10)
END_STREAM, END_HEADERS = 0x1, 0x4


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    return (
        len(payload).to_bytes(3, "big") + bytes((kind, flags)) + stream.to_bytes(4, "big") + payload
    )


def headers(pairs: list[tuple[bytes, bytes]]) -> bytes:
    """HPACK literals without indexing; names and values of less than 127 bytes."""
    return b"".join(
        b"\x00" + bytes((len(name),)) + name + bytes((len(value),)) + value for name, value in pairs
    )


class Frames:
    """Connections of frames made by a seeded random."""

    def __init__(self, random: Random, key: str) -> None:
        self._random = random
        self._key = key.encode()

    def _ask(self, method: bytes, path: bytes, *more: tuple[bytes, bytes]) -> bytes:
        pseudo = [
            (b":method", method),
            (b":scheme", b"http"),
            (b":path", path),
            (b":authority", b"x"),
        ]
        return headers([*pseudo, (b"x-api-key", self._key), *more])

    def _grpc(self) -> bytes:
        path = self._random.choice(
            (b"/inference.GRPCInferenceService/ModelInfer", b"/inference.GRPCInferenceService/ModelInfer",
             b"/inference.GRPCInferenceService/ModelStreamInfer", b"/inference.GRPCInferenceService/ModelMetadata",
             b"/inference.GRPCInferenceService/ServerLive", b"/inference.GRPCInferenceService/RepositoryModelLoad",
             b"/grpc.health.v1.Health/Check", b"/grpc.health.v1.Health/Watch",
             b"/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
             b"/no.Such/Method", b"/v2/models/digits/infer")
        )  # fmt: skip
        odd: list[tuple[bytes, bytes]] = [
            (b"x-model-name", self._random.choice((b"digits", b"..", b"a/b", b"\xff"))),
            (b"x-model-version", self._random.choice((b"1", b"?", b"99"))),
            (
                b"grpc-encoding",
                self._random.choice((b"gzip", b"deflate", b"identity", b"nonsense")),
            ),
            (b"x-fairlead-grpc", b"ModelInfer"),
        ]
        more = [
            (b"content-type", b"application/grpc"),
            (b"te", b"trailers"),
            (b"grpc-timeout", b"1S"),
            *self._random.sample(odd, self._random.choice((0, 0, 0, 1, 2))),
        ]
        return self._ask(b"POST", path, *more)

    def message(self) -> bytes:
        """A ModelInferRequest, or nearly one, or what begins like one."""
        random = self._random
        name = random.choice(
            (b"digits", b"digits", b"sentiment", b"nobody", b"", b"../x", b"\xff" * 9)
        )
        named = b"\x0a" + bytes((len(name),)) + name
        if random.random() < 0.3:
            return random.randbytes(random.choice((0, 5, 200)))
        tensor = b"\x0a\x01x\x12\x04FP32\x1a\x02\x01\x40"
        whole = named + b"\x2a" + bytes((len(tensor),)) + tensor + b"\x3a\x80\x02" + bytes(256)
        at = random.randrange(len(named), len(whole))
        return random.choice(
            (whole, whole[:at], whole[:at] + random.randbytes(4) + whole[at:], named * 40, named)
        )

    def _right(self, stream: int) -> bytes:
        """One whole request, gRPC-shaped or not."""
        random = self._random
        if random.random() < 0.5:
            message = random.choice((bytes, bytes, gzip.compress, zlib.compress))(self.message())
            sizes = (len(message), 0, 0xFFFFFFFF, len(message) + 7)
            body = (
                bytes((random.choice((0, 0, 1, 7)),))
                + random.choice(sizes).to_bytes(4, "big")
                + message
            )
            return frame(HEADERS, END_HEADERS, stream, self._grpc()) + frame(
                DATA, END_STREAM, stream, body
            )
        if random.random() < 0.5:
            return frame(HEADERS, END_HEADERS | END_STREAM, stream, self._ask(b"GET", b"/livez"))
        asked = self._ask(
            b"POST", b"/v1/model/digits/predict", (b"content-length", b"%d" % random.randrange(99))
        )
        return frame(HEADERS, END_HEADERS, stream, asked) + frame(
            DATA, END_STREAM, stream, b'{"instances": []}'
        )

    def stream(self) -> list[bytes]:
        random = self._random
        made = random.choice(
            (self._flipped, self._flipped, self._flipped, self._preface, self._huge, self._reset, self._flood,
             self._states, self._hpack, self._settings, self._names)
        )()  # fmt: skip
        cut = random.randrange(len(made) + 1) if random.random() < 0.3 else len(made)
        return [made[:cut], made[cut:]]

    def _opened(self, *frames: bytes) -> bytes:
        return PREFACE + frame(SETTINGS, 0, 0) + b"".join(frames)

    def _flipped(self) -> bytes:
        data = bytearray(self._opened(*(self._right(stream) for stream in range(1, 9, 2))))
        for _ in range(self._random.choice((0, 1, 1, 3, 10))):
            data[self._random.randrange(len(PREFACE), len(data))] ^= 1 << self._random.randrange(8)
        return bytes(data)

    def _preface(self) -> bytes:
        return self._random.choice(
            (PREFACE[:-3] + b"XYZ", PREFACE * 2, PREFACE + b"\xff" * 50, PREFACE[:10])
        )

    def _huge(self) -> bytes:
        """Longer than a frame may be, and one that says so without being it."""
        data = frame(DATA, 0, 1, bytes(20_000))
        return self._opened(self._right(1), self._random.choice((data, b"\xff\xff\xff" + data[3:])))

    def _reset(self) -> bytes:
        """Opened and reset at once, many times."""
        asked = self._ask(b"GET", b"/v2/models/digits")
        pairs = (
            frame(HEADERS, END_HEADERS | END_STREAM, stream, asked)
            + frame(RST, 0, stream, bytes(4))
            for stream in range(1, 601, 2)
        )
        return self._opened(*pairs)

    def _flood(self) -> bytes:
        """Headers that never end, or what wants an answer each."""
        endless = [frame(CONTINUATION, 0, 1, headers([(b"a%d" % n, b"b")])) for n in range(400)]
        many = (
            [frame(HEADERS, 0, 1, self._ask(b"GET", b"/livez")), *endless],
            [frame(PING, 0, 0, bytes(8))] * 2_000,
            [frame(SETTINGS, 0, 0)] * 2_000,
            [frame(DATA, 0, 1)] * 500,
            [frame(PRIORITY, 0, 1, bytes(5))] * 500,
        )
        return self._opened(*self._random.choice(many))

    def _states(self) -> bytes:
        """Frames where they may not be."""
        one = self._right(1)
        odd = (
            frame(DATA, 0, 9, b"x"), frame(WINDOW, 0, 0, bytes(4)), frame(WINDOW, 0, 1, b"\x7f\xff\xff\xff"),
            frame(PUSH, END_HEADERS, 1, bytes(8)), frame(GOAWAY, 0, 0, bytes(8)), frame(99, 255, 3, b"x"),
            frame(PRIORITY, 0, 1, b"\0\0\0\1\0"), frame(RST, 0, 0, bytes(4)), frame(SETTINGS, 1, 0, bytes(6)),
            frame(CONTINUATION, END_HEADERS, 1, b""), one, self._right(2), frame(PING, 0, 0, b"short"),
        )  # fmt: skip
        return self._opened(one, *(self._random.choice(odd) for _ in range(4)), self._right(3))

    def _hpack(self) -> bytes:
        bad = (
            b"\xff" * 8,
            b"\x80",
            b"\x3f\xff\xff\xff\x0f",
            b"\x00\x7f",
            self._random.randbytes(60),
        )
        asked = self._ask(b"GET", b"/livez") + self._random.choice(bad)
        return self._opened(frame(HEADERS, END_HEADERS | END_STREAM, 1, asked), self._right(3))

    def _settings(self) -> bytes:
        pairs = b"".join(
            self._random.choice((1, 2, 3, 4, 5, 6, 8, 9)).to_bytes(2, "big")
            + self._random.randbytes(4)
            for _ in range(4)
        )
        return self._opened(frame(SETTINGS, 0, 0, pairs), self._right(1))

    def _names(self) -> bytes:
        """Header names and values that only HTTP/2 can carry, and that HTTP/1 must not be handed."""
        odd = (
            (b"Upper", b"x"), (b"a b", b"x"), (b"a\r\nb", b"x"), (b"a", b"x\r\nx-client: admin"), (b":x", b"x"),
            (b"transfer-encoding", b"chunked"), (b"connection", b"close"), (b"content-length", b"-1"),
            (b"content-length", b"4\r\n\r\nGET /"), (b":path", b"/two"), (b"host", b"other"), (b"", b"x"),
            (b"x-client", b"admin"), (b"accept-version", b"\xff"), (b":method", b"GET /livez HTTP/1.1\r\nx:"),
        )  # fmt: skip
        asked = self._ask(
            b"POST", b"/v1/model/digits/predict", *(self._random.choice(odd) for _ in range(2))
        )
        return self._opened(
            frame(HEADERS, END_HEADERS, 1, asked),
            frame(DATA, END_STREAM, 1, b"0\r\n\r\n"),
            self._right(3),
        )
