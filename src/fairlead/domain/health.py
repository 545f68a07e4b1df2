"""Is everything there that should be?"""

from __future__ import annotations

from fairlead.domain.catalog import Catalog
from fairlead.domain.status import NodeStatus


def health_problems(catalog: Catalog, node: NodeStatus) -> list[str]:
    """Everything that should serve and does not. A service killed by hand, or one that is cold, is no problem."""
    up, reasons = node.up(catalog), node.reasons()
    return [
        f"{revision_id} is not ready ({reasons.get(revision_id, 'not started')})"
        for revision_id in sorted(catalog.live())
        if revision_id not in up and catalog.services[revision_id.service].kill is None
    ]
