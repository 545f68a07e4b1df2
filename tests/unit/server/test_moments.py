"""No stage of a wave keeps the event loop for long: what there is no time for has its turn when others had theirs."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
import pytest_asyncio

from fairlead.api.worker import ServedEndpoint
from fairlead.domain.ids import RevisionId
from fairlead.server.http.aside import Aside
from fairlead.server.http.quick import QuickRequest
from fairlead.server.http.wave import Wave
from support.asked import Asked, Served, read_answer, served_at
from support.models import scaled_artifact
from support.serving import eventually
from support.waves import Caller, Ticks

ID = RevisionId("scaled", "v9", "2")
PREDICT = "/v1/model/scaled/predict"
TICK = 0.0002  # a moment is over with the third look at the clock after a stage began


@pytest_asyncio.fixture(params=[{}, {"enabled": False}], ids=["shared", "alone"])
async def server(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Served]:
    endpoints = (ServedEndpoint(batching=request.param),)
    spec = scaled_artifact(tmp_path / "m").spec(ID, endpoints=endpoints)
    async with served_at(tmp_path, spec) as found:
        (endpoint,) = found.running.plane.endpoints()
        assert (endpoint.most_together > 1) == (not request.param)
        yield found


class Turns:
    """Counts the event loop's turns."""

    def __init__(self) -> None:
        self.count = 0
        self._loop = asyncio.get_running_loop()
        self._next()

    def _next(self) -> None:
        self.count += 1
        self._handle = self._loop.call_soon(self._next)

    def stop(self) -> None:
        self._handle.cancel()


class Noting(Caller):
    """Notes in which turn it was answered."""

    def __init__(self, turns: Turns) -> None:
        super().__init__()
        self._turns = turns
        self.turns: list[int] = []
        self.then: Callable[[], None] = lambda: None

    def finish(self, request: QuickRequest, answer: bytes) -> None:
        super().finish(request, answer)
        self.then()
        self.turns.append(self._turns.count)


def body_of(number: int) -> bytes:
    return json.dumps({"instances": [[number, 0, 0]]}).encode()


def join(found: Served, wave: Wave, caller: Caller, number: int, timeout_ms: int = 0) -> None:
    hot = found.running.app.hot_path(PREDICT.encode())
    assert hot is not None
    headers = {b"x-request-timeout-ms": b"%d" % timeout_ms} if timeout_ms else {}
    one = QuickRequest(wave, caller, hot.choose({}), PREDICT.encode(), headers.items(), headers)
    one.body = body_of(number)
    wave.add(one, asyncio.get_running_loop())


async def test_others_have_their_turn_while_a_wave_takes_long(server: Served) -> None:
    turns = Turns()
    callers = [Noting(turns) for _ in range(20)]
    wave = Wave(Ticks(TICK), Aside(), access_log=False)
    for number, caller in enumerate(callers):
        join(server, wave, caller, number)
    await eventually(lambda: all(caller.answers for caller in callers))
    turns.stop()
    for number, caller in enumerate(callers):
        (answer,) = caller.answers
        head, _, body = answer.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200 OK")
        assert json.loads(body) == {"predictions": [[2 * number, 0, 0]]}
    answered = [caller.turns[0] for caller in callers]
    assert answered == sorted(answered)  # nobody is overtaken
    at_once = max(answered.count(turn) for turn in answered)
    assert 1 <= at_once <= 3
    assert all(route.in_progress == 0 for route in server.running.plane.stats)
    (endpoint,) = server.running.plane.endpoints()
    assert endpoint.executions.requests == len(callers)


@pytest.mark.parametrize("leaves", [True, False])
async def test_who_does_not_wait_any_more_when_the_next_turn_comes_is_told_so(
    server: Served, leaves: bool
) -> None:
    turns = Turns()
    callers = [Noting(turns) for _ in range(12)]
    wave = Wave(Ticks(TICK), Aside(), access_log=False)
    for number, caller in enumerate(callers):
        join(server, wave, caller, number, timeout_ms=0 if leaves else 5)

    def leave() -> None:
        for caller in callers[6:]:
            caller.left = leaves

    callers[0].then = leave
    await eventually(lambda: all(caller.answers for caller in callers))
    turns.stop()
    statuses = [int(caller.answers[0].split()[1]) for caller in callers]
    expected = 499 if leaves else 504
    assert statuses[0] == 200
    assert statuses[-1] == expected
    assert set(statuses) == {200, expected}
    assert all(len(caller.answers) == 1 for caller in callers)
    hot = [route for route in server.running.plane.stats if route.endpoint]
    counted = {code: sum(route.statuses.get(code, 0) for route in hot) for code in (200, expected)}
    assert counted == {code: statuses.count(code) for code in counted}
    assert all(route.in_progress == 0 for route in hot)


class Handed(Noting):
    """Notes what is handed to ASGI."""

    handed = 0

    def hand_over(self, request: QuickRequest) -> None:
        self.handed += 1


async def test_what_may_not_run_here_any_more_when_the_next_turn_comes_goes_through_asgi(
    server: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    turns = Turns()
    callers = [Handed(turns) for _ in range(6)]
    (endpoint,) = server.running.plane.endpoints()
    wave = Wave(Ticks(TICK), Aside(), access_log=False)
    for number, caller in enumerate(callers):
        join(server, wave, caller, number)
    callers[0].then = lambda: monkeypatch.setattr(endpoint.artifact, "busy", 1)
    monkeypatch.setattr(endpoint.model, "concurrent", False)
    await eventually(lambda: all(caller.answers or caller.handed for caller in callers))
    turns.stop()
    outcomes = [(len(caller.answers), caller.handed) for caller in callers]
    answered = (
        1 if endpoint.most_together == 1 else 3
    )  # of the three that were decoded in the first turn
    assert outcomes == [(1, 0)] * answered + [(0, 1)] * (len(callers) - answered)
    assert all(route.in_progress == 0 for route in server.running.plane.stats)


@pytest.mark.parametrize("batching", [{}, {"enabled": True, "maxBatchSize": 8}])
async def test_with_no_moment_at_all_everybody_gets_their_own_answer(
    tmp_path: Path, batching: dict[str, object]
) -> None:
    endpoint = ServedEndpoint(batching=batching)
    spec = scaled_artifact(tmp_path / "m").spec(ID, endpoints=(endpoint,))
    async with served_at(tmp_path, spec) as found:
        found.running.app.wave.moment = found.running.app.gathering.moment = 0.0

        async def ask(number: int) -> None:
            reader, writer = await asyncio.open_unix_connection(str(found.path))
            for _ in range(10):
                writer.write(Asked("POST", PREDICT, (), (body_of(number),)).wire())
                status, _, answer = await read_answer(reader)
                assert (status, json.loads(answer)) == (200, {"predictions": [[2 * number, 0, 0]]})
            writer.close()

        async with asyncio.TaskGroup() as group:
            for number in range(100):
                group.create_task(ask(number))
        (served,) = found.running.plane.endpoints()
        assert served.executions.requests == 1000
        assert served.admission.taken == 0
        await eventually(lambda: all(one.in_progress == 0 for one in found.running.plane.stats))
        assert found.running.app.bodies.held == 0
