"""Heads as they pass the activator."""

from __future__ import annotations

from hypothesis import given, strategies as st

from fairlead.domain.ids import EndpointId
from fairlead.gateway.heads import END, is_full, read_head, told

REQUEST = (
    b"POST /v1/model/speech/predict?x=1 HTTP/1.1\r\nhost: h\r\nconnection: keep-alive\r\n"
    b"x-fairlead-held: speech/v9/2/stream\r\nx-envoy-expected-rq-timeout-ms: 30000\r\n"
    b"x-request-timeout-ms: 5000\r\ngrpc-timeout: 7S\r\nx-own: a: b"
)
ANSWER = b"HTTP/1.1 200 OK\r\nConnection: keep-alive\r\nServer-Timing: queue;dur=1\r\nx: y" + END


def test_a_head_says_whom_it_means() -> None:
    head = read_head(REQUEST)
    assert (head.method, head.path) == ("POST", "/v1/model/speech/predict")
    assert head.endpoint == EndpointId("speech", "v9", "2", "stream")
    assert head.patience_seconds == 5.0


def test_a_worker_gets_what_is_left_of_the_time_and_one_request_on_a_connection() -> None:
    sent = read_head(REQUEST).sent_on(1.5).split(b"\r\n")
    assert sent == [
        b"POST /v1/model/speech/predict?x=1 HTTP/1.1",
        b"host: h",
        b"x-envoy-expected-rq-timeout-ms: 28500",
        b"x-request-timeout-ms: 3500",
        b"grpc-timeout: 5500m",
        b"x-own: a: b",
        b"connection: close",
        b"",
        b"",
    ]


def test_a_time_that_is_none_is_left_to_the_worker() -> None:
    head = read_head(b"POST / HTTP/1.1\r\nx-request-timeout-ms: soon\r\ngrpc-timeout: never")
    assert head.patience_seconds == float("inf")
    assert b"x-request-timeout-ms: soon\r\ngrpc-timeout: never\r\n" in head.sent_on(1.0)


def test_what_no_route_of_ours_sent_means_nobody() -> None:
    assert read_head(b"GET / HTTP/1.1\r\nhost: h").endpoint is None
    assert read_head(b"GET / HTTP/1.1\r\nx-fairlead-held: a/b").endpoint is None


def test_an_answer_says_how_long_it_was_held_and_is_the_last_on_its_connection() -> None:
    assert told(ANSWER, 0.25, "w1").split(b"\r\n") == [
        b"HTTP/1.1 200 OK",
        b"Server-Timing: queue;dur=1, held;dur=250.000, worker;desc=w1",
        b"x: y",
        b"connection: close",
        b"",
        b"",
    ]
    bare = told(b"HTTP/1.1 204 No Content" + END, 0.0, "w1")
    assert bare.split(b"\r\n")[1] == b"server-timing: held;dur=0.000, worker;desc=w1"


def test_only_an_answer_of_a_full_queue_is_full() -> None:
    full = b"HTTP/1.1 503 Service Unavailable\r\nx-error-code: overloaded\r\nx: y" + END
    assert is_full(full)
    assert is_full(b"HTTP/1.1 200 OK\r\nX-Error-Code: overloaded" + END), "gRPC is always 200"
    assert not is_full(full.replace(b"overloaded", b"unavailable"))
    assert not is_full(b"HTTP/1.1 200 OK\r\nx: x-error-code: overloaded" + END)


@given(st.binary(max_size=200), st.floats(0, 1e6))
def test_any_bytes_are_a_head(data: bytes, held: float) -> None:
    head = read_head(data)
    assert head.sent_on(held).endswith(b"connection: close" + END)
    assert isinstance(head.path, str)
    assert head.patience_seconds >= 0
