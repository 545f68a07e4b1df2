"""Which revisions are batched and what that gains: by the word of the workers that serve them."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from fairlead.api.worker import BATCHING_PATH
from fairlead.domain.ids import RevisionId
from fairlead.domain.measured import measured_from_bytes
from fairlead.domain.status import NodeStatus, State
from fairlead.kits.timeouts import timeout
from fairlead.kits.unixhttp import unix_client
from fairlead.wiring.homes import Control

_SECONDS = 2.0  # for all workers together
_AT_ONCE = 16
_ALONE = "one by one"  # how a worker begins when it does not batch


@dataclass(frozen=True, slots=True)
class Batched:
    """One endpoint: whether its requests share runs, why, and how many times the rows that would give.

    `gain` is None where nothing was measured.
    """

    on: bool
    why: str
    gain: float | None

    def __str__(self) -> str:
        gain = "" if self.gain is None else f" {self.gain:.1f}x"
        return f"{'on' if self.on else 'off'}{gain}"


Batches = Mapping[RevisionId, Mapping[str, Batched]]


def batches(control: Control, node: NodeStatus | None) -> Batches:
    """By revision and endpoint; without those that could never be batched, or whose worker does not answer."""
    if node is None:
        return {}
    # One replica for each process: it tells of all that live there.
    sockets = {
        one.pid: one.socket for one in node.replicas if one.state is State.READY and one.socket
    }
    said = asyncio.run(_ask_all(list(sockets.values()))) if sockets else []
    found: dict[RevisionId, Mapping[str, Batched]] = {}
    for served in said:
        try:
            revision = RevisionId(served["service"], served["line"], served["revision"])
            gain = _gain(control.home.measured(served["digest"]))
        except KeyError:  # a worker of another version
            continue
        found[revision] = {
            name: Batched(not why.startswith(_ALONE), why, gain)
            for name, why in served["batching"].items()
            if why
        }
    return found


def in_words(found: Mapping[str, Batched]) -> str:
    """A cell of a table: one word if all endpoints are alike."""
    words = {name: str(one) for name, one in found.items()}
    if len(set(words.values())) <= 1:
        return next(iter(words.values()), "-")
    return ", ".join(f"{name} {word}" for name, word in sorted(words.items()))


async def _ask_all(sockets: list[str]) -> list[dict[str, Any]]:
    turns = asyncio.Semaphore(_AT_ONCE)
    found: list[dict[str, Any]] = []

    async def ask(socket: str) -> None:
        async with turns:
            found.extend(await _ask(socket))

    try:
        async with timeout(_SECONDS), asyncio.TaskGroup() as group:
            for socket in sockets:
                group.create_task(ask(socket))
    except TimeoutError:
        return found
    return found


async def _ask(socket: str) -> list[dict[str, Any]]:
    try:
        async with unix_client(socket, _SECONDS) as client:
            document = (await client.get(BATCHING_PATH)).json()
        served = document["serves"]
    except (httpx.HTTPError, ValueError, KeyError, TypeError):
        return []
    return [
        one for one in served if isinstance(one, dict) and isinstance(one.get("batching"), dict)
    ]


def _gain(path: Path) -> float | None:
    try:
        measured = measured_from_bytes(path.read_bytes())
    except OSError:
        return None
    return round(measured.gain, 2) if measured is not None and measured.sizes else None
