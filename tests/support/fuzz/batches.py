"""One batch: many wrong streams at once, right requests among them, and what must hold while and after.

- no answer of 500 and above (a proxy's 501 and 505, for what it does not implement, are no failure of ours);
- a right request on its own connection gets its own answer, with its own id, in time: nothing is stuck, and
  nothing of a wrong stream is ever taken for a part of somebody else's;
- no process dies, and each stays within bounds of memory. Which they are may change: workers come and go orderly.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import socket
from collections.abc import AsyncIterator, Callable, Iterator
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
    """A port that is attacked.

    `where` finds it: a worker's successor has another socket. `pids` finds the processes behind it, by name;
    `steady` gives numbers that change when one dies, and only then.
    """

    name: str
    where: Callable[[], raw.Address]
    key: str
    frames: bool
    pids: Callable[[], dict[str, int]]
    steady: Callable[[], dict[str, int]]
    first: dict[int, int] = field(default_factory=dict)  # memory by process, when it was first seen
    before: dict[str, int] = field(default_factory=dict)
    present: set[int] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.before = self.steady()
        self.first = {pid: _memory(pid) for pid in self.pids().values()}
        self.present = set(self.first)


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
    for what in _processes(target):
        figures.found(f"{target.name}, batch {number}: {what}")


async def _attack(
    target: Target, how: tuple[str, list[bytes]], place: str, figures: Figures
) -> None:
    figures.cases += 1
    manner, parts = how
    answers = b""
    try:
        async with asyncio.timeout(_DEADLINE_SECONDS), _connected(target) as one:
            sending = asyncio.ensure_future(_send(one, parts, _MANY if manner == "hogs" else 1))
            if manner == "reads":
                answers, _ = await raw.receive(one, _QUIET_SECONDS)
            else:
                # Whoever reads nothing may be kept from sending on: a server bounds what it holds for them.
                patience = _QUIET_SECONDS * 3 if manner == "hogs" else _DEADLINE_SECONDS / 4
                await asyncio.wait({sending}, timeout=patience)
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
    at = target.where()
    try:
        answer = await _exchange(target, asked)
        if not answer and target.where() != at:
            answer = await _exchange(
                target, asked
            )  # it was about to end: only a gateway knows that beforehand
    except (TimeoutError, OSError) as error:
        figures.found(f"{target.name}, {name}: a right request is not answered: {error!r}")
        return
    head, _, text = answer.partition(b"\r\n\r\n")
    own = f'"id":"{name}"'.encode()
    if b" 200 " not in head[:20] or own not in text or name.encode() not in head:
        figures.found(f"{target.name}, {name}: a right request gets {answer[:300]!r}")


async def _exchange(target: Target, asked: bytes) -> bytes:
    async with asyncio.timeout(_DEADLINE_SECONDS), _connected(target) as one:
        await raw.send(one, asked)
        answer, _ = await raw.receive(one, _DEADLINE_SECONDS)
        return answer


@contextlib.asynccontextmanager
async def _connected(target: Target) -> AsyncIterator[socket.socket]:
    """A connection to where the target is now, also if it moves meanwhile."""
    async with contextlib.AsyncExitStack() as stack:
        at = target.where()
        try:
            one = await stack.enter_async_context(raw.connected(at))
        except OSError:
            if target.where() == at:
                raise
            one = await stack.enter_async_context(raw.connected(target.where()))
        yield one


def _processes(target: Target) -> Iterator[str]:
    """What became of the processes; who died is asked only if they are others than before."""
    found = target.pids()
    if set(found.values()) != target.present:
        target.present = set(found.values())
        yield from changes(target)
    for name, pid in found.items():
        memory = target.first.setdefault(pid, _memory(pid))
        if _memory(pid) > memory + _MOST_GROWTH_BYTES:
            yield f"{name} grew from {memory >> 20} MiB to {_memory(pid) >> 20} MiB"
            target.first[pid] = _memory(pid)


def changes(target: Target) -> Iterator[str]:
    """Who died since the last look."""
    now = target.steady()
    for name, number in now.items():
        if number != target.before.get(name):
            yield f"{name}: {target.before.get(name)} before, {number} now"
    target.before = now


def _memory(pid: int) -> int:
    try:
        return int(psutil.Process(pid).memory_info().rss)
    except psutil.Error:
        return 0
