"""Do runs that do not end keep everybody else from a model?

A run in a thread cannot be ended from outside. Code that hangs keeps its thread, and its slot, for good, while the
event loop answers whoever asks how this process is. So the agent, which can replace the process, asks for this too.
It is found from outside when somebody asks: a request pays nothing for it.
"""

from __future__ import annotations

from collections.abc import Sequence

from fairlead.api.cancellation import UnderWay, under_way
from fairlead.api.held import Held
from fairlead.server.endpoint import Endpoint


def abandoned() -> list[UnderWay]:
    """The runs of this process that go on though nobody waits for them."""
    return [one for one in under_way() if one.left_seconds]


def held(endpoints: Sequence[Endpoint], runs: Sequence[UnderWay]) -> Held | None:
    """What these endpoints of one artifact have to tell of such `runs`; None while there is a place for others."""
    if not endpoints:
        return None
    mine = [one for one in runs if one.thread.rpartition("-")[0] == endpoints[0].artifact.digest]
    most = max(map(_places, endpoints))
    if len(mine) < most:
        return None
    return Held(
        sorted((one.seconds for one in mine), reverse=True)[most - 1],
        sorted((one.left_seconds for one in mine), reverse=True)[most - 1],
    )


def _places(endpoint: Endpoint) -> int:
    """How many runs it can have at once."""
    if endpoint.batcher is not None:
        return endpoint.batcher.abreast
    limit = endpoint.artifact.threads.limit
    return min(limit, endpoint.admission.slots or limit)
