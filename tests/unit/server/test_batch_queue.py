"""Which requests the next batch is made of: rules that hold whatever comes, and a table of cases."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given, strategies as st

from fairlead.domain.batching import Batching
from fairlead.server.batch_queue import PATIENCE, BatchQueue, Waiting
from support.effort import effort

FOREVER = 1e9


def waiting(
    rows: int = 1, key: str = "a", level: int = 1, until: float = FOREVER, arrived: float = 0.0
) -> Waiting:
    return Waiting(key, rows, level, until, arrived)


def queue(most: int = 8, **said: Any) -> BatchQueue[Waiting]:
    return BatchQueue(Batching(**said), most)


@dataclass
class Case:
    """What waits (rows, or a request), how old it is, and what is taken."""

    what: str
    waits: list[Waiting]
    taken: list[int]  # places in `waits`
    said: dict[str, Any] = field(default_factory=dict)
    now: float = 0.0
    again: float | None = None


CASES = [
    Case("nothing waits", [], []),
    Case("one alone is not kept waiting", [waiting()], [0]),
    Case("all that waits is taken", [waiting(), waiting(2), waiting()], [0, 1, 2]),
    Case("no more rows than fit", [waiting(3), waiting(3), waiting(3)], [0, 1]),
    Case("nobody overtakes one that does not fit", [waiting(6), waiting(3), waiting(1)], [0]),
    Case("one that is too large for any batch is alone", [waiting(9), waiting(1)], [0]),
    Case("and does not join others", [waiting(1), waiting(9), waiting(1)], [0]),
    Case("other shapes stay", [waiting(), waiting(key="b"), waiting()], [0, 2]),
    Case("a higher level is first", [waiting(5, level=2), waiting(5, level=1)], [1]),
    Case("lower levels fill it up", [waiting(2, level=2), waiting(2, level=1)], [1, 0]),
    Case("who is late is dropped", [waiting(until=1.0), waiting()], [1], now=1.0),
    Case("also behind others", [waiting(), waiting(until=1.0), waiting()], [0, 2], now=2.0),
    Case(
        "with a delay, a batch that is not full waits for it",
        [waiting(arrived=10.0), waiting(arrived=10.4)],
        [],
        {"max_queue_delay_microseconds": 500_000},
        10.4,
        10.5,
    ),
    Case(
        "until the first has waited long enough",
        [waiting(arrived=10.0), waiting(arrived=10.4)],
        [0, 1],
        {"max_queue_delay_microseconds": 500_000},
        10.5,
    ),
    Case(
        "a full one does not wait",
        [waiting(4, arrived=10.0), waiting(4, arrived=10.0)],
        [0, 1],
        {"max_queue_delay_microseconds": 500_000},
        10.0,
    ),
    Case(
        "nor one that the next would overfill",
        [waiting(6, arrived=10.0), waiting(4, arrived=10.0)],
        [0],
        {"max_queue_delay_microseconds": 500_000},
        10.0,
    ),
    Case(
        "another shape that is full need not wait with it",
        [waiting(arrived=10.0), waiting(8, key="b", arrived=10.0)],
        [1],
        {"max_queue_delay_microseconds": 500_000},
        10.0,
    ),
    Case(
        "the largest preferred size that is there",
        [waiting() for _ in range(7)],
        [0, 1, 2, 3],
        {"preferred_batch_sizes": (2, 4)},
    ),
    Case(
        "preferred sizes do not wait for the delay",
        [waiting(arrived=10.0) for _ in range(3)],
        [0, 1],
        {"preferred_batch_sizes": (2,), "max_queue_delay_microseconds": 500_000},
        10.0,
    ),
    Case(
        "all of them if no preferred size is there",
        [waiting() for _ in range(3)],
        [0, 1, 2],
        {"preferred_batch_sizes": (4,)},
    ),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.what)
def test_the_next_batch(case: Case) -> None:
    one = queue(**{"priority_levels": 2, **case.said})
    for each in case.waits:
        one.add(each)
    taken = one.take(case.now)
    assert [case.waits.index(each) for each in taken.batch] == case.taken
    assert taken.again == case.again
    late = [each for each in case.waits if each.until <= case.now]
    assert taken.expired == late
    assert len(one) == len(case.waits) - len(case.taken) - len(late)


def test_who_leaves_is_not_taken_and_who_is_not_there_cannot_leave() -> None:
    one = queue()
    first, second = waiting(), waiting()
    one.add(first)
    one.add(second)
    assert one.remove(first)
    assert not one.remove(first)
    assert one.take(0).batch == [second]
    assert not one.remove(second)
    assert len(one) == 0


def test_who_is_delayed_comes_after_all_others() -> None:
    one = queue(most=1)
    first, second = waiting(), waiting()
    one.add(first)
    one.add(second)
    one.demote(first)
    assert [one.take(0).batch, one.take(0).batch] == [[second], [first]]
    one.demote(first)  # it has gone: nothing happens
    assert len(one) == 0


def test_a_low_level_is_taken_in_the_end_however_many_of_a_high_one_come() -> None:
    one = queue(most=1, priority_levels=2)
    patient = waiting(level=2)
    one.add(patient)
    for number in range(PATIENCE):
        one.add(waiting(level=1))
        assert one.take(0).batch != [patient], number
    one.add(waiting(level=1))
    assert one.take(0).batch == [patient]


arrivals = st.builds(
    waiting,
    rows=st.integers(1, 12),
    key=st.sampled_from("abc"),
    level=st.integers(1, 3),
    until=st.one_of(st.just(FOREVER), st.integers(0, 60).map(float)),
)
steps = st.lists(
    st.one_of(
        st.tuples(st.just("add"), arrivals),
        st.tuples(st.just("take"), st.none()),
        st.tuples(st.just("leave"), st.integers(0, 200)),
        st.tuples(st.just("delay"), st.integers(0, 200)),
    ),
    max_size=60,
)
sizes = st.lists(st.integers(1, 8), unique=True).map(lambda found: tuple(sorted(found)))


@effort(150)
@given(steps, sizes, st.sampled_from([0, 3_000_000]))
def test_whatever_comes_nobody_is_lost_or_taken_twice_and_no_batch_is_wrong(
    moves: list[tuple[str, Any]], preferred: tuple[int, ...], delay: int
) -> None:
    one = queue(
        priority_levels=3,
        preferred_batch_sizes=preferred or None,
        max_queue_delay_microseconds=delay,
    )
    came: list[Waiting] = []
    here: list[Waiting] = []
    delayed: set[int] = set()
    now = 0.0
    for move, what in moves:
        now += 1.0
        if move == "add":
            what.arrived = now
            came.append(what)
            here.append(what)
            one.add(what)
        elif move in ("leave", "delay") and came:
            someone = came[what % len(came)]
            if move == "delay":
                one.demote(someone)
                delayed.add(id(someone))
            else:
                assert one.remove(someone) == (someone in here)
                here = [other for other in here if other is not someone]
        elif move == "take":
            here = _take(one, here, now, delayed)
        assert len(one) == len(here)
    for number in range(
        len(here) + 1
    ):  # nobody starves: each take takes somebody once the delay is over
        if not here:
            break
        here = _take(one, here, now + 100.0 + number, delayed)
    assert len(one) == 0
    assert here == []


def _take(
    one: BatchQueue[Waiting], here: list[Waiting], now: float, delayed: set[int]
) -> list[Waiting]:
    taken = one.take(now)
    gone = [*taken.batch, *taken.expired]
    assert len({id(each) for each in gone}) == len(gone)
    assert all(each in here for each in gone)
    assert all(each.until <= now for each in taken.expired)
    assert all(each.until > now for each in taken.batch)
    assert len({each.key for each in taken.batch}) <= 1
    if len(taken.batch) > 1:
        assert sum(each.rows for each in taken.batch) <= one.most
    left = [each for each in here if each not in gone]
    # First come, first served: of the same shape and level, nobody older stays behind.
    for each in taken.batch:
        older = [
            other
            for other in left
            if other.key == each.key
            and other.level == each.level
            and other.number < each.number
            and other.until > now
            and not {id(other), id(each)} & delayed
        ]
        assert older == []
    if not taken.batch and left:
        assert taken.again is not None
    return left


def test_a_share_leaves_the_rest_to_others() -> None:
    many = queue()
    waits = [waiting() for _ in range(5)]
    for one in waits:
        many.add(one)
    assert many.take(0.0, share=3).batch == waits[:3]
    assert many.take(0.0, share=3).batch == waits[3:]
