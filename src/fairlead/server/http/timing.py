"""`Server-Timing` (W3C): how a request went in this worker, said in one standard header of its answer.

    server-timing: queue;dur=0.012, engine;dur=0.031, batch;desc=1, bucket;desc=4711

`queue` is from the complete body to the start of the run (or to the refusal), `engine` the run itself, in milliseconds; `batch`
how many requests shared the run; `bucket` the caller's place in a split, if the gateway said who calls. What
did not happen is left out. The gateway's access log keeps it, and `fairlead why` explains it.
"""

from __future__ import annotations

from collections.abc import Collection
from functools import lru_cache

from xxhash import xxh64_intdigest

from fairlead.domain.ids import BUCKETS
from fairlead.server.http.handlers import Headers
from fairlead.server.times import Times

NAME = b"server-timing"
_STICKY = b"x-sticky-key"
_CLIENT = b"x-client"

Raw = Collection[tuple[bytes, bytes]]  # headers as they came; `Headers` forgets what was sent twice


def after_run(
    queue_seconds: float, engine_seconds: float, headers: Headers, raw: Raw, batch: int = 1
) -> bytes:
    """The value for a request whose run has ended."""
    return with_run(queue_seconds, run(engine_seconds, batch), headers, raw)


def run(engine_seconds: float, batch: int) -> bytes:
    """What is the same for all requests that shared a run."""
    return b"engine;dur=%.3f, batch;desc=%d" % (engine_seconds * 1000, batch)


def with_run(queue_seconds: float, said: bytes, headers: Headers, raw: Raw) -> bytes:
    """As `after_run`, where the run has been put into words (`run`)."""
    return b"queue;dur=%.3f, %b%b" % (queue_seconds * 1000, said, _bucket(headers, raw))


def not_run(queue_seconds: float, headers: Headers, raw: Raw) -> bytes:
    """The value for a request that got no further than waiting."""
    return b"queue;dur=%.3f%b" % (queue_seconds * 1000, _bucket(headers, raw))


def so_far(times: Times, now: float, headers: Headers, raw: Raw) -> bytes:
    """The value for a request that got as far as it did; empty if there is nothing to say."""
    if times.began:
        queued = times.began - times.arrived
        return after_run(queued, times.engine_seconds, headers, raw, times.batch)
    if not times.arrived:
        return bucket_only(headers, raw)
    return not_run(now - times.arrived, headers, raw)


def bucket_only(headers: Headers, raw: Raw) -> bytes:
    """The value for a request that was not run; empty if nobody said who calls."""
    return _bucket(headers, raw)[2:]


def as_header(value: bytes) -> list[tuple[bytes, bytes]]:
    """The header, unless there is nothing to say."""
    return [(NAME, value)] if value else []


def _bucket(headers: Headers, raw: Raw) -> bytes:
    """`, bucket;desc=4711`, as the gateway's split has it; empty if nobody said who calls.

    A key that is sent twice is hashed otherwise by the gateway: better no bucket than a wrong one.
    """
    caller = headers.get(_STICKY)
    if caller is None:
        client = headers.get(_CLIENT, b"")
        if client and len(client) <= _LONGEST_NAME:
            return _bucket_of_client(client)
        return _say_bucket(client) if client else b""
    if len(raw) != len(headers) and sum(name == _STICKY for name, _ in raw) > 1:
        return b""
    return _say_bucket(caller)


def _say_bucket(caller: bytes) -> bytes:
    return b", bucket;desc=%d" % (xxh64_intdigest(caller) % BUCKETS)


# A key's client is the same in each of its requests; sticky keys are as many as people. Names of ours are
# short: what somebody sends to a worker directly must not fill memory.
_LONGEST_NAME = 128
_bucket_of_client = lru_cache(1024)(_say_bucket)
