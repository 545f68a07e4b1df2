"""What an endpoint has executed, in plain numbers: what the statistics extension (S1-G 42) tells of it.

Two calls count a request: `ran` for its run, which requests may have shared, and `answered` or `failed` for
all of it. Seconds are kept, nanoseconds are told.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

_NANO = 1_000_000_000


class Runs:
    """All runs of one batch size: how many, and how long."""

    __slots__ = ("count", "seconds")

    def __init__(self) -> None:
        self.count = 0
        self.seconds = 0.0


class Executions:
    """The counts of one endpoint. Belongs to one event loop.

    `last` is when it last answered, by the steady clock; 0 if it never has.
    """

    __slots__ = (
        "by_size",
        "decoding_seconds",
        "encoding_seconds",
        "failed_requests",
        "failed_seconds",
        "last",
        "queue_seconds",
        "requests",
        "run_requests",
        "run_seconds",
        "seconds",
    )

    def __init__(self) -> None:
        self.by_size: dict[int, Runs] = {}
        self.requests = 0  # that were answered
        self.seconds = 0.0  # from the request to its answer
        self.queue_seconds = 0.0
        self.decoding_seconds = 0.0
        self.encoding_seconds = 0.0
        self.run_requests = 0
        self.run_seconds = 0.0  # counted once for each request that shared the run
        self.failed_requests = 0
        self.failed_seconds = 0.0
        self.last = 0.0

    def ran(self, batch_size: int, seconds: float, requests: int = 1) -> None:
        """One run that went well: of `batch_size` items, which so many requests brought along."""
        runs = self.by_size.get(batch_size)
        if runs is None:
            runs = self.by_size[batch_size] = Runs()
        runs.count += 1
        runs.seconds += seconds
        self.run_requests += requests
        self.run_seconds += seconds * requests

    def answered(
        self, now: float, each: Sequence[float], queue: float, decoding: float, encoding: float
    ) -> None:
        """Requests that were answered, `each` in so many seconds, and how much of all that was what besides the run."""
        self.requests += len(each)
        self.seconds += sum(each)
        self.queue_seconds += queue
        self.decoding_seconds += decoding
        self.encoding_seconds += encoding
        self.last = now

    def failed(self, seconds: float) -> None:
        """One request that was answered with an error."""
        self.failed_requests += 1
        self.failed_seconds += seconds

    def forget(self) -> None:
        """Begin anew: who asked so far was nobody's caller."""
        fresh = Executions()
        for name in Executions.__slots__:
            setattr(self, name, getattr(fresh, name))


def total(parts: list[Executions]) -> Executions:
    """Several endpoints' counts as one."""
    whole = Executions()
    for one in parts:
        for name in Executions.__slots__:
            if name not in ("by_size", "last"):
                setattr(whole, name, getattr(whole, name) + getattr(one, name))
        whole.last = max(whole.last, one.last)
        for size, runs in one.by_size.items():
            into = whole.by_size.setdefault(size, Runs())
            into.count += runs.count
            into.seconds += runs.seconds
    return whole


def statistics(counts: Executions, since_last: float, wall: float) -> dict[str, Any]:
    """S1-G 42, without name and version. `since_last`: seconds since the last answer; `wall`: the time now."""
    sizes = sorted(counts.by_size.items())
    answered = counts.requests
    return {
        "last_inference": round((wall - since_last) * 1000) if counts.last else 0,
        "inference_count": sum(size * runs.count for size, runs in sizes),
        "execution_count": sum(runs.count for _, runs in sizes),
        "inference_stats": {
            "success": _duration(answered, counts.seconds),
            "fail": _duration(counts.failed_requests, counts.failed_seconds),
            "queue": _duration(answered, counts.queue_seconds),
            "compute_input": _duration(answered, counts.decoding_seconds),
            "compute_infer": _duration(counts.run_requests, counts.run_seconds),
            "compute_output": _duration(answered, counts.encoding_seconds),
            "cache_hit": _duration(0, 0.0),
            "cache_miss": _duration(0, 0.0),
        },
        "batch_stats": [
            {
                "batch_size": size,
                "compute_input": _duration(0, 0.0),
                "compute_infer": _duration(runs.count, runs.seconds),
                "compute_output": _duration(0, 0.0),
            }
            for size, runs in sizes
        ],
        "memory_usage": [],
    }


def _duration(count: int, seconds: float) -> dict[str, int]:
    return {"count": count, "ns": round(seconds * _NANO)}
