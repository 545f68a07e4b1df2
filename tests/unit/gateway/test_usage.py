"""Uses of keys, counted from an access log that grows, is cut, is renamed and is damaged."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import pytest

from fairlead.domain.catalog import Catalog
from fairlead.domain.keys import EVERYTHING, KeyRecord
from fairlead.domain.layout import Home
from fairlead.domain.table import RoutingTable
from fairlead.domain.uses import Use, uses_from_bytes
from fairlead.gateway.index import index
from fairlead.gateway.state import View
from fairlead.gateway.usage import KeyUse
from fairlead.kits.clock import FakeClock

NOON = 1_800_014_400.0  # 2027-01-15T12:00:00Z


class Log:
    """A home with an access log."""

    def __init__(self, root: Path) -> None:
        self.home = Home(root, root / "s")
        self.path = root / "logs" / "access.jsonl"
        self.path.parent.mkdir()
        self.clock = FakeClock()
        self.ids = itertools.count()
        self.counting = self.again()

    def again(self) -> KeyUse:
        """A gateway that starts; both keys are in the catalog."""
        empty = index(RoutingTable())
        keys = {name: KeyRecord(name, (EVERYTHING,), 0.0, "") for name in ("a", "b")}
        self.view = View(empty, empty, Catalog(1, keys=keys))
        self.counting = KeyUse(self.home, self.view, self.clock)
        return self.counting

    def write(self, *lines: tuple[str | None, int], at: str = "12:00:00.000") -> None:
        with self.path.open("a") as file:
            for client, status in lines:
                fields = {"client": client, "details": "x", "request_id": str(next(self.ids))}
                fields |= {"status": status}
                fields |= {"time": f"2027-01-15T{at}Z", "upstream": "u"}
                file.write(json.dumps(fields, separators=(",", ":")) + "\n")

    def rotate(self) -> None:
        self.path.replace(self.path.with_name("access.jsonl.1"))

    def counts(self) -> dict[str, int]:
        self.counting.look()
        return {client: use.requests for client, use in self.view.uses.keys.items()}


@pytest.fixture
def log(tmp_path: Path) -> Log:
    return Log(tmp_path)


def test_lines_are_counted_once_with_their_refusals_and_the_last_time(log: Log) -> None:
    assert log.counts() == {}
    log.write(("a", 200), ("a", 429), (None, 200), ("a", 429), ("b", 403), ("a", 500))
    log.write(("a", 404), at="12:00:05.500")
    assert log.counts() == {"a": 5, "b": 1}
    assert log.counts() == {"a": 5, "b": 1}
    assert log.view.uses.keys["a"] == Use(NOON + 5.5, 5, {429: 2})
    assert log.view.uses.keys["b"] == Use(NOON, 1, {403: 1})


def test_half_a_line_waits_for_its_other_half(log: Log) -> None:
    log.write(("a", 200), ("b", 200))
    whole = log.path.read_bytes()
    log.path.write_bytes(whole[:-20])
    assert log.counts() == {"a": 1}
    with log.path.open("ab") as file:
        file.write(whole[-20:])
    assert log.counts() == {"a": 1, "b": 1}


def test_damage_is_passed_over(log: Log) -> None:
    log.write(("a", 200))
    with log.path.open("ab") as file:
        file.write(b"\0\xff" * 300_000 + b"\n{}\n\n" + b'{"client":"a","status":200,"time":"?"}\n')
    log.write(("a", 200))
    assert log.counts() == {"a": 3}


def test_through_a_rotation_every_line_counts_also_those_that_come_late(log: Log) -> None:
    log.write(("a", 200), ("a", 200))
    assert log.counts() == {"a": 2}
    log.write(("a", 200))
    log.rotate()
    assert log.counts() == {"a": 3}
    with log.path.with_name("access.jsonl.1").open("ab") as late:
        late.write(b'{"client":"b","status":200,"time":"2027-01-15T12:00:00.000Z"}\n')
    log.write(("a", 200))
    for _ in range(5):
        counts = log.counts()
    assert counts == {"a": 4, "b": 1}
    log.write(("b", 200))
    log.rotate()
    log.write(("b", 200))
    for _ in range(5):
        counts = log.counts()
    assert counts == {"a": 4, "b": 3}


def test_a_log_renamed_over_another_is_not_taken_for_it(log: Log) -> None:
    """As if the new log had got the old one's inode: it is shorter, and then longer, than what was counted."""
    log.write(*[("a", 200)] * 3)
    assert log.counts() == {"a": 3}
    for more in (1, 9):
        log.path.write_bytes(b"")
        log.write(*[("b", 200)] * more, at=f"12:00:0{more}.000")
        log.counts()
    assert log.counts() == {"a": 3, "b": 10}


def test_the_next_gateway_goes_on_where_the_counts_were_kept(log: Log) -> None:
    log.write(("a", 200))
    log.counting.look()
    log.counting.save()
    log.write(("a", 200), ("b", 200))
    log.counting.look()  # and is killed: this is not kept
    log.rotate()
    log.write(("b", 429))
    log.again()
    assert {client: use.requests for client, use in log.view.uses.keys.items()} == {"a": 1}
    for _ in range(5):
        counts = log.counts()
    assert counts == {"a": 2, "b": 2}
    assert log.view.uses.keys["b"].refused == {429: 1}


def test_a_log_from_before_anybody_counted_is_counted_whole(log: Log) -> None:
    log.write(("a", 200))
    log.rotate()
    log.write(("a", 200))
    for _ in range(5):
        counts = log.counts()
    assert counts == {"a": 2}


def test_only_keys_that_are_known_are_kept(log: Log) -> None:
    log.write(("a", 200), ("gone", 200))
    log.counting.look()
    log.counting.save()
    assert set(uses_from_bytes(log.home.key_uses.read_bytes()).keys) == {"a"}
    log.again()
    log.view.catalog = Catalog()  # the store is away, and was never seen
    log.write(("b", 200))
    log.counting.look()
    log.counting.save()
    assert set(uses_from_bytes(log.home.key_uses.read_bytes()).keys) == {"a", "b"}


@pytest.mark.parametrize(
    "data",
    [b"", b"[]", b'{"schema": 1}', b'{"schema": 99}', b'{"schema": 1, "log": 3, "keys": []}'],
)
def test_a_damaged_file_of_uses_is_begun_anew(log: Log, data: bytes) -> None:
    log.home.key_uses.parent.mkdir()
    log.home.key_uses.write_bytes(data)
    log.write(("a", 200))
    log.again()
    assert log.counts() == {"a": 1}
