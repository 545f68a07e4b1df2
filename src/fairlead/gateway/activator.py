"""The activator: holds requests until a worker has room for them, and wakes the one that is missing.

Envoy sends it the requests of endpoints that are cold, and of limited ones that may grow while they have little
room (behind.py). Each waits in the order of its arrival, for as long as its endpoint's deadline; then it goes to
the least loaded ready replica, never more at once than the endpoint's `concurrency`. The agent is told again and
again who waits, so one that died in between loses nothing. What passes here is only passed on (splice.py).
"""

from __future__ import annotations

import asyncio
import math
import socket
from collections import Counter, OrderedDict
from collections.abc import Coroutine, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fairlead.api.deadlines import FULL, no_answer
from fairlead.domain.errors import Kind
from fairlead.domain.ids import EndpointId, RevisionId
from fairlead.domain.layout import Home
from fairlead.domain.release import EndpointSpec
from fairlead.domain.routing import Refusal
from fairlead.domain.status import NodeStatus, Replica, State
from fairlead.domain.table import RevisionRoute, told
from fairlead.gateway.behind import endpoints_of, ready_for, serving
from fairlead.gateway.failures import Failures, HeldOff
from fairlead.gateway.replies import SWITCHED_OFF
from fairlead.gateway.settings import GatewaySettings
from fairlead.gateway.splice import Caller, Passage
from fairlead.gateway.state import Inputs, View
from fairlead.gateway.waking import Waker
from fairlead.kits.clock import Clock

_LOOK_SECONDS = 0.02  # while somebody waits
_BACKLOG = 4096  # what the kernel allows at most, for a burst between two looks
_PATIENCE_SECONDS = 1.0  # with what had failed before somebody asked


@dataclass(slots=True)
class Held:
    """One endpoint's requests: those that wait, and how many each worker is at that were sent from here.

    The counts are since the process began; `held_seconds` is the time of those that have gone on to a worker.
    """

    waiting: OrderedDict[Caller, None] = field(default_factory=OrderedDict)
    busy: Counter[str] = field(default_factory=Counter)
    forwarded: int = 0
    refused: int = 0
    held_seconds: float = 0.0


def least_loaded(
    replicas: Iterable[Replica], busy: Mapping[str, int], concurrency: int
) -> Replica | None:
    """The replica at the fewest requests, the one started last first; None if each has all it takes at once."""
    free = [one for one in replicas if not concurrency or busy.get(one.worker, 0) < concurrency]
    return min(
        free, key=lambda one: (busy.get(one.worker, 0), -one.since, one.worker), default=None
    )


class Activator:
    """Everybody who waits in this process. Belongs to one event loop."""

    def __init__(
        self, view: View, home: Home[Path], clock: Clock, settings: GatewaySettings
    ) -> None:
        self.held: dict[EndpointId, Held] = {}
        self.callers: set[Caller] = set()
        self.api_version = settings.api_version
        self._most_waiting = settings.most_waiting
        self.clock = clock
        self._view = view
        self._inputs = Inputs(home, view, clock)
        self._waker = Waker(home.agent_socket)
        self._failures = Failures(settings.kill_switch, clock)
        self._come = asyncio.Event()  # somebody waits
        self._tasks: asyncio.TaskGroup | None = None
        self._ready: tuple[NodeStatus | None, Mapping[RevisionId, tuple[Replica, ...]]] = (None, {})

    # What a connection tells (splice.py).

    def arrived(self, caller: Caller) -> None:
        """A request is there: goes on at once if a replica has room, else waits."""
        endpoint = caller.endpoint
        if endpoint is None:
            caller.refuse(Refusal(Kind.INTERNAL, "the gateway led this request astray"))
            return
        held = self.held.setdefault(endpoint, Held())
        if self._waiting(endpoint) >= self._most_waiting:
            held.refused += 1
            caller.refuse(Refusal(Kind.OVERLOADED, FULL))
            return
        held.waiting[caller] = None
        self._inputs.look_at_status()
        self._pump(endpoint, held)
        if held.waiting:
            self._waker.waits(endpoint, len(held.waiting))
            self._come.set()

    def left(self, caller: Caller) -> None:
        """A request's client is gone before it went on to a worker."""
        held = self.held.get(caller.endpoint) if caller.endpoint else None
        if held is not None:
            held.waiting.pop(caller, None)

    def again(self, caller: Caller, worker: str) -> None:
        """The worker did not take the request, or its queue was full: it waits on, before all others."""
        held = self._freed(caller, worker)
        held.waiting[caller] = None
        held.waiting.move_to_end(caller, last=False)
        self._come.set()

    def judged(self, caller: Caller, worker: str, *, failed: bool) -> None:
        """A worker has answered, or broke off: does that count against it?"""
        assert caller.endpoint is not None
        self._failures.count(caller.endpoint, worker, failed=failed)

    def done(self, caller: Caller, worker: str) -> None:
        """A worker is done with a request."""
        held = self._freed(caller, worker)
        assert caller.endpoint is not None
        self._pump(caller.endpoint, held)

    def _freed(self, caller: Caller, worker: str) -> Held:
        assert caller.endpoint is not None
        held = self.held[caller.endpoint]
        held.busy[worker] -= 1
        if not held.busy[worker]:
            del held.busy[worker]
        return held

    # What others ask.

    def using(self) -> set[str]:
        """The workers that are at a request which went through here."""
        return {worker for held in self.held.values() for worker in held.busy}

    def switched_off(self) -> dict[EndpointId, HeldOff]:
        """The endpoints with workers that get no requests after too many failures; forgets who is gone."""
        found = {}
        for endpoint in self._failures.seen():
            there = tuple(one.worker for one in self._replicas(endpoint))
            self._failures.keep(endpoint, there)
            off = self._failures.off(endpoint, there)
            if off:
                found[endpoint] = HeldOff(there, off)
        return found

    async def serve(self, listening: socket.socket) -> None:
        """Take requests on this socket, look who has room for those who wait, tell the agent; until cancelled."""
        loop = asyncio.get_running_loop()
        async with asyncio.TaskGroup() as group:
            self._tasks = group
            server = await loop.create_unix_server(
                lambda: Caller(self), sock=listening, backlog=_BACKLOG
            )
            try:
                group.create_task(self._waker.work())
                while True:
                    await self._come.wait()
                    self._look()
                    await self.clock.sleep(_LOOK_SECONDS)
            finally:
                server.close()
                for caller in list(self.callers):
                    caller.abort()

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        """Do something that takes time, for one request."""
        assert self._tasks is not None
        self._tasks.create_task(work)

    def _look(self) -> None:
        """Once over everybody who waits."""
        self._inputs.look_at_status()
        for endpoint, held in list(self.held.items()):
            if held.waiting:
                self._late(held)
                self._pump(endpoint, held)
                self._failed(endpoint, held)
            self._waker.waits(endpoint, len(held.waiting))
        if not any(held.waiting for held in self.held.values()):
            self._come.clear()
            self._forget()

    def _pump(self, endpoint: EndpointId, held: Held) -> None:
        """Send on as many as there is room for."""
        if not held.waiting:
            return
        spec = self._specs(endpoint).get(endpoint, EndpointSpec(endpoint.endpoint))
        there = self._replicas(endpoint)
        asked = self._failures.on(endpoint, there)
        if there and not asked:
            self._off(held)
        while held.waiting:
            replica = least_loaded(asked, held.busy, spec.concurrency)
            if replica is None:
                return
            caller, _ = held.waiting.popitem(last=False)
            held.busy[replica.worker] += 1
            held.forwarded += 1
            seconds = self.clock.monotonic() - caller.arrived_at
            held.held_seconds += seconds
            Passage(self, caller, replica, seconds).start()

    def _off(self, held: Held) -> None:
        """Refuse everybody: all there are have failed too often."""
        seconds = math.ceil(self._failures.switch.seconds)
        message = SWITCHED_OFF.format(seconds=seconds)
        while held.waiting:
            caller, _ = held.waiting.popitem(last=False)
            held.refused += 1
            caller.refuse(Refusal(Kind.UNAVAILABLE, message, seconds))

    def _late(self, held: Held) -> None:
        """Refuse those whose own time is over; the endpoint's Envoy keeps."""
        now = self.clock.monotonic()
        for caller in [one for one in held.waiting if now >= one.until]:
            del held.waiting[caller]
            held.refused += 1
            seconds = caller.until - caller.arrived_at
            caller.refuse(Refusal(Kind.DEADLINE, no_answer(seconds)))

    def _failed(self, endpoint: EndpointId, held: Held) -> None:
        """Refuse them if what they wait for has failed to come up, and not been tried again at once."""
        reason = failure(self._view.node, endpoint)
        if not reason:
            return
        message = f"{endpoint.revision_id.served_version} has {told(reason)}"
        before = self.clock.monotonic() - _PATIENCE_SECONDS
        for caller in [one for one in held.waiting if one.arrived_at <= before]:
            del held.waiting[caller]
            held.refused += 1
            caller.refuse(Refusal(Kind.UNAVAILABLE, message))

    def _forget(self) -> None:
        """Endpoints that the catalog has left."""
        known = self._view.behind.held
        for endpoint in [one for one in self.held if one not in known]:
            held = self.held[endpoint]
            if not held.waiting and not held.busy:
                del self.held[endpoint]

    def _replicas(self, endpoint: EndpointId) -> tuple[Replica, ...]:
        """Who serves it, ready."""
        node, revision = self._view.node, self._revision(endpoint)
        if node is not self._ready[0]:
            self._ready = (node, node.ready() if node is not None else {})
        if revision is None:
            return ()
        return serving(ready_for(revision, self._ready[1]), endpoint)

    def _revision(self, endpoint: EndpointId) -> RevisionRoute | None:
        """Its revision, as it is routed."""
        service = self._view.index.table.services.get(endpoint.service)
        line = service.lines.get(endpoint.line) if service else None
        return line.revisions.get(endpoint.revision) if line else None

    def _specs(self, endpoint: EndpointId) -> dict[EndpointId, EndpointSpec]:
        """Every endpoint of its revision, as the release has it."""
        revision = self._revision(endpoint)
        return dict(endpoints_of(revision)) if revision else {}

    def _waiting(self, endpoint: EndpointId) -> int:
        """How many wait for its revision."""
        found = (self.held.get(one) for one in self._specs(endpoint))
        return sum(len(held.waiting) for held in found if held is not None)


def failure(node: NodeStatus | None, endpoint: EndpointId) -> str:
    """Why an endpoint will not come up now; empty if it may."""
    if node is None:
        return ""
    own = [
        one
        for one in node.replicas
        if one.revision == endpoint.revision_id and one.endpoint in ("", endpoint.endpoint)
    ]
    if not own or any(one.state not in (State.FAILED, State.DRAINING) for one in own):
        return ""
    return next((f"{one.state}: {one.reason}" for one in own if one.state is State.FAILED), "")
