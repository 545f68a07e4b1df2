"""Do runs that do not end keep everybody else from a model?

A run in a thread cannot be ended from outside. Code that hangs keeps its thread, and its slot, for good, while the
event loop answers whoever asks how this process is. So the agent, which can replace the process, asks for this too.
It is found from outside when somebody asks: a request pays nothing for it.
"""

from __future__ import annotations

from collections.abc import Sequence

from fairlead.api.cancellation import UnderWay
from fairlead.api.held import Held
from fairlead.server.endpoint import Endpoint


def held(endpoints: Sequence[Endpoint], runs: Sequence[UnderWay]) -> Held | None:
    """What these endpoints of one artifact have to tell of `runs`, the process's; None while one has a place for others."""
    if not endpoints:
        return None
    digest = endpoints[0].artifact.digest
    mine = [one for one in runs if one.thread.rpartition("-")[0] == digest]
    left = [one for one in mine if one.left_seconds]
    if not left or not all(_blocked(one, len(left), len(mine)) for one in endpoints):
        return None
    last = min(len(left), max(map(_places, endpoints))) - 1
    return Held(
        sorted((one.seconds for one in left), reverse=True)[last],
        sorted((one.left_seconds for one in left), reverse=True)[last],
    )


def _blocked(endpoint: Endpoint, left: int, under_way: int) -> bool:
    """Can nobody else be answered? `left` of the runs `under_way` are waited for by nobody."""
    if left >= _places(endpoint):
        return True
    admission = endpoint.admission
    # A run keeps the slots of all who shared it.
    return bool(admission.slots) and admission.taken >= admission.slots and left == under_way


def _places(endpoint: Endpoint) -> int:
    """How many runs it can have at once."""
    threaded = endpoint.threaded
    return threaded.abreast if threaded is not None else endpoint.artifact.threads.limit
