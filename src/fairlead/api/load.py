"""How much a worker's endpoints are asked, as it tells its agent: scaling and the memory budget go by it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from fairlead.domain.ids import EndpointId

LOAD_PATH = "/internal/load"  # GET: `loads_to_json` of everybody in the process, at any socket


@dataclass(frozen=True, slots=True)
class Load:
    """How much is asked of an endpoint; the first two since it was loaded.

    `concurrency_seconds` is the integral over time of the requests in slots and in the queue, `idle_seconds` how long
    nobody has been there, 0 while somebody is.
    """

    concurrency_seconds: float
    requests: int
    in_flight: int
    queued: int
    idle_seconds: float


def loads_to_json(loads: Mapping[EndpointId, Load]) -> bytes:
    """A worker's answer."""
    endpoints = [{**asdict(name), **asdict(load)} for name, load in loads.items()]
    return json.dumps({"endpoints": endpoints}).encode()


def loads_from_json(body: bytes) -> dict[EndpointId, Load]:
    """Read one, whatever else it tells; raises ValueError for what is none."""
    try:
        return dict(map(_load, json.loads(body)["endpoints"]))
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"is no load ({error!r})") from None


def _load(document: Mapping[str, Any]) -> tuple[EndpointId, Load]:
    names = (str(document[key]) for key in ("service", "line", "revision", "endpoint"))
    return EndpointId(*names), Load(
        float(document["concurrency_seconds"]),
        int(document["requests"]),
        int(document["in_flight"]),
        int(document["queued"]),
        float(document["idle_seconds"]),
    )
