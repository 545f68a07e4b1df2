"""`fairlead keys` on a home where nothing runs: what it prints, what it refuses."""

from __future__ import annotations

import json
import os
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result

from fairlead.cli import keys as commands
from fairlead.cli.keys import _ago
from fairlead.cli.main import cli
from fairlead.domain.errors import FairleadError, Kind
from fairlead.domain.keys import EVERYTHING, Quota, Rate
from fairlead.domain.uses import Use, Uses, uses_to_bytes
from fairlead.kits import processes
from fairlead.wiring.homes import open_home


class Desk:
    def __init__(self, home: Path) -> None:
        self.home = home

    def run(self, *arguments: str) -> Result:
        command = ["keys", *arguments, "--home", str(self.home)]
        return CliRunner().invoke(cli, command, standalone_mode=False)

    def keys(self) -> list[dict[str, object]]:
        return list(json.loads(self.run("ls", "--json").stdout))


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    desk = Desk(tmp_path / "home")
    assert desk.run("create", "app", "--rate", "6/min", "--burst", "9").return_value == 0
    return desk


def test_a_secret_is_printed_once_and_alone(desk: Desk) -> None:
    made = desk.run("create", "other", "--service", "*:read", "--allow", "*:infer")
    secret = made.stdout.strip()
    assert len(secret) >= 43
    assert "nothing runs here" in made.stderr
    assert secret not in desk.run("ls").output + desk.run("ls", "--json").output
    assert desk.keys()[1]["allow"] == ["*:read", "*:infer"]


def test_the_listing_says_what_there_is_to_know(desk: Desk) -> None:
    desk.run("rotate", "app", "--overlap", "24h")
    desk.run("kill", "app", "--message", "call us")
    use = Use(1_000_000.0, 7, {429: 2})
    (desk.home / "gateway" / "key-uses.json").write_bytes(uses_to_bytes(Uses({"app": use})))
    (row,) = desk.keys()
    assert (row["rate"], row["concurrency"]) == ("6/min (burst 9)", None)
    assert (row["killed"], row["requests"], row["refused"]) == ("call us", 7, {"429": 2})
    assert len(row["old"]) == 1  # type: ignore[arg-type]
    text = desk.run("ls").stdout
    head, line = text.splitlines()
    assert head.split()[:4] == ["NAME", "ALLOW", "QUOTA", "STATE"]
    for told in ("app", "6/min (burst 9)", "killed: call us", "until 20", "days ago", " 7 "):
        assert told in line
    desk.run("revive", "app")
    desk.run("rotate", "app")
    assert "works" in desk.run("ls").stdout
    assert desk.keys()[0]["old"] == []


def test_limits_change_one_at_a_time(desk: Desk) -> None:
    def quota() -> Quota:
        return open_home(desk.home).catalogs.read().key("app").quota

    desk.run("limit", "app", "--concurrency", "4")
    assert quota() == Quota(Rate(6, 60, 9), 4)
    desk.run("limit", "app", "--burst", "2")
    assert quota() == Quota(Rate(6, 60, 2), 4)
    assert desk.run("limit", "app", "--rate", "100/s").stdout == "app: 100/s, 4 at once\n"
    desk.run("limit", "app", "--rate", "none", "--concurrency", "none")
    assert quota() == Quota()


def test_other_scopes_are_told(desk: Desk) -> None:
    assert desk.run("allow", "app", "*:read").stdout == "app may ask *:read\n"
    assert desk.run("allow", "app", "*").return_value == 0
    assert open_home(desk.home).catalogs.read().key("app").allow == (EVERYTHING,)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("create", "x", "--allow", "*/v1"), "lines belong to one service"),
        (("create", "x", "--service", "a:eat"), "write infer or read"),
        (("create", "x", "--rate", "fast"), "write a whole number and a unit: 100/s"),
        (("create", "x", "--burst", "3"), "--burst needs a --rate"),
        (("create", "x", "--concurrency", "0"), "0 is not in the range"),
        (("allow", "app", "A"), "is no scope: write SERVICE"),
        (("rotate", "app", "--overlap", "soon"), "write a number and a unit: 30m, 24h, 7d"),
        (("limit", "app"), "give --rate, --burst or --concurrency"),
        (("limit", "app", "--concurrency", "many"), "write a whole number from 1 up, or none"),
        (("limit", "app", "--rate", "none", "--burst", "3"), "--burst needs a --rate"),
        (("kill", "app"), "Missing option '--message'"),
    ],
)
def test_a_wrong_option_is_told_and_changes_nothing(
    desk: Desk, arguments: tuple[str, ...], told: str
) -> None:
    before = desk.keys()
    failed = desk.run(*arguments)
    assert isinstance(failed.exception, click.UsageError)
    assert told in failed.exception.format_message()
    assert desk.keys() == before


@pytest.mark.parametrize(
    ("seconds", "told"),
    [
        (0, "now"),
        (59, "now"),
        (60, "1 min ago"),
        (3599, "59 min ago"),
        (3600, "1 h ago"),
        (172_799, "47 h ago"),
        (172_800, "2 days ago"),
        (-5, "now"),
    ],
)
def test_a_last_use_is_told_to_the_minute(seconds: int, told: str) -> None:
    assert _ago(Use(1000.0), 1000.0 + seconds) == told
    assert _ago(Use(), 1000.0) == "never"


@pytest.mark.parametrize(
    "arguments",
    [
        ("create", "other"),
        ("rotate", "app"),
        ("allow", "app", "*:read"),
        ("limit", "app", "--concurrency", "4"),
        ("kill", "app", "--message", "call us"),
        ("revive", "app"),
        ("revoke", "app"),
    ],
)
def test_a_change_that_does_not_get_live_fails_as_it_does_for_every_command(
    desk: Desk, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...]
) -> None:
    """Something runs here, and its gateway says nothing: whoever revokes a key must not take it for gone."""
    monkeypatch.setattr(commands, "_LIVE_SECONDS", 0.0)
    me = processes.identify(os.getpid())
    assert me is not None
    (desk.home / "up.json").write_text(json.dumps(processes.to_record(me)))
    done = desk.run(*arguments)
    assert isinstance(done.exception, FairleadError)
    assert done.exception.kind is Kind.DEADLINE
    assert "not live: the gateway does not run" in done.stderr
    # A secret that was made is told all the same; that anything is done is not.
    assert bool(done.stdout) == (arguments[0] in {"create", "rotate"})
