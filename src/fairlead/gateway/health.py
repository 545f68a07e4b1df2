"""Whether everything that should serve does: what `/healthz` and the ready pages say.

Status alone is not believed: every routed worker is asked itself, at most once in half a second.
Anybody may read it, so it tells how far things are; why is in the status and the log.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from pathlib import Path

import httpx

from fairlead.domain.health import held_problems
from fairlead.domain.status import NodeStatus, Replica
from fairlead.domain.table import told
from fairlead.gateway.state import View
from fairlead.kits.clock import Clock
from fairlead.kits.timeouts import timeout
from fairlead.kits.unixhttp import unix_client

STALE_SECONDS = 1.5  # three heartbeats of the agent
_PROBE_SECONDS = 0.5
_PROBE_AGAIN_SECONDS = 0.5
_WHY = "`fairlead status` says why"
_PARTS = {
    "store": "the store is away: the last catalog stays",
    "status": "the agent's status cannot be read: the last one stays",
    "keys": "the keys cannot be read: the last ones stay",
    "routes": "the routes could not be moved",
    "clusters": "old clusters could not be dropped",
    "envoy": "Envoy does not start",
    "cache": "the catalog cannot be kept for a time without the store",
    "disk": "the gateway cannot write its files",
}


@dataclass(frozen=True, slots=True)
class Report:
    """`problems`: something that should serve does not. `warnings`: all serve, but something is away."""

    problems: tuple[str, ...]
    warnings: tuple[str, ...]

    @property
    def status(self) -> str:
        if self.problems:
            return "failing"
        return "degraded" if self.warnings else "ok"


class Health:
    """Looks at the view and asks the workers."""

    def __init__(self, view: View, clock: Clock) -> None:
        self._view = view
        self._clock = clock
        self._probed_at = float("-inf")
        self._silent: frozenset[str] = frozenset()
        self._asking = asyncio.Lock()

    async def report(self) -> Report:
        """The truth, no older than two seconds."""
        silent = await self._silent_workers()
        problems, warnings = self._of_workers(silent)
        view = self._view
        for switch in view.switches:
            (problems if switch.whole else warnings).append(switch.what)
        if view.node is not None:
            held = held_problems(view.catalog, view.node)
            problems = [*self._not_ready(view.node), *held, *problems]
            # A clock that was set back leaves a status of the future: that says nothing either.
            age = abs(self._clock.now() - view.node.written_at)
            if age > STALE_SECONDS:
                warnings.append(f"the agent has been silent for {age:.1f} s")
            if view.node.problem:
                warnings.append(f"the agent has a problem; {_WHY}")
        elif view.catalog.live():
            problems.append("the agent has not written its status yet")
        warnings += [f"{_PARTS.get(part, part)}; {_WHY}" for part in sorted(view.problems)]
        return Report(tuple(dict.fromkeys(problems)), tuple(warnings))

    def _not_ready(self, node: NodeStatus) -> list[str]:
        catalog = self._view.catalog
        up, reasons = node.up(catalog), node.reasons()
        return [
            f"{one} is not ready: {told(reasons.get(one, ''))}"
            for one in sorted(catalog.live())
            if one not in up and catalog.services[one.service].kill is None
        ]

    def _of_workers(self, silent: frozenset[str]) -> tuple[list[str], list[str]]:
        problems: list[str] = []
        warnings: list[str] = []
        live = self._view.catalog.live()
        for revision, replicas in sorted(self._view.behind.replicas.items()):
            service = self._view.catalog.services.get(revision.service)
            if revision not in live or service is None or service.kill is not None:
                continue
            away = [replica.worker for replica in replicas if replica.worker in silent]
            if not away:
                continue
            text = f"{revision}: no answer from {', '.join(away)}"
            (problems if len(away) == len(replicas) else warnings).append(text)
        return problems, warnings

    async def _silent_workers(self) -> frozenset[str]:
        async with self._asking:
            if self._clock.monotonic() - self._probed_at >= _PROBE_AGAIN_SECONDS:
                replicas = [one for group in self._view.behind.replicas.values() for one in group]
                answers = await asyncio.gather(*(_answers(replica) for replica in replicas))
                self._silent = frozenset(
                    replica.worker
                    for replica, answered in zip(replicas, answers, strict=True)
                    if not answered
                )
                self._probed_at = self._clock.monotonic()
            return self._silent


async def _answers(replica: Replica) -> bool:
    if not Path(replica.socket).exists():  # noqa: ASYNC240 - one stat of a local file
        return False
    try:
        async with (
            timeout(_PROBE_SECONDS),
            unix_client(replica.socket, _PROBE_SECONDS) as client,
        ):
            answer = await client.get("/livez")
    except (httpx.HTTPError, OSError, TimeoutError):
        return False
    return answer.is_success
