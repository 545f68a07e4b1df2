"""A failing model under `fairlead up`: what its callers and its operator see; and that nothing runs twice."""

from __future__ import annotations

import json
import os
import re
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from support.models import code_project, example
from support.running import Fairlead, Reply, fairlead, until

MODEL = """
import os
import time
from pathlib import Path
from pydantic import BaseModel
RUNS = Path({runs!r})
class Order(BaseModel):
    sleep: float = 0
    fail: bool = False
class Model:
    def predict(self, order: Order) -> int:
        if order.sleep:
            with RUNS.open("a") as runs:
                runs.write(f"{{os.getpid()}}\\n")
            time.sleep(order.sleep)
        return 1 // (0 if order.fail else 1)
"""
PREDICT = "/v1/model/trouble/predict"
GROWING = "/v1/model/growing/predict"
INFER = "/v2/models/trouble/infer"


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fairlead]:
    directory = tmp_path_factory.mktemp("switch")
    code = MODEL.format(runs=str(directory / "runs"))
    release = code_project(directory, "trouble", code, example({}, 1), minScale=2, maxScale=2)
    grows = code_project(
        directory, "growing", code, example({}, 1), minScale=0, maxScale=2, concurrency=2
    )
    with fairlead(directory, str(release), str(grows)) as one:
        yield one


def off(reply: Reply) -> bool:
    return reply.status == 503 and b"switched off after too many failures" in reply.body


def test_nothing_runs_twice_and_a_failing_model_is_switched_off(running: Fairlead) -> None:
    """One test, because the order matters: for a minute after the second part nothing runs at all."""
    until(running.healthy, 15, "healthy")
    dead = a_run_that_dies_with_its_worker_is_not_run_again(running)
    until(lambda: two_workers_but(running, dead), 20, "two workers again")
    until(lambda: both_open(running), 20, "the switches of both workers are open")
    callers_are_told(running)
    operators_are_told(running)
    one_whose_requests_are_held_has_a_switch_too(running)


def a_run_that_dies_with_its_worker_is_not_run_again(running: Fairlead) -> int:
    runs = running.directory / "runs"
    with ThreadPoolExecutor(1) as pool:
        slow = pool.submit(running.ask, PREDICT, {"sleep": 20})
        pid = int(until(lambda: runs.exists() and runs.read_text(), 10, "it runs"))
        os.kill(pid, signal.SIGKILL)
        reply = slow.result(25)
    assert reply.status in (502, 503)
    assert reply.headers["x-error-code"] in ("internal", "unavailable")
    assert runs.read_text() == f"{pid}\n", "it ran once"
    return pid


def two_workers_but(running: Fairlead, dead: int) -> bool:
    """Has `trouble` two, routed as all who are ready, and is the dead one gone: other workers have a switch of their own."""
    node = json.loads((running.home / "node" / "status.json").read_bytes())
    gateway = json.loads((running.home / "gateway" / "status.json").read_bytes())
    ready = [one for one in node["replicas"] if one["state"] == "ready"]
    pids = {one["pid"] for one in node["replicas"]}
    # `growing` has one too, for a minute from the start.
    of_trouble = [one for one in ready if one["revision"]["service"] == "trouble"]
    routed = set(gateway["workers"]) == {one["worker"] for one in ready}
    return len(of_trouble) == 2 and dead not in pids and routed


def both_open(running: Fairlead) -> bool:
    """After some more failures; a worker that has just come may have changed who is asked, and they open anew.

    So many at once that either worker gets more than the 20 that its switch takes, before a command is asked what it says.
    """
    with ThreadPoolExecutor(4) as pool:
        refused = any(
            map(off, pool.map(lambda _: running.ask(PREDICT, {"fail": True}), range(100)))
        )
    if not refused:
        return False
    told = json.loads(running.cli("status", "--json", code=None).stdout)["killSwitches"]
    return [(len(one["workers"]), one["of"]) for one in told] == [(2, 2)]


def callers_are_told(running: Fairlead) -> None:
    reply = running.ask(PREDICT, {})
    assert off(reply)
    assert list(reply.json) == ["message"]
    assert reply.headers["retry-after"] == "60"
    assert reply.headers["x-error-code"] == "unavailable"
    assert list(running.ask(INFER, {}).json) == ["error"]


def operators_are_told(running: Fairlead) -> None:
    what = "trouble/v1.1/predict is switched off after too many failures"
    told = running.cli("status", code=1).stdout
    assert what in told
    assert "tried again by itself at" in told
    assert "too many failures: predict" in told
    (switch,) = json.loads(running.cli("status", "--json", code=1).stdout)["killSwitches"]
    assert len(switch["workers"]) == switch["of"] == 2
    assert switch["until"] - switch["since"] == 60
    metrics = running.ask("/metrics", key=None).body.decode()
    labels = 'service="trouble",line="v1",revision="1",endpoint="predict"'
    assert f"fairlead_kill_switch_open{{{labels}}} 1\n" in metrics
    (trips,) = re.findall(
        re.escape(f"fairlead_kill_switch_trips_total{{{labels}}} ") + r"(\d+)\n", metrics
    )
    assert int(trips) >= 2
    assert (running.health() or {})["problems"] == [what]
    assert "is switched off for 60 s: 25 % or more" in running.cli("logs").stdout
    assert "is switched off for 60 s: 25 % or more" in running.told()


def one_whose_requests_are_held_has_a_switch_too(running: Fairlead) -> None:
    path, what = GROWING, "growing/v1.1/predict is switched off after too many failures"
    assert "held;dur=" in running.ask(path, {}).headers["server-timing"]
    until(lambda: off(running.ask(path, {"fail": True})), 20, "the switch opens")
    reply = running.ask(path, {})
    assert off(reply)
    assert reply.headers["retry-after"] == "60"
    until(lambda: what in running.cli("status", code=None).stdout, 10, "status tells it")
    assert what in (running.health() or {})["problems"]
    told = running.cli("why", reply.headers["x-request-id"]).stdout
    assert "503, refused by the gateway: This endpoint is switched off" in told


def test_a_service_killed_by_hand_tells_its_operators_message(running: Fairlead) -> None:
    message = "wrong answers since noon: ask the platform team"
    running.cli("kill", "trouble", "--message", message)
    for path, key in ((PREDICT, "message"), (INFER, "error")):
        reply = running.ask(path, {})
        assert (reply.status, reply.json) == (503, {key: message})
        assert reply.headers["x-error-code"] == "unavailable"
    assert message in running.cli("status", code=None).stdout
    refused = running.cli("kill", "trouble", "--message", "two\nlines", code=1)
    assert "write one line, at most 500 characters" in refused.stderr
    running.cli("revive", "trouble")
