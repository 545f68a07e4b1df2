"""One batch: many wrong streams at once, right requests among them, and what must hold while and after.

- no answer of 500 and above (a proxy's 501 and 505, for what it does not implement, are no failure of ours);
- a right request on its own connection gets its own answer, with its own id, in time: nothing is stuck, and
  nothing of a wrong stream is ever taken for a part of somebody else's;
- the same processes, within bounds of memory.
"""

from __future__ import annotations

import asyncio
import json
import re
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from random import Random

import psutil

from support import raw
from support.fuzz.http1 import Mutations, request, right_requests
from support.fuzz.http2 import Frames

_AT_ONCE = 24
_PROBES = 6
_QUIET_SECONDS = 0.15  # nothing came for this long: there is no more to come
_DEADLINE_SECONDS = 10.0  # of one exchange, however busy the machine is
_MOST_GROWTH_BYTES = 300 << 20
_NOT_IMPLEMENTED = {501, 505}
# Reads the answers, leaves as soon as all is sent, or sends much and reads nothing.
_MANNERS = (*["reads"] * 14, *["leaves"] * 5, "hogs")
_MANY = 300
_STATUS = re.compile(rb"HTTP/1\.1 (\d{3}) [A-Z]")


@dataclass
class Target:
    """A port that is attacked. `pids` finds the processes behind it, by name."""

    name: str
    address: raw.Address
    key: str
    frames: bool
    pids: Callable[[], dict[str, int]]
    first: dict[str, tuple[int, int]] = field(default_factory=dict)  # pid and memory at the start

    def __post_init__(self) -> None:
        self.first = {name: (pid, _memory(pid)) for name, pid in self.pids().items()}


@dataclass
class Figures:
    """What was done and found. A finding is a sentence, and the stream that led to it if one did."""

    cases: int = 0
    answers: int = 0
    probes: int = 0
    findings: list[tuple[str, bytes]] = field(default_factory=list)
    statuses: dict[int, int] = field(default_factory=dict)
    forwarded: tuple[int, int] = (0, 0)  # requests Envoy sent to workers, requests they got

    def found(self, what: str, stream: bytes = b"") -> None:
        self.findings.append((what, stream))


async def batch(target: Target, number: int, seed: int, figures: Figures) -> None:
    """Batch `number` of a seed is always the same."""
    random = Random(f"{seed} {target.name} {number}")
    mutations = Mutations(random, right_requests(target.key))
    frames = Frames(random, target.key)
    streams = [
        (frames if target.frames and random.random() < 0.4 else mutations).stream()
        for _ in range(_AT_ONCE)
    ]
    async with asyncio.TaskGroup() as group:
        for case, parts in enumerate(streams):
            place = f"{target.name}, batch {number}, case {case}"
            manner = random.choice(_MANNERS)
            group.create_task(_attack(target, (manner, parts), place, figures))
        for probe in range(_PROBES):
            group.create_task(_probe(target, f"probe-{number}-{probe}", figures))
    await _probe(target, f"probe-{number}-after", figures)
    for what in _changes(target):
        figures.found(f"{target.name}, batch {number}: {what}")


async def _attack(
    target: Target, how: tuple[str, list[bytes]], place: str, figures: Figures
) -> None:
    figures.cases += 1
    manner, parts = how
    answers = b""
    try:
        async with asyncio.timeout(_DEADLINE_SECONDS), raw.connected(target.address) as one:
            sending = asyncio.ensure_future(_send(one, parts, _MANY if manner == "hogs" else 1))
            if manner == "reads":
                answers, _ = await raw.receive(one, _QUIET_SECONDS)
            elif manner == "hogs":
                await asyncio.wait({sending}, timeout=_QUIET_SECONDS * 3)
            else:
                await sending
            sending.cancel()
    except TimeoutError:
        figures.found(f"{place}: hangs", b"".join(parts))
    except OSError as error:
        figures.found(f"{place}: {error}", b"".join(parts))
    for status in map(int, _STATUS.findall(answers)):
        figures.answers += 1
        figures.statuses[status] = figures.statuses.get(status, 0) + 1
        own_deadline = status == 504 and any(b"expected-rq-timeout-ms" in part for part in parts)
        if status >= 500 and status not in _NOT_IMPLEMENTED and not own_deadline:
            figures.found(f"{place}: answered {status}", b"".join(parts))


async def _send(one: socket.socket, parts: list[bytes], times: int) -> None:
    for part in parts * times:
        if not await raw.send(one, part):
            return
        if times == 1:
            await asyncio.sleep(0.005)


async def _probe(target: Target, name: str, figures: Figures) -> None:
    """A right request, on a connection of its own."""
    figures.probes += 1
    tensor = {"name": "pixels", "shape": [1, 64], "datatype": "FP32", "data": [0.0] * 64}
    body = json.dumps({"id": name, "inputs": [tensor]}).encode()
    more = b"connection: close\r\nx-request-id: %b\r\n" % name.encode()
    asked = request("POST", "/v2/models/digits/infer", target.key, body, more)
    try:
        async with asyncio.timeout(_DEADLINE_SECONDS), raw.connected(target.address) as one:
            await raw.send(one, asked)
            answer, _ = await raw.receive(one, _DEADLINE_SECONDS)
    except (TimeoutError, OSError) as error:
        figures.found(f"{target.name}, {name}: a right request is not answered: {error!r}")
        return
    head, _, text = answer.partition(b"\r\n\r\n")
    own = f'"id":"{name}"'.encode()
    if b" 200 " not in head[:20] or own not in text or name.encode() not in head:
        figures.found(f"{target.name}, {name}: a right request gets {answer[:300]!r}")


def _changes(target: Target) -> Iterator[str]:
    """What became of the processes."""
    now = target.pids()
    for name, (pid, memory) in target.first.items():
        if now.get(name) != pid or not psutil.pid_exists(pid):
            yield f"{name} was process {pid} and is {now.get(name)}"
            target.first[name] = (now.get(name, 0), memory)
        elif _memory(pid) > memory + _MOST_GROWTH_BYTES:
            yield f"{name} grew from {memory >> 20} MiB to {_memory(pid) >> 20} MiB"
            target.first[name] = (pid, _memory(pid))


def _memory(pid: int) -> int:
    try:
        return int(psutil.Process(pid).memory_info().rss)
    except psutil.Error:
        return 0
