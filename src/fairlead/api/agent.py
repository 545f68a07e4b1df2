"""What others ask an agent on its socket, beside its metrics.

The gateway's activator holds the requests for an endpoint that is cold, and says so at once and then every second
while any of them waits: an agent that dies meanwhile has missed nothing.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass

from fairlead.domain.ids import EndpointId
from fairlead.domain.reading import Node, read_json

WAKE_PATH = "/internal/wake"  # POST `wakes_to_json`; 202, and again whenever it is asked again


@dataclass(frozen=True, slots=True)
class Wake:
    """So many requests wait for an endpoint; 0: none any more."""

    endpoint: EndpointId
    waiting: int


def wakes_to_json(wakes: Iterable[Wake]) -> bytes:
    """The body of a wake."""
    endpoints = [{**asdict(one.endpoint), "waiting": one.waiting} for one in wakes]
    return json.dumps({"endpoints": endpoints}).encode()


def wakes_from_json(body: bytes) -> list[Wake]:
    """Read one; raises InvalidInput."""
    node = Node(read_json(body, "wake", "write what wakes_to_json gives"))
    node.mapping(["endpoints"], ["endpoints"])
    found = [_wake(child) for child in node.child("endpoints").elements()]
    node.done("wake")
    return found


def _wake(node: Node) -> Wake:
    keys = ("service", "line", "revision", "endpoint")
    node.mapping([*keys, "waiting"], [*keys, "waiting"])
    identity = EndpointId(*(node.child(key).text() for key in keys))
    return Wake(identity, node.child("waiting").integer(0))
