"""The steps of a decision, for tests that ask for nothing else."""

from __future__ import annotations

from fairlead.agent.plan import decide
from fairlead.agent.settings import AgentSettings
from fairlead.agent.steps import Snapshot, Step


def next_steps(seen: Snapshot, settings: AgentSettings) -> list[Step]:
    return list(decide(seen, settings).steps)
