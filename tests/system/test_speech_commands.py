"""Commands around a release, in one running Fairlead: say, verify, bump, revisions, and what status says of batches."""

from __future__ import annotations

import io
import json
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import av
import pytest

from support.running import FAIRLEAD, ROOT, Fairlead, fairlead, until

TEXT = "The harbour is calm this morning, and the ferry leaves at nine."
BATCHED = """\
service: mood
model: {line}
version: "1"
artifact: sentiment/1
endpoints:
  predict:
    batching: {{enabled: {enabled}}}
"""


@pytest.fixture(scope="module")
def running(published: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fairlead]:
    directory = tmp_path_factory.mktemp("speech")
    (directory / "releases").mkdir()
    for name in ("release-v1.1.yaml", "release-v1.2.yaml"):
        shutil.copy(ROOT / "examples" / "speech" / name, directory / "releases" / name)
    for line, enabled in (("v1", "true"), ("v2", "false")):
        path = directory / "releases" / f"mood-{line}.yaml"
        path.write_text(BATCHED.format(line=line, enabled=enabled))
    files = sorted(map(str, (directory / "releases").iterdir()))
    with fairlead(directory, *files, like=published) as one:
        yield one


def seconds_of(sound: bytes) -> float:
    """How long it plays, decoded whole."""
    with av.open(io.BytesIO(sound)) as container:
        (stream,) = container.streams.audio
        return sum(frame.samples / frame.sample_rate for frame in container.decode(stream))


@pytest.mark.parametrize("suffix", ["mp3", "wav", "ogg"])
def test_what_is_said_is_in_the_file(running: Fairlead, suffix: str) -> None:
    file = running.directory / f"morning.{suffix}"
    done = running.cli("say", TEXT, "-o", file.name)
    assert f"bytes in morning.{suffix} after" in done.stderr
    assert "the first after" in done.stderr
    assert ", by v1.1" in done.stderr or ", by v1.2" in done.stderr
    assert 2.5 < seconds_of(file.read_bytes()) < 4.5
    if suffix == "wav":  # what a stream cannot know is known now
        head = file.read_bytes()[:44]
        assert int.from_bytes(head[40:44], "little") == file.stat().st_size - 44
    file.unlink()
    assert not list(running.directory.glob("*.part"))


def test_a_player_gets_it_by_a_pipe(running: Fairlead) -> None:
    command = [*FAIRLEAD, "say", "-", "-o", "-", "--speaker", "0", "--format", "wav"]
    done = subprocess.run(
        command,
        cwd=running.directory,
        input=TEXT.encode(),
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout[:4] == b"RIFF"
    left = subprocess.run(
        f"{' '.join(command)} | head -c 10 > /dev/null",
        shell=True,
        cwd=running.directory,
        input=(TEXT * 20).encode(),
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert b"Traceback" not in left.stderr


def test_a_refusal_is_told_and_leaves_no_file(running: Fairlead) -> None:
    unknown = running.cli("say", TEXT, "-o", "x.mp3", "--speaker", "77", code=1)
    assert unknown.stderr.splitlines()[-1].endswith("Speaker ID is invalid. (INVALID_SPEAKER_ID)")
    silent = running.cli("say", TEXT, "-o", "x.mp3", "--service", "mood", code=1)
    assert (
        "'mood' has no endpoint 'stream' with a path of its own: it does not speak" in silent.stderr
    )
    other = running.cli("say", TEXT, "-o", "x.flac", code=2)
    assert "nothing is known of .flac files" in other.stderr
    nowhere = running.cli("say", TEXT, "-o", "no/x.mp3", code=1)
    assert "error[system]: no/x.mp3" in nowhere.stderr
    assert not list(running.directory.glob("x*"))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_leaves_nothing(running: Fairlead, number: int) -> None:
    (running.directory / "long.txt").write_text(f"{TEXT} " * 150)
    file = running.directory / "long.wav"
    process = subprocess.Popen(
        [*FAIRLEAD, "say", "@long.txt", "-o", file.name],
        cwd=running.directory,
        stderr=subprocess.DEVNULL,
    )
    try:
        until(
            lambda: (
                any(one.stat().st_size for one in running.directory.glob("long.wav.*.part"))
                or process.poll() is not None
            ),
            30,
            "it has begun",
        )
        os.kill(process.pid, number)
        code = process.wait(10)
    finally:
        process.kill()
    if code == 0:  # it was quicker
        file.unlink()
    assert code in (0, 130)
    assert not list(running.directory.glob("long.wav*"))


def test_every_path_of_the_releases_answers(running: Fairlead) -> None:
    done = running.cli("verify", "releases")
    lines = done.stdout.splitlines()
    calls = [line for line in lines if line.startswith("HTTP/1.1 200 OK") and running.url in line]
    assert len(calls) == 7  # five paths of line v1, and two lines of mood
    assert f"HTTP/1.1 200 OK v1 {running.url}/api/text_to_speech/stream" in calls
    assert "DONE: 7 succeeded, 0 failed:" in lines
    only = running.cli("verify", "releases", "--only", "v2")
    assert "DONE: 1 succeeded, 0 failed:" in only.stdout
    nobody = running.cli("verify", "releases", "--only", "v7", code=1)
    assert "no file is of model 'v7'; models: v1, v2" in nobody.stderr


def test_what_fails_is_told_and_counted(running: Fairlead) -> None:
    environment = {**running.environment, "API_KEY": "wrong"}
    done = subprocess.run(
        [*FAIRLEAD, "verify", "releases"],
        cwd=running.directory,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1
    assert "DONE: 0 succeeded, 7 failed:" in done.stdout
    assert "HTTP/1.1 401 Unauthorized v1" in done.stdout
    assert "wrong" not in done.stdout + done.stderr
    away = running.cli("verify", "releases", "--host", "http://127.0.0.1:9", code=1)
    assert "DONE: 0 succeeded, 7 failed:" in away.stdout
    assert "no answer" in away.stdout
    (running.directory / "mixed" / "inner").mkdir(parents=True)
    told = running.cli("verify", "mixed", code=1)
    assert "mixed: holds no release file" in told.stderr
    for name in ("release-v1.1.yaml", "release-v1.2.yaml"):
        shutil.copy(running.directory / "releases" / name, running.directory / "mixed" / name)
    (running.directory / "mixed" / "inner" / "other.yaml").write_text("no release")
    beside = running.cli("verify", "mixed")
    assert "2 release files found" in beside.stderr
    assert "DONE: 5 succeeded, 0 failed:" in beside.stdout
    (running.directory / "mixed" / "gone.yaml").symlink_to("nowhere")
    broken = running.cli("verify", "mixed", code=1)
    assert "gone.yaml: is no regular file" in broken.stderr


def test_it_is_repeated_until_ctrl_c(running: Fairlead) -> None:
    out = running.directory / "repeat.out"
    with out.open("w") as output:
        process = subprocess.Popen(
            [*FAIRLEAD, "verify", "releases", "--only", "v2", "--repeat", "0.1"],
            cwd=running.directory,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**running.environment, "PYTHONUNBUFFERED": "1"},
        )
    try:
        until(lambda: out.read_text().count("DONE: 1 succeeded, 0 failed:") > 2, 30, "repeated")
        process.send_signal(signal.SIGINT)
        assert process.wait(10) == 130
    finally:
        process.kill()
    assert "rounds; 0 requests failed" in out.read_text()
    assert "Traceback" not in out.read_text()


def test_revisions_are_listed_with_all_that_is_known_of_them(running: Fairlead) -> None:
    table = running.cli("revisions", "speech/v1").stdout.splitlines()
    assert table[0].split() == ["REVISION", "ARTIFACT", "DIGEST", "CREATED", "TRAFFIC", "STATE"]
    assert [line.split()[0] for line in table[1:]] == ["speech/v1.1", "speech/v1.2"]
    assert "90 %" in table[1]
    assert "ready" in table[1]
    assert "on local" in table[1]
    assert "last applied" not in table[1]
    assert "last applied" in table[2]
    document = json.loads(running.cli("revisions", "--json").stdout)
    assert {one["service"] for one in document["revisions"]} == {"mood", "speech"}
    last = document["revisions"][-1]
    assert last["nodes"][0] | {"workers": 1} == {
        "node": "local",
        "state": "ready",
        "workers": 1,
        "reason": "",
        "cold": [],
    }
    assert (last["percent"], last["wantedPercent"], last["lastApplied"]) == (10, 10, True)
    assert "lines: v1" in running.cli("revisions", "speech/v9", code=1).stderr


def test_status_says_what_is_batched(running: Fairlead) -> None:
    rows = json.loads(running.cli("status", "--json").stdout)["revisions"]
    batching = {f"{row['service']}/{row['version']}": row["batching"] for row in rows}
    ours = [found for name, found in batching.items() if name.startswith("mood/v1.")]
    assert [one["predict"]["on"] for one in ours] == [True]
    assert batching["mood/v2.1"]["predict"]["on"] is False
    assert "as it was said" in batching["mood/v2.1"]["predict"]["why"]
    assert batching["speech/v1.1"] == {}
    table = running.cli("status").stdout
    assert "BATCHING" in table
    (line,) = [line for line in table.splitlines() if "mood" in line and "v2.1" in line]
    assert "  off" in line


def test_bumped_files_are_applied_as_the_next_revisions(running: Fairlead) -> None:
    directory = running.directory / "bumped"
    directory.mkdir()
    file = directory / "mood.yaml"
    file.write_text("# ours\n" + BATCHED.format(line="v1", enabled="true"))
    split = directory / "speech.yaml"
    shutil.copy(running.directory / "releases" / "release-v1.2.yaml", split)
    before = file.read_text()
    dry = running.cli("bump", str(file), "--dry-run")
    assert dry.stdout == f"Would change version of v1 from 1 to 2 in {file}\nOK\n"
    assert file.read_text() == before
    done = running.cli("bump", str(directory), code=1)
    assert done.stdout == f"Changed version of v1 from 1 to 2 in {file}\n"
    assert (
        f"ERROR: {split}: split traffic config, manual update required, skipping..." in done.stderr
    )
    assert file.read_text() == before.replace('"1"', '"2"')
    running.cli("apply", str(file))
    assert "mood/v1.2" in running.cli("revisions", "mood/v1").stdout
    running.cli("delete", "mood/v1.1", "--yes")
    file.write_text(before)
    again = running.cli("bump", str(file))
    assert (
        "WARNING: version 2 of v1 is taken already, its line has had 2; going to 3" in again.stderr
    )
    jsonnet = directory / "x.jsonnet"
    jsonnet.write_text("{}")
    assert "is Jsonnet, a program" in running.cli("bump", str(jsonnet), code=1).stderr
