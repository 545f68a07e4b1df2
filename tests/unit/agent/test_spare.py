"""When a process waits ready for the next start, and when nothing is left."""

from __future__ import annotations

from collections import Counter

from fairlead.adapters.memory.workers import MemoryLauncher
from fairlead.agent.spare import Spare
from fairlead.domain.ids import RevisionId
from fairlead.domain.scale_units import ScaleUnit
from fairlead.domain.status import State

ONE, OTHER = (ScaleUnit(RevisionId("speech", "v1", tag), "") for tag in "12")
REST: Counter[State] = Counter()


def test_it_waits_for_a_while_after_what_is_cold_has_changed() -> None:
    launcher = MemoryLauncher()
    spare = Spare(60.0, launcher, None)

    def kept(cold: set[ScaleUnit], now: float, states: Counter[State] = REST) -> bool:
        spare.keep(cold, states, now)
        return launcher.spare

    assert not kept(set(), 0.0)
    assert kept({ONE}, 100.0)
    assert kept({ONE}, 159.9)
    assert not kept({ONE}, 160.0), "nobody has asked: everything goes"
    assert kept({ONE, OTHER}, 500.0)
    assert kept({ONE}, 550.0), "somebody has asked, others may follow"
    assert not kept({ONE}, 610.0)
    assert not kept({ONE, OTHER}, 700.0, Counter({State.STARTING: 1})), "a start goes first"
    assert kept({ONE, OTHER}, 701.0)
    assert kept({ONE, OTHER}, 702.0, Counter({State.PROVING: 1})), "one that is there stays"
    assert not kept(set(), 703.0)
    assert kept({ONE}, 800.0)
    spare.end()
    assert not launcher.spare


def test_without_time_there_is_never_one() -> None:
    launcher = MemoryLauncher()
    spare = Spare(0.0, launcher, None)
    spare.keep({ONE}, REST, 5.0)
    assert not launcher.spare
