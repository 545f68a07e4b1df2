"""Constant load on one path, from a process of its own, every answer recorded."""

from __future__ import annotations

import asyncio
import itertools
import json
import multiprocessing
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing.synchronize import Event
from typing import Any

CONNECTIONS = 4
_ANSWER_SECONDS = 60.0  # far beyond any deadline: an answer that takes this long is a hang


@dataclass
class Outcome:
    """Every answer: when (monotonic), status (0: no answer), served version, seconds it took, body."""

    answers: list[tuple[float, int, str, float, bytes]] = field(default_factory=list)

    @property
    def statuses(self) -> Counter[int]:
        return Counter(status for _, status, _, _, _ in self.answers)

    @property
    def failed(self) -> list[tuple[float, int, str, float, bytes]]:
        return [answer for answer in self.answers if answer[1] != 200]

    @property
    def slowest(self) -> float:
        return max(seconds for _, _, _, seconds, _ in self.answers)

    def recovered_after(self, moment: float) -> float:
        """Seconds from a moment until the last answer that was not 200; 0 if there was none."""
        bad = [at for at, status, _, _, _ in self.answers if status != 200 and at >= moment]
        return max(bad) - moment if bad else 0.0


@contextmanager
def constant_load(
    port: int,
    path: str,
    body: Any,
    headers: dict[str, str],
    *,
    crowd: int = 0,
    pause: float = 0.0,
) -> Iterator[Outcome]:
    """Keep asking while the block runs; the outcome is filled when it ends.

    `crowd`: as so many users, each with a sticky key. `pause`: seconds after each answer.
    """
    context = multiprocessing.get_context("spawn")
    stop, begun = context.Event(), context.Event()
    results: Any = context.Queue()
    data = json.dumps(body).encode()
    requests = [_request(path, data, headers)]
    if crowd:
        users = [{**headers, "X-Sticky-Key": f"user-{number}"} for number in range(crowd)]
        requests = [_request(path, data, one) for one in users]
    process = context.Process(
        target=_drive, args=(port, requests, pause, stop, begun, results), daemon=True
    )
    process.start()
    outcome = Outcome()
    try:
        assert begun.wait(20), "the load did not begin"
        yield outcome
    finally:
        stop.set()
        outcome.answers.extend(results.get(timeout=_ANSWER_SECONDS + 10))
        process.join(10)


def _request(path: str, body: bytes, headers: dict[str, str]) -> bytes:
    lines = [
        f"POST {path} HTTP/1.1",
        "Host: test",
        f"Content-Length: {len(body)}",
        "Content-Type: application/json",
    ]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    return ("\r\n".join(lines) + "\r\n\r\n").encode() + body


def _drive(
    port: int, requests: list[bytes], pause: float, stop: Event, begun: Event, results: Any
) -> None:
    answers: list[tuple[float, int, str, float, bytes]] = []

    async def everybody() -> None:
        async with asyncio.TaskGroup() as group:
            for number in range(CONNECTIONS):
                own = requests[number::CONNECTIONS] or requests
                group.create_task(_client(port, itertools.cycle(own), pause, stop, begun, answers))

    asyncio.run(everybody())
    results.put(answers)


async def _client(
    port: int,
    requests: Iterator[bytes],
    pause: float,
    stop: Event,
    begun: Event,
    answers: list[Any],
) -> None:
    reader: asyncio.StreamReader | None = None
    writer: asyncio.StreamWriter | None = None
    while not stop.is_set():
        began = time.monotonic()
        status, version, body = 0, "", b""
        try:
            if writer is None or reader is None:
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(next(requests))
            status, version, body, keep = await asyncio.wait_for(_answer(reader), _ANSWER_SECONDS)
        except (OSError, asyncio.IncompleteReadError, TimeoutError):
            keep = False
        answers.append((began, status, version, time.monotonic() - began, body))
        begun.set()
        if not keep and writer is not None:
            writer.close()
            writer = None
        if status == 0:
            await asyncio.sleep(0.01)  # nobody listens: ask again, without spinning
        elif pause:
            await asyncio.sleep(pause)
    if writer is not None:
        writer.close()


async def _answer(reader: asyncio.StreamReader) -> tuple[int, str, bytes, bool]:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    headers = {
        name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:])
    }
    body = await reader.readexactly(int(headers.get("content-length", "0")))
    return (
        int(head[0].split()[1]),
        headers.get("x-served-version", ""),
        body,
        headers.get("connection") != "close",
    )
