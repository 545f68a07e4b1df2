"""Resource maps of an endpoint, as Kubernetes writes them: quantities by name, under `requests` and `limits`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from fairlead.domain.reading import Node, shown

_RESOURCE = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9_./-]{0,251})")
_QUANTITY = re.compile(r"[0-9.]{1,24}[A-Za-z]{0,2}[0-9+-]{0,4}")
_QUANTITY_RULE = "write a quantity: 2, 0.5, 500m, 1Gi"
MAX_QUANTITY = 2**63  # Kubernetes's own bound


def read_resources(node: Node) -> Mapping[str, Any]:
    """Read a resource map; problems are noted on the node."""
    if not node.mapping(["requests", "limits"]):
        return {}
    for child in (node.child(key) for key in node.value):
        if not child.mapping():
            continue
        for name, quantity in child.items():
            if not _RESOURCE.fullmatch(name):
                quantity.wrong("is no resource's name", "write one as cpu, memory, nvidia.com/gpu")
            elif isinstance(quantity.value, str):
                quantity.text(_QUANTITY, _QUANTITY_RULE)
            elif quantity.number() > MAX_QUANTITY:
                quantity.wrong(f"is {shown(quantity.value)}", _QUANTITY_RULE)
    value: Mapping[str, Any] = node.value
    return value
