"""What a loop of ours tells of callbacks that fail."""

from __future__ import annotations

import asyncio
import socket

import pytest

from fairlead.kits.loops import new_event_loop


async def readable_too_late() -> None:
    """As anyio waits for a socket: the wait is cancelled, and the socket readable before the reader is out."""
    loop = asyncio.get_running_loop()
    one, other = socket.socketpair()
    with one, other:
        one.setblocking(False)
        waiting: asyncio.Future[None] = loop.create_future()
        told = asyncio.Event()
        loop.add_reader(one, waiting.set_result, None)
        waiting.cancel()
        other.send(b"x")
        loop.call_later(0.05, told.set)
        await told.wait()
        loop.remove_reader(one)


def test_a_wait_that_was_given_up_is_no_error(caplog: pytest.LogCaptureFixture) -> None:
    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        runner.run(readable_too_late())
    assert caplog.records == []


def test_what_else_fails_in_a_callback_is_told(caplog: pytest.LogCaptureFixture) -> None:
    def fail(error: Exception) -> None:
        raise error

    async def failing() -> None:
        loop = asyncio.get_running_loop()
        loop.call_soon(fail, ValueError("on purpose"))
        loop.call_soon(fail, asyncio.InvalidStateError("ours"))
        await asyncio.sleep(0)
        await asyncio.sleep(0)

    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        runner.run(failing())
    assert [str(one.exc_info[1]) for one in caplog.records if one.exc_info] == [
        "on purpose",
        "ours",
    ]
