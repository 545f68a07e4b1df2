"""No stage of a wave keeps the event loop for long: what there is no time for has its turn when others had theirs."""

from __future__ import annotations

import asyncio
import functools
import json
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from fairlead.api.inference import InferRequest, InferResponse
from fairlead.api.worker import ServedEndpoint
from fairlead.domain.ids import RevisionId
from fairlead.server.endpoint import Endpoint
from fairlead.server.http.aside import Aside
from fairlead.server.http.exchange import ending
from fairlead.server.http.gathering import GatheredRequest
from fairlead.server.http.protocol import HttpProtocol
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
        join(server, wave, caller, number, timeout_ms=0 if leaves else 8)

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
    # Who is handed over stays in progress until ASGI has answered.
    assert sum(one.in_progress for one in server.running.plane.stats) == len(callers) - answered


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


class Slowed(Ticks):
    """Time passes only when somebody works."""

    def monotonic(self) -> float:
        return self.now()


def costs(endpoint: Endpoint, clock: Slowed, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Let each run take 50 µs of that clock; a run that several share fails. What each run had, in rows."""
    ran: list[int] = []

    def alone(request: InferRequest, infer: Callable[[InferRequest], InferResponse]) -> Any:
        clock.advance(0.00005)
        ran.append(1)
        return infer(request)

    def together(requests: Sequence[InferRequest]) -> list[InferResponse]:
        clock.advance(0.00005)
        ran.append(len(requests))
        raise ValueError("one of them is bad")

    monkeypatch.setattr(endpoint, "infer_now", functools.partial(alone, infer=endpoint.infer_now))
    monkeypatch.setattr(endpoint, "infer_together", together)
    return ran


async def test_a_shared_run_that_fails_is_made_up_for_in_several_turns(
    server: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    (endpoint,) = server.running.plane.endpoints()
    clock = Slowed()
    ran = costs(endpoint, clock, monkeypatch)
    turns = Turns()
    callers = [Noting(turns) for _ in range(40)]
    wave = Wave(clock, Aside(), access_log=False)
    for number, caller in enumerate(callers):
        join(server, wave, caller, number)
    await eventually(lambda: all(caller.answers for caller in callers))
    turns.stop()
    assert all(caller.answers[0].startswith(b"HTTP/1.1 200 OK") for caller in callers)
    shared = [] if endpoint.most_together == 1 else [len(callers)]
    assert ran == shared + [1] * len(callers)  # shared once, and by none of them again
    answered = [caller.turns[0] for caller in callers]
    assert answered == sorted(answered)
    assert max(answered.count(turn) for turn in answered) <= 12  # 0.5 ms and one run


async def test_who_is_late_does_not_keep_the_others_from_sharing(
    server: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    (endpoint,) = server.running.plane.endpoints()
    shared: list[int] = []

    def together(
        requests: Sequence[InferRequest],
        infer: Callable[[Sequence[InferRequest]], list[InferResponse]],
    ) -> list[InferResponse]:
        shared.append(len(requests))
        return infer(requests)

    monkeypatch.setattr(
        endpoint, "infer_together", functools.partial(together, infer=endpoint.infer_together)
    )
    clock = Ticks(0.00005)
    callers = [Caller() for _ in range(5)]
    wave = Wave(clock, Aside(), access_log=False)
    join(server, wave, callers[0], 0, timeout_ms=1)
    clock.advance(0.001)
    for number, caller in enumerate(callers[1:], 1):
        join(server, wave, caller, number, timeout_ms=1000)
    await eventually(lambda: all(caller.answers for caller in callers))
    statuses = [int(caller.answers[0].split()[1]) for caller in callers]
    assert statuses == [504, 200, 200, 200, 200]
    assert shared == ([] if endpoint.most_together == 1 else [4])


async def test_a_run_whose_answer_nobody_waits_for_any_more_is_wasted(server: Served) -> None:
    (endpoint,) = server.running.plane.endpoints()
    caller = Caller()
    clock = Slowed()
    wave = Wave(clock, Aside(), access_log=False)
    wave.moment = -1.0  # every stage in a turn of its own
    before = endpoint.infer_now

    def run(request: InferRequest) -> InferResponse:
        clock.advance(0.25)
        caller.left = True
        return before(request)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(endpoint, "infer_now", run)
        join(server, wave, caller, 0)
        await eventually(lambda: bool(caller.answers))
    assert caller.answers[0].startswith(b"HTTP/1.1 499 ")
    assert endpoint.wasted_seconds == pytest.approx(0.25)


async def test_who_is_given_up_before_its_turn_is_not_read_any_more(tmp_path: Path) -> None:
    one = ServedEndpoint(batching={"enabled": True, "maxBatchSize": 8})
    async with served_at(
        tmp_path, scaled_artifact(tmp_path / "m").spec(ID, endpoints=(one,))
    ) as found:
        app, caller = found.running.app, Caller()
        hot = app.hot_path(PREDICT.encode())
        assert hot is not None
        request = GatheredRequest(app.gathering, caller, hot.choose({}), PREDICT.encode(), (), {})
        request.body = body_of(1)
        app.gathering.add(request, asyncio.get_running_loop())
        app.gathering.given_up(request, ending())
        turns = Turns()
        await eventually(lambda: turns.count > 3)
        turns.stop()
        assert len(caller.answers) == 1
        (endpoint,) = found.running.plane.endpoints()
        assert (app.bodies.held, endpoint.admission.taken) == (0, 0)
        assert all(route.in_progress == 0 for route in found.running.plane.stats)


async def test_what_is_handed_over_is_answered_though_its_model_is_being_unloaded(
    server: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It came before, and unloading waits for what is in progress."""
    (endpoint,) = server.running.plane.endpoints()
    app = server.running.app
    reader, writer = await asyncio.open_unix_connection(str(server.path))
    handed = HttpProtocol.hand_over

    def hand_over(self: HttpProtocol, request: QuickRequest) -> None:
        assert sum(one.in_progress for one in server.running.plane.stats) == 1
        handed(self, request)
        assert (
            request.body == b""
        )  # it waits for a slot, maybe long, and the ASGI cycle has its own
        assert sum(one.in_progress for one in server.running.plane.stats) == 1
        app.serve([])  # what unloading does first

    monkeypatch.setattr(HttpProtocol, "hand_over", hand_over)
    monkeypatch.setattr(endpoint, "quick_rows", lambda request, size: None)
    writer.write(Asked("POST", PREDICT, (("x-request-id", "r-1"),), (body_of(7),)).wire())
    status, headers, answer = await read_answer(reader)
    assert (status, json.loads(answer)) == (200, {"predictions": [[14, 0, 0]]})
    assert headers["x-request-id"] == "r-1"
    await eventually(lambda: all(one.in_progress == 0 for one in server.running.plane.stats))
    writer.close()


@pytest.mark.parametrize("stage", ["decoded", "ran"])
async def test_a_failure_on_the_way_to_the_next_stage_answers_nobody_twice(
    server: Served, stage: str
) -> None:
    """Not one that a caller can bring about: the lane itself fails, once."""
    callers = [Caller() for _ in range(6)]
    wave = Wave(Ticks(TICK), Aside(), access_log=False)
    for number, caller in enumerate(callers):
        join(server, wave, caller, number)
    name = {"decoded": "_still_quick", "ran": "_wanted"}[stage]
    raised: list[MemoryError] = []

    def fail(some: Sequence[QuickRequest]) -> list[QuickRequest]:
        first: Any = some[0].connection
        here = bool(some[0].ended) == (stage == "ran")
        first.left = here and not raised
        kept = [one for one in some if wave._is_wanted(one, 0.0)]  # noqa: SLF001 - as itself does
        if here and not raised:
            raised.append(MemoryError())
            raise raised[0]
        return kept

    complaints: list[Any] = []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, context: complaints.append(context.get("exception")))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(wave, name, fail)
        join(server, wave, caller := Caller(), 9)
        await eventually(lambda: bool(caller.answers) and bool(raised))
    loop.set_exception_handler(None)
    assert complaints == raised
    assert all(len(one.answers) <= 1 for one in [*callers, caller])
    assert any(one.left and one.answers for one in callers)
    assert callers[-1].answers
