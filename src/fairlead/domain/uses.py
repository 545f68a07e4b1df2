"""Uses of keys: how often each was shown, how often refused, and when last. What the gateway keeps in a file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field

from fairlead.domain.manifest import check_schema
from fairlead.domain.reading import Node

SCHEMA = 1


@dataclass(frozen=True, slots=True)
class Use:
    """One key's: `requests` counts all, `refused` those answered with a status that is about the key (403, 429)."""

    last_used: float = 0.0
    requests: int = 0
    refused: Mapping[int, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Uses:
    """Every key's, and how far in which access log they were counted (`log` is empty before the first line)."""

    keys: Mapping[str, Use] = field(default_factory=dict)
    log: str = ""
    offset: int = 0


def uses_to_bytes(uses: Uses) -> bytes:
    """As the file holds them."""
    keys = {
        client: {
            "lastUsed": use.last_used,
            "requests": use.requests,
            "refused": {str(status): count for status, count in use.refused.items()},
        }
        for client, use in uses.keys.items()
    }
    log = {"first": uses.log, "offset": uses.offset}
    return json.dumps({"schema": SCHEMA, "log": log, "keys": keys}).encode()


def uses_from_bytes(data: bytes, source: str = "uses of keys") -> Uses:
    """Read them; raises InvalidInput or ValueError if they are damaged, FairleadError if a newer Fairlead wrote them."""
    document = json.loads(data)
    check_schema(document, SCHEMA, source)
    node = Node(document)
    node.mapping(None, ["log", "keys"])
    keys = {
        client: Use(
            child.child("lastUsed").number(),
            child.child("requests").integer(0),
            {
                int(status): count.integer(0)
                for status, count in child.child("refused").items()
                if status.isdecimal()
            },
        )
        for client, child in node.child("keys").items()
    }
    log = node.child("log")
    uses = Uses(keys, log.child("first").text(), log.child("offset").integer(0))
    node.done(source)
    return uses
