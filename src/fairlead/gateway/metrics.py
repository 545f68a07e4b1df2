"""`/metrics`: the gateway's own numbers and what the agent says of itself and its workers, as one exposition."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict
from pathlib import Path

import httpx

from fairlead.domain.ids import EndpointId
from fairlead.domain.layout import Home
from fairlead.gateway.activator import Held
from fairlead.gateway.behind import endpoints_of, routable
from fairlead.gateway.ports import Envoy
from fairlead.gateway.state import View
from fairlead.kits.timeouts import timeout
from fairlead.kits.unixhttp import unix_client

CONTENT_TYPE = "application/openmetrics-text; version=1.0.0; charset=utf-8"
_AGENT_SECONDS = 2.0
_EOF = "# EOF"
_STATS = r"^(http\.ingress\.downstream_(rq|cx)_(\dxx|active)|cluster\..*@.*\.upstream_rq_active)$"
_CLUSTER = re.compile(r"cluster\.([^/]+)/([^.]+)\.([^/]+)/.+@[-0-9a-z]+\.upstream_rq_active")
_CLASS = re.compile(r"http\.ingress\.downstream_rq_(\dxx)")

Sample = tuple[Mapping[str, str], float]


class Metrics:
    """Collects both halves."""

    def __init__(
        self,
        home: Home[Path],
        envoy: Envoy,
        view: View,
        held: Mapping[EndpointId, Held] | None = None,
    ) -> None:
        self._home = home
        self._envoy = envoy
        self._view = view
        self._held = held if held is not None else {}

    async def exposition(self) -> bytes:
        """OpenMetrics text; without the agent its own half and `fairlead_agent_up 0`."""
        stats = await self._envoy.stats(_STATS)
        agent = await self._agent()
        lines = [
            *_families(self._own(stats)),
            *_families(self._of_switches()),
            *_families(self._of_activator()),
            *_families(self._of_keys()),
            *_family(
                "fairlead_agent_up",
                "gauge",
                "Whether the agent answers.",
                [({}, float(agent is not None))],
            ),
            *(agent or ()),
            _EOF,
        ]
        return ("\n".join(lines) + "\n").encode()

    def _own(self, stats: Mapping[str, int]) -> Iterable[tuple[str, str, str, list[Sample]]]:
        classes: list[Sample] = []
        revisions: dict[tuple[str, str, str], float] = {}
        for name, value in sorted(stats.items()):
            if found := _CLASS.fullmatch(name):
                classes.append(({"class": found[1]}, value))
            elif found := _CLUSTER.fullmatch(name):
                key = (found[1], found[2], found[3])
                revisions[key] = revisions.get(key, 0) + value
        view = self._view
        prefix = "fairlead_gateway"
        yield f"{prefix}_requests", "counter", "Requests answered, by class of status.", classes
        active = float(stats.get("http.ingress.downstream_rq_active", 0))
        yield f"{prefix}_requests_active", "gauge", "Requests being answered.", [({}, active)]
        connections = float(stats.get("http.ingress.downstream_cx_active", 0))
        yield f"{prefix}_connections_active", "gauge", "Connections open.", [({}, connections)]
        by_revision: list[Sample] = [
            ({"service": key[0], "line": key[1], "revision": key[2]}, value)
            for key, value in revisions.items()
        ]
        name = f"{prefix}_revision_requests_active"
        yield name, "gauge", "Requests being answered, by revision.", by_revision
        generation = float(view.index.table.generation)
        yield (
            f"{prefix}_generation",
            "gauge",
            "Generation of the catalog that is routed.",
            [({}, generation)],
        )
        rejected = float(view.rejected_updates)
        yield (
            f"{prefix}_rejected_updates",
            "counter",
            "Updates that Envoy refused.",
            [({}, rejected)],
        )
        restarts = float(view.envoy_restarts)
        yield (
            f"{prefix}_envoy_restarts",
            "counter",
            "Times Envoy died and was started again.",
            [({}, restarts)],
        )
        yield f"{prefix}_envoy_up", "gauge", "Whether Envoy runs.", [({}, float(view.envoy_up))]

    def _of_switches(self) -> Iterable[tuple[str, str, str, list[Sample]]]:
        view = self._view
        whole = {one.endpoint for one in view.switches if one.whole}
        routed = sorted(
            endpoint
            for revision in routable(view.index.table)
            for endpoint, _ in endpoints_of(revision)
        )
        name = "fairlead_kill_switch"
        is_open: list[Sample] = [(asdict(one), float(one in whole)) for one in routed]
        text = "Whether every worker of the endpoint is switched off after too many failures."
        yield f"{name}_open", "gauge", text, is_open
        workers: list[Sample] = [
            (asdict(one.endpoint), float(len(one.workers))) for one in view.switches
        ]
        text = "Workers switched off after too many failures, of endpoints that have any."
        yield f"{name}_workers_off", "gauge", text, workers
        trips: list[Sample] = [
            (asdict(one), float(count)) for one, count in sorted(view.trips.items())
        ]
        text = "Times a worker was switched off after too many failures."
        yield f"{name}_trips", "counter", text, trips

    def _of_activator(self) -> Iterable[tuple[str, str, str, list[Sample]]]:
        """By endpoint, for those whose requests have been held."""
        prefix = "fairlead_gateway_activator"

        def each(count: Callable[[Held], float]) -> list[Sample]:
            return [(asdict(one), float(count(held))) for one, held in sorted(self._held.items())]

        text = "Requests that wait for a worker."
        yield f"{prefix}_waiting", "gauge", text, each(lambda held: len(held.waiting))
        text = "Requests that went on to a worker after they were held."
        yield f"{prefix}_requests", "counter", text, each(lambda held: held.forwarded)
        text = "How long these were held, all together."
        yield f"{prefix}_held_seconds", "counter", text, each(lambda held: held.held_seconds)
        text = "Requests refused while they were held: too many, too long, or nothing came up."
        yield f"{prefix}_refused", "counter", text, each(lambda held: held.refused)

    def _of_keys(self) -> Iterable[tuple[str, str, str, list[Sample]]]:
        """By key, for the keys that have been used; a second behind, and going on where a gateway before this one ended."""
        uses = sorted(self._view.uses.keys.items())
        requests: list[Sample] = [({"key": key}, float(use.requests)) for key, use in uses]
        yield (
            "fairlead_key_requests",
            "counter",
            "Requests that showed a key, by its name.",
            requests,
        )
        refused: list[Sample] = [
            ({"key": key, "status": str(status)}, float(count))
            for key, use in uses
            for status, count in sorted(use.refused.items())
        ]
        text = "Requests refused because of the key: 403 by scope or kill, 429 by quota."
        yield "fairlead_key_refused", "counter", text, refused

    async def _agent(self) -> list[str] | None:
        try:
            async with (
                timeout(_AGENT_SECONDS),
                unix_client(self._home.agent_socket, _AGENT_SECONDS) as client,
            ):
                answer = await client.get("/metrics", headers={"accept": CONTENT_TYPE})
                answer.raise_for_status()
        except (httpx.HTTPError, OSError, TimeoutError):
            return None
        return [line for line in answer.text.splitlines() if line and line != _EOF]


def _families(families: Iterable[tuple[str, str, str, list[Sample]]]) -> Iterable[str]:
    for family in families:
        yield from _family(*family)


def _family(name: str, kind: str, text: str, samples: list[Sample]) -> Iterable[str]:
    yield f"# HELP {name} {text}"
    yield f"# TYPE {name} {kind}"
    suffix = "_total" if kind == "counter" else ""
    for labels, value in samples:
        inside = ",".join(f'{key}="{label}"' for key, label in labels.items())
        yield (
            f"{name}{suffix}{{{inside}}} {_number(value)}"
            if inside
            else f"{name}{suffix} {_number(value)}"
        )


def _number(value: float) -> str:
    return str(int(value)) if value == int(value) else repr(value)
