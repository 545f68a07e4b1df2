"""What the front desk tells of models: repository index, statistics, configuration (S1-G 35, 39, 42).

No worker knows more than its own revision, so these are put together here: of every line that the caller's key
may read, and from every worker that is ready. A model's configuration is asked of one of its workers; where there is none
on purpose, whoever asks is held until one comes up, as with any other request. Loading and unloading are nobody's here: what serves is
the catalog's to say, and a key of the data plane changes no catalog.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import httpx
from starlette.responses import Response

from fairlead.api.deadlines import no_answer
from fairlead.api.http_status import ERROR_CODE
from fairlead.dialects import oip_model
from fairlead.domain.errors import Kind
from fairlead.domain.ids import LATEST, EndpointId, RevisionId
from fairlead.domain.keys import KeyRecord, Verb
from fairlead.domain.paths import ModelPath, extension_of, parse_path
from fairlead.domain.routing import Refusal
from fairlead.domain.status import Replica, State
from fairlead.domain.table import RevisionRoute, ServiceRoute
from fairlead.domain.versions import natural_key
from fairlead.gateway.behind import endpoints_of, ready_for
from fairlead.gateway.called import Visit
from fairlead.gateway.front import Page, json_response
from fairlead.gateway.listener import CLIENT_HEADER, HELD_HEADER
from fairlead.gateway.settings import GatewaySettings
from fairlead.gateway.state import View
from fairlead.gateway.ways import held_value
from fairlead.kits.timeouts import timeout
from fairlead.kits.unixhttp import unix_client

# What of the protocol is here: all but loading and unloading.
EXTENSIONS = tuple(name for name in oip_model.EXTENSIONS if name != "model_repository")
_ASK_SECONDS = 2.0
_ASKED_AT_ONCE = 32
_COMING = {State.PULLING, State.STARTING, State.PROVING}
_TOLD_ON = ("x-served-version", "x-artifact-digest", ERROR_CODE)
_OK = 200


class ModelPages:
    """The pages of the protocol that are about models."""

    def __init__(self, settings: GatewaySettings, view: View, activator: Path) -> None:
        self._settings = settings
        self._view = view
        self._activator = activator  # its socket

    def pages(self) -> Mapping[str, Page]:
        """By the names of `domain.paths`."""
        return {
            "v2_index": self._index,
            "v2_stats": self._stats,
            "v2_control": self._control,
            "v2_extension": self._extension,
            "stats": self._stats,
            "config": self._config,
        }

    async def _index(self, visit: Visit) -> Response | Refusal:
        try:
            asked = json.loads(visit.body) if visit.body.strip() else {}
        except (ValueError, RecursionError):
            return Refusal(Kind.INVALID, "the body is not JSON; send {} or nothing")
        if not isinstance(asked, dict) or not isinstance(asked.get("ready", False), bool):
            return Refusal(Kind.INVALID, 'the body is wrong; send {"ready": true}, {} or nothing')
        entries: dict[tuple[str, int], dict[str, str]] = {}
        for service, one in self._visible(visit):
            found = self._entry(service, one)
            before = entries.get((service.name, one.artifact_version))
            if before is None or before["state"] != oip_model.READY:
                entries[service.name, one.artifact_version] = found
        ready = asked.get("ready", False)
        told = [
            entries[key]
            for key in sorted(entries)
            if not ready or entries[key]["state"] == oip_model.READY
        ]
        return json_response(told)

    def _entry(self, service: ServiceRoute, one: RevisionRoute) -> dict[str, str]:
        state, reason = oip_model.READY, ""
        if service.kill is not None:
            state, reason = oip_model.UNAVAILABLE, service.kill.message
        elif not one.routable:
            coming = one.reason.partition(";")[0] in _COMING
            state, reason = oip_model.LOADING if coming else oip_model.UNAVAILABLE, one.reason
        elif not self._view.behind.replicas.get(one.id) and not self._cold(one):
            state, reason = oip_model.UNAVAILABLE, "no worker of it is ready"
        return oip_model.index_entry(service.name, one.artifact_version, state, reason)

    def _cold(self, one: RevisionRoute) -> bool:
        """Does it come up when somebody asks?"""
        return any(endpoint in self._view.behind.cold for endpoint, _ in endpoints_of(one))

    async def _stats(self, visit: Visit) -> Response | Refusal:
        match = parse_path(visit.path, self._settings.api_version)
        ready = self._view.node.ready() if self._view.node is not None else {}
        asked = [
            (service.name, replica)
            for service, one in self._visible(visit)
            if not isinstance(match, ModelPath) or _meant(match, visit, one)
            for replica in self._workers(one, ready)
        ]
        limit = asyncio.Semaphore(_ASKED_AT_ONCE)

        async def of(service: str, replica: Replica) -> list[dict[str, Any]]:
            async with limit:
                answer = await _ask(replica, f"/v2/models/{service}/stats")
            if answer is None or answer.status_code != _OK:
                return []
            found: list[dict[str, Any]] = answer.json().get("model_stats", [])
            return found

        async with asyncio.TaskGroup() as group:
            parts = [group.create_task(of(service, replica)) for service, replica in asked]
        entries = [entry for part in parts for entry in part.result()]
        return json_response({"model_stats": oip_model.merged(entries)})

    def _workers(
        self, one: RevisionRoute, ready: Mapping[RevisionId, tuple[Replica, ...]]
    ) -> Iterable[Replica]:
        """Those that are routed, and those that have come up just now: who was held is answered by them already."""
        there = (*self._view.behind.replicas.get(one.id, ()), *ready_for(one, ready))
        return {replica.worker: replica for replica in there}.values()

    async def _config(self, visit: Visit) -> Response | Refusal:
        assert visit.forward is not None
        endpoint = visit.forward.endpoint
        revision = RevisionId(endpoint.service, endpoint.line, endpoint.revision)
        path = f"/v2/models/{endpoint.service}/config"
        for replica in self._view.behind.replicas.get(revision, ()):
            answer = await _ask(replica, path)
            if answer is not None and answer.status_code == _OK:
                return _passed_on(answer)
        if endpoint in self._view.behind.cold:
            return await self._held(endpoint, path)
        return Refusal(Kind.UNAVAILABLE, f"no worker of {revision} answers: try again")

    async def _held(self, endpoint: EndpointId, path: str) -> Response | Refusal:
        """Ask by the activator, as Envoy does for what is cold: it wakes a worker, and says why if none comes up."""
        seconds = self._settings.deadline_seconds
        try:
            async with timeout(seconds), unix_client(self._activator, seconds) as client:
                answer = await client.get(path, headers={HELD_HEADER: held_value(endpoint)})
        except (TimeoutError, httpx.TimeoutException):
            return Refusal(Kind.DEADLINE, no_answer(seconds))
        except (httpx.HTTPError, OSError):
            return Refusal(
                Kind.UNAVAILABLE, f"no worker of {endpoint.revision_id} answers: try again"
            )
        return _passed_on(answer)

    async def _control(self, visit: Visit) -> Response | Refusal:
        *_, name, action = visit.path.split("/")
        message = (
            f"failed to {action} {name!r:.80}: no key may load or unload; whoever runs this gateway does it "
            "with `fairlead apply`, `fairlead kill` and `fairlead revive`"
        )
        return Refusal(Kind.FORBIDDEN, message)

    async def _extension(self, visit: Visit) -> Response | Refusal:
        name = extension_of(visit.path)
        message = f"the extension {name} is not served here; extensions: {', '.join(EXTENSIONS)}"
        return Refusal(Kind.NOT_FOUND, message)

    def _visible(self, visit: Visit) -> Iterator[tuple[ServiceRoute, RevisionRoute]]:
        """Every live revision of the lines that the caller's key may read, in order."""
        table = self._view.index.table
        key: KeyRecord | None = table.keys.get(visit.headers.get(CLIENT_HEADER, ""))
        if key is None:
            return
        for name in sorted(table.services):
            service = table.services[name]
            mine = key.lines(name, Verb.READ, service.lines)
            for line in sorted(mine, key=natural_key):
                revisions = service.lines[line].revisions
                for tag in sorted(revisions, key=natural_key):
                    yield service, revisions[tag]


def _passed_on(answer: httpx.Response) -> Response:
    """A worker's answer, or the activator's refusal in its place."""
    own = {name: answer.headers[name] for name in _TOLD_ON if name in answer.headers}
    return Response(answer.content, answer.status_code, own, "application/json")


def _meant(match: ModelPath, visit: Visit, one: RevisionRoute) -> bool:
    """Does the path, with the version that is asked for, mean this revision too?"""
    version = visit.headers.get("accept-version", LATEST)
    return (
        one.id.service == match.service
        and match.artifact_version in (None, str(one.artifact_version))
        and version in (LATEST, one.id.line, one.id.served_version)
    )


async def _ask(replica: Replica, path: str) -> httpx.Response | None:
    """A worker's answer; None if it gives none in time."""
    try:
        async with (
            timeout(_ASK_SECONDS),
            unix_client(replica.socket, _ASK_SECONDS) as client,
        ):
            return await client.get(path)
    except (httpx.HTTPError, OSError, TimeoutError):
        return None
