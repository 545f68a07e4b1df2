"""The benchmarks themselves: a server that cannot be measured is said to be absent, and the others go on."""

from __future__ import annotations

import shutil
import sys
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
from bench import models, rounds, theirs
from bench.figures import Results
from bench.subject import Contender, Place, Plan
from bench.suites import Group

needs_wrk = pytest.mark.skipif(shutil.which("wrk") is None, reason="wrk is not installed")
SETTINGS = rounds.Settings(seconds=1.0, turns=2, other_turns=1, warm_seconds=0.1, rounds=2)


def dead(_: Place) -> Plan:
    return Plan([sys.executable, "-c", "print('no such model'); raise SystemExit(3)"])


@needs_wrk
@pytest.mark.enable_socket
@pytest.mark.timeout(120)
@pytest.mark.slow
def test_a_server_that_does_not_start_is_absent_with_its_reason_and_the_others_are_measured(
    tmp_path: Path,
) -> None:
    broken = Contender("broken", "broken", dead, theirs.BARE.dialect)
    missing = Contender("missing", "missing", dead, theirs.BARE.dialect, needs="nobody")
    group = Group(
        models.one_mebibyte, "wrk", (broken, missing, theirs.BARE), (2,), (2,), watches_memory=True
    )
    found, told = Results({}), list[str]()
    others = set(psutil.Process().children(recursive=True))  # other tests'
    rounds.measure([group], SETTINGS, tmp_path, found, told.append)
    assert [one.what for one in found.absents] == ["broken", "missing"], "asked for only once"
    assert found.reason(["broken"]).splitlines()[0].endswith("no such model")
    assert "nobody is not set up" in found.reason(["missing"])
    assert [one.contender for one in found.measurements] == [theirs.BARE.name] * 4
    assert all(one.requests_per_second > 0 and not one.bad for one in found.measurements)
    assert all(one.cpu_us > 0 and one.body_mib == 1.0 for one in found.measurements)
    assert all(one.peak_mib > 0 for one in found.measurements), (
        "what it kept from before counts too"
    )
    assert set(psutil.Process().children(recursive=True)) <= others


class StartsOnce:
    """A server that starts a first time, and then no more."""

    def __init__(self) -> None:
        self.starts = 0

    def __call__(self, place: Place) -> Plan:
        self.starts += 1
        return theirs.BARE.plan(place) if self.starts == 1 else dead(place)


@needs_wrk
@pytest.mark.enable_socket
@pytest.mark.timeout(120)
@pytest.mark.slow
def test_servers_are_started_alone_and_then_asked_in_turn_and_what_fails_on_the_way_keeps_its_figures(
    tmp_path: Path,
) -> None:
    other = replace(theirs.BARE, name="another", short="another")
    once = replace(theirs.BARE, name="once", short="once", plan=StartsOnce())
    group = Group(models.one_mebibyte, "wrk", (theirs.BARE, once, other), (1, 2), (2,))
    found, told = Results({}), list[str]()
    settings = replace(SETTINGS, rounds=1)
    rounds.measure([group], settings, tmp_path, found, told.append)
    assert [one.contender for one in found.starts] == [theirs.BARE.name, "once", "another"]
    assert [one.what for one in found.absents] == ["once"]
    there_and_back = [theirs.BARE.name, "another", "another", theirs.BARE.name]
    assert [one.contender for one in found.measurements] == there_and_back[:2] + there_and_back
    asked = [(one.connections, one.turn) for one in found.measurements]
    assert asked == [(1, 1), (1, 1), (2, 1), (2, 1), (2, 2), (2, 2)]
    assert all(one.waiting < one.cpu_us * one.requests_per_second for one in found.measurements)
    pair = (theirs.BARE.name, "another")
    assert len(found.ratios("tensors-1", "wrk", pair, 2, "requests_per_second")) == 2
