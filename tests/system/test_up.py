"""The life of `fairlead up`: start, stop, start again, and everything that can be in its way."""

from __future__ import annotations

import hashlib
import json
import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from support.models import FLOAT, example, identity
from support.running import FAIRLEAD, ROOT, Fairlead, until


@pytest.fixture
def project(tmp_path: Path) -> Iterator[Fairlead]:
    """A project as `fairlead init` writes it."""
    directory = tmp_path / "project"
    subprocess.run([*FAIRLEAD, "init", str(directory)], check=True, timeout=30, capture_output=True)
    running = Fairlead(directory)
    yield running
    running.close()


def gone(running: Fairlead) -> bool:
    return not running.processes()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_new_project_serves_and_leaves_nothing_behind(project: Fairlead, number: int) -> None:
    project.start()
    reply = project.ask("/v1/model/reading-time/predict", {"text": "one two three"})
    assert (reply.status, reply.json) == (200, {"words": 3, "minutes": 0.01})
    assert project.healthy()
    assert project.stop(number) == 0
    assert "nothing is left running" in project.told()
    assert gone(project)
    assert not (project.home / "up.json").exists()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", project.port), 1)


@pytest.mark.slow
def test_a_second_start_keeps_what_was_moved_by_hand(project: Fairlead) -> None:
    project.start()
    project.cli("kill", "reading-time")
    key = project.key
    project.stop()
    again = project.start(seconds=20)
    assert (
        again < 15
    )  # the figure that counts is measured by hand and reported; this only catches a hang
    assert project.key == key
    assert project.ask("/v1/model/reading-time/bio").status == 503
    assert "published" not in project.told().split("starting in")[-1]


def test_killing_up_itself_leaves_nothing_running(project: Fairlead) -> None:
    project.start()
    assert project.process is not None
    os.kill(project.process.pid, signal.SIGKILL)
    project.process.wait(10)
    until(lambda: gone(project), 20, f"everything ended: {project.processes()}")
    project.start()
    until(project.healthy, 5, "healthy")


@pytest.mark.slow
def test_sockets_that_somebody_removed_come_back(project: Fairlead) -> None:
    """As what tidies /tmp does, or a last login that ends with its runtime directory."""
    project.start()
    status = json.loads((project.home / "node" / "status.json").read_bytes())
    sockets = Path(status["replicas"][0]["socket"]).parent
    shutil.rmtree(sockets)
    until(lambda: not project.healthy(), 10, "it is told")

    def serves() -> bool:
        words = {"text": "one two"}
        return (
            project.healthy() and project.ask("/v1/model/reading-time/predict", words).status == 200
        )

    until(serves, 60, "it serves")
    until((sockets / "agent.sock").exists, 10, "the agent listens")
    assert "were removed: starting the gateway anew" in project.told()
    project.cli("keys", "create", "app")
    assert project.stop() == 0
    assert gone(project)


@pytest.mark.slow
def test_an_envoy_that_outlived_everybody_is_adopted(project: Fairlead) -> None:
    project.start()
    victims = [process for process in project.processes() if process.name() != "envoy"]
    (envoy,) = [process for process in project.processes() if process.name() == "envoy"]
    for process in victims:
        process.suspend()  # or a gateway that sees `up` gone begins to end its Envoy, which nobody can adopt then
    for process in victims:
        process.kill()
    assert project.process is not None
    project.process.wait(10)
    project.start()
    until(project.healthy, 5, "healthy")
    assert [process.pid for process in project.processes() if process.name() == "envoy"] == [
        envoy.pid
    ]
    assert project.stop() == 0
    assert gone(project)


SLOW = """
import time
class Model:
    def load(self, directory): pass
    def predict(self, request: float) -> float:
        time.sleep(request)
        return request
"""


def add_slow_model(project: Fairlead) -> None:
    """A service `slow`: answers after as many seconds as it is asked for."""
    folder = project.directory / "models" / "slow" / "1"
    folder.mkdir(parents=True)
    (folder / "model.py").write_text(SLOW)
    (folder / "model.yaml").write_text("name: slow\nversion: 1\nengine: python\n")
    (folder / "golden.json").write_text('{"examples": [{"request": 0.01, "response": 0.01}]}')
    (project.directory / "releases" / "slow.yaml").write_text(
        'service: slow\nmodel: v1\nversion: "1"\nartifact: slow/1\n'
    )


@pytest.mark.slow
def test_an_up_that_follows_a_killed_one_waits_for_what_that_left(project: Fairlead) -> None:
    add_slow_model(project)
    project.start()
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(project.ask, "/v1/model/slow/predict", 4.0)
        until(
            lambda: 'fairlead_requests_in_progress{endpoint="predict"' in metrics(project),
            10,
            "it runs",
        )
        assert project.process is not None
        project.process.kill()
        project.process.wait(10)
        project.start()
        assert answer.result(20).status == 200  # and nobody cut the request that was under way
    until(project.healthy, 5, "healthy")


def metrics(project: Fairlead) -> str:
    text = project.ask("/metrics", key=None).body.decode()
    return "\n".join(line for line in text.splitlines() if not line.endswith(" 0.0"))


@pytest.mark.slow
def test_an_up_never_touches_an_agent_that_runs_on_its_own(project: Fairlead) -> None:
    project.cli("publish", "models/reading-time/1")
    project.cli("apply", "releases/reading-time.yaml")
    agent = subprocess.Popen(
        [*FAIRLEAD, "agent", "--home", str(project.home)],
        stderr=subprocess.DEVNULL,
        cwd=project.directory,
    )
    try:
        until(
            lambda: '"state": "ready"' in project.cli("status", "--json", code=None).stdout,
            20,
            "the agent's worker is ready",
        )
        project.start(ready=False)
        until(lambda: "waiting for the agent that still runs" in project.told(), 10, "it waits")
        assert project.stop() != 0
        replica = project.replicas()["reading-time/v1.1"]
        assert Path(replica["socket"]).exists()
    finally:
        agent.terminate()
        agent.wait(20)
        for process in project.processes():
            process.kill()


@pytest.mark.slow
def test_switching_one_service_off_does_not_wait_for_another(project: Fairlead) -> None:
    project.start()
    folder = project.directory / "models" / "broken" / "1"
    folder.mkdir(parents=True)
    add_slow_model(project)
    slow = project.directory / "models" / "slow" / "1"
    project.cli("publish", str(slow))
    release = project.directory / "releases" / "slow.yaml"
    (stored,) = (project.home / "store" / "blobs" / "sha256").glob(sha256(slow / "model.py"))
    stored.write_bytes(b"damaged")
    refused = project.cli("apply", str(release), "--timeout", "3", code=1)
    assert "not live: slow/v1.1 is not ready" in refused.stderr
    killed = project.cli("kill", "reading-time")
    assert "live after" in killed.stderr
    assert project.ask("/v1/model/reading-time/bio").status == 503
    assert (
        "its damaged files in the store are whole again" in project.cli("publish", str(slow)).stdout
    )
    until(
        lambda: project.ask("/v1/model/slow/predict", 0.0).status == 200,
        45,
        "it is tried again, and serves",
    )


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.slow
def test_the_demo_keys_file_follows_rotation_and_revocation(project: Fairlead) -> None:
    project.start()
    project.cli("keys", "rotate", "demo")
    project.stop()
    project.start()
    assert project.ask("/v1/model/reading-time/bio").status == 200
    project.cli("keys", "revoke", "demo")
    project.stop()
    project.start()
    assert not (project.home / "demo-key").exists()
    assert "<your key>" in project.told().rpartition("Ready after")[2]
    project.stop()
    project.start()
    assert not (project.home / "demo-key").exists()


def test_stopping_it_while_it_publishes_leaves_nothing(project: Fairlead) -> None:
    model = project.directory / "models" / "reading-time" / "1" / "model.py"
    model.write_text(
        "import time\nfrom pathlib import Path\nPath('loading').touch()\ntime.sleep(60)\n"
    )
    project.start(ready=False)
    until((project.directory / "loading").exists, 20, "the model loads")
    project.stop(signal.SIGTERM)
    until(lambda: gone(project), 10, "everything ended")
    assert "Traceback" not in project.told()


@pytest.mark.slow
def test_a_rollout_that_failed_is_no_outage_at_the_next_start(project: Fairlead) -> None:
    project.start()
    first = project.directory / "models" / "reading-time" / "1"
    second = first.with_name("2")
    shutil.copytree(first, second)
    text = (second / "model.yaml").read_text().replace("version: 1", "version: 2")
    (second / "model.yaml").write_text(text)
    model = (
        (second / "model.py")
        .read_text()
        .replace(
            '"""Called once', 'assert "publish" in __import__("sys").argv\n        """Called once'
        )
    )
    (second / "model.py").write_text(model)
    project.cli("publish", str(second))
    release = project.directory / "second.yaml"
    release.write_text('service: reading-time\nmodel: v1\nversion: "2"\nartifact: reading-time/2\n')
    assert "not live" in project.cli("apply", str(release), "--timeout", "4", code=1).stderr
    path, body = "/v1/model/reading-time/predict", {"text": "one"}
    assert project.ask(path, body).version == "v1.1"
    row = next(line for line in project.cli("status", code=1).stdout.splitlines() if "v1.1" in line)
    assert "100 % (wanted 0 %)" in row
    project.stop()
    project.start(ready=False)

    def serves() -> bool:
        try:
            return project.ask(path, body).version == "v1.1"
        except OSError:
            return False

    until(serves, 30, f"the old revision serves again\n{project.told()}")
    until(lambda: "not ready: reading-time/v1.2" in project.told(), 20, "it says what is missing")
    project.cli("traffic", "reading-time", "v1", "1=100")
    assert project.stop() == 0


HANGS = """
import time
from pathlib import Path
class Model:
    def load(self, directory): pass
    def predict(self, request: float) -> float:
        Path("asked").touch()
        time.sleep(60)
        return request
"""


def hanging_model(project: Fairlead) -> str:
    folder = project.directory / "models" / "hangs" / "1"
    folder.mkdir(parents=True)
    (folder / "model.py").write_text(HANGS)
    (folder / "model.yaml").write_text("name: hangs\nversion: 1\nengine: python\n")
    (folder / "golden.json").write_text('{"examples": [{"request": 1.0, "response": 1.0}]}')
    return str(folder)


def test_the_first_ctrl_c_ends_publishing_and_nothing_is_published(project: Fairlead) -> None:
    command = [*FAIRLEAD, "publish", hanging_model(project), "--home", str(project.home)]
    publishing = subprocess.Popen(command, cwd=project.directory, stderr=subprocess.PIPE, text=True)
    until((project.directory / "asked").exists, 20, "the model is asked")
    publishing.send_signal(signal.SIGINT)
    _, told = publishing.communicate(timeout=10)
    assert publishing.returncode == 130
    assert told.endswith("interrupted\n")
    assert "Traceback" not in told
    assert "hangs" not in project.cli("models", "ls").stdout


def test_a_golden_example_that_hangs_is_told(project: Fairlead) -> None:
    done = project.cli("publish", hanging_model(project), "--timeout", "1", code=1)
    assert "answering the golden examples took longer than 1 s" in done.stderr


def test_publishing_a_folder_that_is_not_there_makes_nothing(project: Fairlead) -> None:
    done = project.cli("publish", "nowhere", code=1)
    assert "nowhere: is no folder; name a model's folder" in done.stderr
    assert not project.home.exists()


def test_a_certificate_and_a_key_that_do_not_match_are_told_before_anything_starts(
    project: Fairlead,
) -> None:
    tls = ROOT / "tests" / "data" / "tls"
    pair = ["--tls-cert", str(tls / "key.pem"), "--tls-key", str(tls / "certificate.pem")]
    done = project.cli("up", *pair, code=1)
    assert "are no pair" in done.stderr
    assert not project.home.exists()


def test_a_busy_port_is_named(project: Fairlead) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", project.port))
        taken.listen()
        project.start(ready=False)
        assert project.process is not None
        assert project.process.wait(60) == 1
    assert f"cannot listen on 127.0.0.1:{project.port} (address already in use)" in project.told()
    assert "FAIRLEAD_PORT" in project.told()
    assert gone(project)


@pytest.mark.slow
def test_a_second_up_in_the_same_home_is_refused(project: Fairlead) -> None:
    project.start()
    done = project.cli("up", "--port", "1", code=1)
    assert "Fairlead runs here already" in done.stderr
    assert project.healthy()


def test_a_home_of_a_newer_version_is_refused_in_words(project: Fairlead) -> None:
    project.home.mkdir()
    (project.home / "home.json").write_text(json.dumps({"schema": 99}))
    for arguments in (("up",), ("status",), ("publish", "models/reading-time/1")):
        done = project.cli(*arguments, code=1)
        assert "written by a newer Fairlead (schema 99, this one reads up to 1)" in done.stderr


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (
            "percent: 100",
            ["releases/reading-time.yaml: traffic: percents sum to 90 (90); make them sum to 100"],
        ),
        (
            'version: "1"',
            ['releases/reading-time.yaml: version: is the number 1; write it as text: "1"'],
        ),
        ("artifact: reading-time/1", ["the store has no artifact reading-time/2"]),
        ("model: v1", ["releases/reading-time.yaml: modle: unknown key; did you mean 'model'?"]),
    ],
)
def test_a_mistake_in_a_release_file_stops_before_anything_starts(
    project: Fairlead, change: str, told: list[str]
) -> None:
    wrong = {"percent: 100": "percent: 90", 'version: "1"': "version: 1", "model: v1": "modle: v1"}
    path = project.directory / "releases" / "reading-time.yaml"
    text = path.read_text()
    assert change in text
    path.write_text(text.replace(change, wrong.get(change, "artifact: reading-time/2")))
    done = project.cli("up", "--port", str(project.port), code=1)
    for line in told:
        assert line in done.stderr
    assert "Traceback" not in done.stderr
    assert gone(project)


def test_a_release_applied_from_a_second_terminal_is_live_when_the_command_returns(
    project: Fairlead,
) -> None:
    project.start()
    second = project.directory / "models" / "reading-time" / "2"
    first = project.directory / "models" / "reading-time" / "1"
    second.mkdir()
    for name in ("model.py", "model.yaml", "golden.json"):
        (second / name).write_text((first / name).read_text().replace("version: 1", "version: 2"))
    (second / "golden.json").write_text(
        '{"examples": [{"request": {"text": "x"}, "response": {"words": 1, "minutes": 0.01}}]}'
    )
    model = (second / "model.py").read_text()
    (second / "model.py").write_text(
        model.replace("round(words / request.words_per_minute, 2)", "0.01")
    )
    release = project.directory / "releases" / "second.yaml"
    text = (project.directory / "releases" / "reading-time.yaml").read_text()
    release.write_text(
        text.replace('version: "1"', 'version: "2"')
        .replace("/1 ", "/2 ")
        .replace('tag: "1"', 'tag: "2"')
    )
    project.cli("publish", str(second))
    planned = project.cli("plan", str(release)).stdout
    assert "~ traffic reading-time/v1: 1=100 -> 2=100" in planned
    applied = project.cli("apply", str(release))
    assert "live after" in applied.stderr
    reply = project.ask("/v1/model/reading-time/predict", {"text": "one two three"})
    assert (reply.version, reply.json) == ("v1.2", {"words": 3, "minutes": 0.01})
    refused = project.ask("/v1/model/reading-time/predict", {"text": "x"}, Accept_Version="v1.1")
    assert refused.status == 404
    until(lambda: len(project.replicas()) == 1, 15, "the old worker is gone")
    assert "nothing to change" in project.cli("apply", str(release)).stdout


def test_another_model_under_a_published_version_is_refused(project: Fairlead) -> None:
    folder = project.directory / "models" / "reading-time" / "1"
    project.cli("publish", str(folder))
    assert "unchanged" in project.cli("publish", str(folder)).stdout
    (folder / "table.txt").write_text("changed")
    done = project.cli("publish", str(folder), code=1)
    assert "reading-time/1 is published already with other content" in done.stderr
    assert "publish it as version 2" in done.stderr


def test_an_unknown_setting_in_the_environment_is_told(project: Fairlead) -> None:
    project.environment["FAIRLEAD_PROT"] = "1"
    done = project.cli("up", code=1)
    assert "FAIRLEAD_PROT: is no setting of Fairlead; did you mean FAIRLEAD_PORT?" in done.stderr


def test_init_never_overwrites(project: Fairlead) -> None:
    done = project.cli("init", code=1)
    assert "is there already" in done.stderr


def test_help_and_mistyped_commands(project: Fairlead) -> None:
    assert "fairlead up" not in project.cli("--help").stderr
    assert "Run everything on this machine" in project.cli("--help").stdout
    done = project.cli("statsu", code=2)
    assert "did you mean 'status'?" in done.stderr
    assert project.cli("up", "--no-such-option", code=2).stderr


def test_python_can_be_asked_for_the_module_too(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "fairlead", "--version"],
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
        cwd=tmp_path,
    )
    assert done.stdout.startswith("fairlead 0.")


def test_a_model_whose_input_is_one_number_is_served_shown_and_asked(project: Fairlead) -> None:
    model = identity(FLOAT, [])
    folder = project.directory / "models" / "scalar" / "1"
    folder.mkdir(parents=True)
    (folder / "model.onnx").write_bytes(model)
    (folder / "model.yaml").write_text("name: scalar\nversion: 1\nengine: onnx\n")
    golden = {"examples": [example({"x": 1.5}, {"y": 1.5})]}
    (folder / "golden.json").write_text(json.dumps(golden))
    (project.directory / "releases" / "scalar.yaml").write_text(
        'service: scalar\nmodel: v1\nversion: "1"\nartifact: scalar/1\n'
    )
    project.start()
    (line,) = [one for one in project.told().splitlines() if "/v2/models/scalar/infer" in one]
    tried = subprocess.run(shlex.split(line), check=True, timeout=30, capture_output=True)
    answered = json.loads(tried.stdout), json.loads(project.cli("predict", "scalar").stdout)
    for answer in answered:
        assert [one["data"] for one in answer["outputs"]] == [[1.5]]
    assert "scalar" in project.cli("verify", "releases").stdout
    assert project.healthy()
