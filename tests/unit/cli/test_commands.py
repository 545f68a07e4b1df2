"""Commands that need nothing running, as transcripts."""

from __future__ import annotations

import io
import json
import shutil
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result

from fairlead.cli.common import table, text_of
from fairlead.cli.main import COMMANDS, cli
from fairlead.cli.requests import OrRequest
from fairlead.cli.traffic import _shares
from fairlead.domain.errors import InvalidInput, Refused
from fairlead.domain.release import TrafficShare
from fairlead.wiring.homes import open_home


def run(*arguments: str) -> Result:
    return CliRunner().invoke(cli, list(arguments), standalone_mode=False)


@pytest.mark.parametrize("name", list(COMMANDS))
def test_every_command_explains_itself(name: str) -> None:
    result = CliRunner().invoke(cli, [name, "--help"])
    assert result.exit_code == 0
    assert len(result.output.splitlines()) > 3


def test_validate_tells_every_mistake_of_every_file(tmp_path: Path) -> None:
    right, wrong = tmp_path / "right.yaml", tmp_path / "wrong.json"
    right.write_text('service: s\nmodel: v1\nversion: "1"\nartifact: s/1\n')
    wrong.write_text(json.dumps({"model": "v1", "version": 1, "artifact": "s/1", "trafic": []}))
    result = run("validate", str(right), str(wrong))
    assert result.return_value == 1
    assert f"{right}: right (s/v1.1)" in result.output
    assert f"{wrong}: trafic: unknown key; did you mean 'traffic'?" in result.output
    assert run("validate", str(right)).return_value == 0


def test_docs_release_prints_page_and_schema() -> None:
    assert run("docs", "release").output.startswith("# The release file")
    schema = json.loads(run("docs", "release", "--schema").output)
    assert schema["required"] == ["model", "version"]
    assert "FAIRLEAD_PORT" in run("docs", "environment").output


def test_an_argument_may_name_a_file_or_standard_input(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "text"
    file.write_text("grüß dich", encoding="utf-8")
    monkeypatch.setattr("sys.stdin", io.StringIO("from a pipe"))
    texts = [text_of(argument) for argument in ("plain @ text", f"@{file}", "-")]
    assert texts == ["plain @ text", "grüß dich", "from a pipe"]
    with pytest.raises(click.UsageError, match="no-file cannot be read: No such file"):
        text_of(f"@{tmp_path / 'no-file'}")
    file.write_bytes(b"\xff")
    with pytest.raises(click.UsageError, match="text cannot be read: it is not UTF-8"):
        text_of(f"@{file}")


@pytest.mark.parametrize(
    ("texts", "told"),
    [
        (("1=90",), "percents sum to 90"),
        (("1=50", "1=50"), "names the tag '1' 2 times"),
        (("1",), "'1' is no share; write REVISION=PERCENT: 2=10"),
        (("1=1000",), "is no share"),
    ],
)
def test_a_wrong_split_is_told(texts: tuple[str, ...], told: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        _shares(texts)
    assert told in str(caught.value)


def test_a_split_is_read_with_and_without_the_sign() -> None:
    assert _shares(("1=90", "2=10%")) == (TrafficShare("1", 90), TrafficShare("2", 10))


def test_a_table_is_as_wide_as_its_content() -> None:
    assert table(("A", "B"), [("long", "x"), ("s", "y")]) == "A     B\nlong  x\ns     y"


class TestRollouts:
    @pytest.fixture
    def home(self, tmp_path: Path) -> str:
        open_home(tmp_path / "home", create=True)
        return str(tmp_path / "home")

    def test_there_is_one_file_or_one_rollout_to_name(self, home: str) -> None:
        for wrong in ((), ("a.yaml", "--resume", "x"), ("--resume", "x", "--abort", "x")):
            with pytest.raises(click.UsageError, match="name one release file"):
                raise run("rollout", "--home", home, *wrong).exception or AssertionError

    @pytest.mark.parametrize(
        ("options", "told"),
        [
            (("--steps", "1,x"), "steps: are '1,x'; write rising percents"),
            (("--steps", "1,50"), "steps: are 1,50; write two or more rising percents"),
            (("--step-seconds", "700"), "step-seconds: is 700, the timeout 600"),
            (("--min-requests", "0"), "min-requests: is 0; write a number above 0"),
        ],
    )
    def test_a_policy_that_cannot_be_is_told(
        self, home: str, options: tuple[str, ...], told: str
    ) -> None:
        assert told in str(run("rollout", "a.yaml", "--home", home, *options).exception)

    def test_without_any_rollout_that_is_said(self, home: str) -> None:
        assert run("rollouts", "--home", home).output == "none yet\n"
        assert json.loads(run("rollouts", "--json", "--home", home).output) == []
        assert "no rollout yet" in str(run("why", "rollout", "--home", home).exception)
        for option in ("--resume", "--abort"):
            found = str(run("rollout", option, "x", "--home", home).exception)
            assert found == "there is no rollout 'x'; see `fairlead rollouts`"

    def test_where_nothing_runs_there_is_nothing_to_judge_by(
        self, home: str, tmp_path: Path
    ) -> None:
        file = tmp_path / "release.yaml"
        file.write_text('service: s\nmodel: v1\nversion: "2"\nartifact: s/1\n')
        found = str(run("rollout", str(file), "--home", home).exception)
        assert "nothing runs in" in found
        assert "so there is no traffic to judge by" in found


class TestWhy:
    def test_a_request_is_found_in_the_older_logs_too(self, tmp_path: Path) -> None:
        home = a_home_with_logs(tmp_path, {"": ["new"], ".1": ["old"], ".2": ["oldest", "twice"]})
        for one in ("new", "old", "oldest"):
            found = run("why", one, "--home", str(home))
            assert f"request {one}" in found.output
        early = run("why", "--home", str(home), "--json", "old")
        assert json.loads(early.output)["requestId"] == "old"

    def test_without_a_store_the_log_alone_explains(self, tmp_path: Path) -> None:
        home = a_home_with_logs(tmp_path, {"": ["lone"]})
        for _ in range(2):
            found = run("why", "lone", "--home", str(home))
            assert "request lone" in found.output
            assert "that time's catalog is not there" in found.output
            shutil.rmtree(home / "store", ignore_errors=True)

    def test_a_command_of_the_groups_own_comes_before_an_id(self, tmp_path: Path) -> None:
        group = OrRequest("why")
        group.command("rollout")(lambda: click.echo("a rollout"))
        assert CliRunner().invoke(group, ["rollout"]).output == "a rollout\n"
        home = a_home_with_logs(tmp_path, {"": ["rollouts"]})
        found = CliRunner().invoke(group, ["rollouts", "--home", str(home)])
        assert "request rollouts" in found.output
        assert "Commands" in CliRunner().invoke(group, ["--help"]).output

    def test_an_unknown_request_is_told_how_far_back_the_log_reaches(self, tmp_path: Path) -> None:
        home = a_home_with_logs(tmp_path, {"": ["new"], ".1": ["old"]})
        with pytest.raises(
            Refused, match=r"no request 'x' in the access log, .* 2026-01-01.* 2 fi"
        ):
            CliRunner().invoke(
                cli,
                ["why", "x", "--home", str(home)],
                standalone_mode=False,
                catch_exceptions=False,
            )
        empty = a_home_with_logs(tmp_path / "empty", {})
        with pytest.raises(Refused, match="is empty"):
            CliRunner().invoke(
                cli,
                ["why", "x", "--home", str(empty)],
                standalone_mode=False,
                catch_exceptions=False,
            )


def a_home_with_logs(directory: Path, logs: dict[str, list[str]]) -> Path:
    home = directory / "home"
    (home / "store").mkdir(parents=True)
    (home / "home.json").write_text('{"schema": 1}')
    (home / "logs").mkdir()
    for age, (suffix, ids) in enumerate(logs.items()):
        time = f"2026-01-0{len(logs) - age}T00:00:00.000Z"
        lines = [json.dumps({"request_id": one, "time": time, "status": 200}) for one in ids]
        text = "".join(f"{line}\n" for line in lines).replace(": ", ":")
        (home / "logs" / f"access.jsonl{suffix}").write_text(text)
    return home
