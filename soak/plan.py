"""What a soak does to the catalog, decided before it begins: pure, the same for the same seed.

Two lines of one service take turns. Most revisions take all traffic at once, some come in by a split, some
are taken back. In between artifacts are published, new and again, the pin moves, a key gets a new secret,
a neighbour service is switched off and on, and now and then a worker is killed.
"""

import random
from dataclasses import dataclass
from typing import Literal

LINES = ("v1", "v2")
FIRST_ARTIFACTS = 3
_KEPT_ARTIFACTS = 6  # later revisions run one of the newest
_NEW_ARTIFACT_EVERY = 4
_AGAIN_EVERY = 16
_PIN_EVERY = 9
_ROTATE_EVERY = 14
_SWITCH_EVERY = 20
_KILL_EVERY = 25

Way = Literal["at once", "split", "taken back"]
Side = Literal["pin", "rotate", "switch", "again", "kill"]


@dataclass(frozen=True, slots=True)
class Step:
    """One revision: which line, which artifact, how it comes in, and what else happens after it."""

    number: int
    line: str
    artifact: int
    publishes: bool  # the artifact is new
    way: Way
    canary_percent: int
    sides: tuple[Side, ...]


def steps(revisions: int, seed: int, *, kills: bool = True) -> list[Step]:
    """Every step; revisions are numbered from 2, as the first of each line is there at the start."""
    choose = random.Random(seed)
    artifacts = list(range(1, FIRST_ARTIFACTS + 1))
    made = []
    for count in range(1, revisions + 1):
        publishes = count % _NEW_ARTIFACT_EVERY == 0
        if publishes:
            artifacts.append(artifacts[-1] + 1)
        artifact = artifacts[-1] if publishes else choose.choice(artifacts[-_KEPT_ARTIFACTS:])
        way: Way = choose.choices(("at once", "split", "taken back"), (7, 2, 1))[0]
        line = choose.choices(LINES, (2, 1))[0]
        percent = choose.randint(5, 50)
        step = Step(count + 1, line, artifact, publishes, way, percent, _sides(count, kills=kills))
        made.append(step)
    return made


def _sides(count: int, *, kills: bool) -> tuple[Side, ...]:
    every: list[tuple[Side, int]] = [
        ("pin", _PIN_EVERY),
        ("rotate", _ROTATE_EVERY),
        ("switch", _SWITCH_EVERY),
        ("again", _AGAIN_EVERY),
    ]
    if kills:
        every.append(("kill", _KILL_EVERY))
    return tuple(side for side, often in every if count % often == 0)
