"""The processes of one artifact's voice: started, asked, stopped, and started anew when one ends.

One process says one text at a time, so there are as many as there are texts at once, up to a limit; beyond it a text
waits for its turn. A listener who leaves has its synthesis stopped; a process that does not stop at once is ended, and
the next one is started.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import socket
import subprocess
import sys
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from typing import Any

from fairlead.domain.errors import Kind, Refused
from fairlead.engines.speech import wire
from fairlead.kits import memory
from fairlead.kits.timeouts import timeout

_log = logging.getLogger(__name__)
_READ_BYTES = 64 * 1024
_START_SECONDS = 60.0  # a neural voice reads hundreds of megabytes
_STOP_SECONDS = 0.08  # a place is free within 100 ms after its listener has left
_SILENT_SECONDS = 60.0  # without any sound: it hangs
_END_SECONDS = 5.0
# Encoding leaves holes in the heap: given back now and then, in a moment when nobody speaks.
_TEXTS_BETWEEN = 64


class Voice:
    """One process. `rate` is its samples a second, `lacks` the voices it does not have; both known once it is ready."""

    def __init__(self, order: bytes) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            try:
                self._process = _started(theirs)
            except OSError as error:
                ours.close()
                message = f"a voice's process cannot be started: {error.strerror}"
                raise Refused(Kind.MODEL, message) from None
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, wire.BUFFER_BYTES)
        ours.sendall(wire.framed(wire.LOAD, order))
        self._line = ours
        self._frames = wire.Frames()
        self._hello: Mapping[str, Any] | None = None
        self._speaking = False

    @property
    def rate(self) -> int:
        return int(self._said["rate"])

    @property
    def lacks(self) -> list[Any]:
        return list(self._said["lacks"])

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def lives(self) -> bool:
        return self._process.poll() is None

    @property
    def _said(self) -> Mapping[str, Any]:
        assert self._hello is not None
        return self._hello

    def wait_ready(self) -> None:
        """Block until it is loaded; raises Refused (MODEL) if it cannot be."""
        self._line.settimeout(_START_SECONDS)
        try:
            while (frame := self._frames.take()) is None:
                data = self._line.recv(_READ_BYTES)
                if not data:
                    raise _died("while it was loaded")
                self._frames.feed(data)
        except TimeoutError:
            raise _late("be loaded", _START_SECONDS) from None
        except OSError:
            raise _died("while it was loaded") from None
        self._line.setblocking(False)  # noqa: FBT003 - the library's signature
        self._greeted(*frame)

    async def ready(self) -> None:
        """The same, without blocking."""
        if self._hello is None:
            self._line.setblocking(False)  # noqa: FBT003 - the library's signature
            self._greeted(*await self._next("be loaded", _START_SECONDS))

    async def say(self, order: bytes) -> AsyncGenerator[bytes, None]:
        """The sound of it as it is made. Raises Refused (MODEL) if the process fails or ends."""
        self._speaking = True
        try:
            await asyncio.get_running_loop().sock_sendall(self._line, wire.framed(wire.SAY, order))
        except OSError:
            raise _died("before it could make a sound") from None
        while True:
            letter, content = await self._next("make a sound", _SILENT_SECONDS)
            if letter == wire.AUDIO:
                yield content + self._frames.take_all(wire.AUDIO)
                continue
            self._speaking = False
            if letter == wire.FAILED:
                raise Refused(Kind.MODEL, content.decode())
            return

    async def stop(self) -> bool:
        """Let it say nothing more; False if it does not obey at once."""
        if not self._speaking:
            return True
        try:
            async with timeout(_STOP_SECONDS):
                loop = asyncio.get_running_loop()
                await loop.sock_sendall(self._line, wire.framed(wire.STOP))
                while (await self._next("stop", _STOP_SECONDS))[0] not in (wire.END, wire.FAILED):
                    pass
        except (TimeoutError, Refused, OSError):
            return False
        self._speaking = False
        return True

    def end(self) -> None:
        """End the process, whatever it does. Nobody asks it any more."""
        self._line.close()
        self.cut()

    def cut(self) -> None:
        """End the process, whatever it does: whoever asks it learns that it has ended, and then lets it `end`."""
        self._process.kill()
        try:
            self._process.wait(_END_SECONDS)
        except subprocess.TimeoutExpired:
            _log.warning("the voice's process %d does not end", self.pid)

    def _greeted(self, letter: bytes, content: bytes) -> None:
        if letter != wire.HELLO:
            raise Refused(Kind.MODEL, content.decode(errors="replace"))
        self._hello = json.loads(content)

    async def _next(self, what: str, seconds: float) -> tuple[bytes, bytes]:
        try:
            frame = self._frames.take()
            if frame is not None:
                return frame
            loop = asyncio.get_running_loop()
            async with timeout(seconds):
                while frame is None:
                    data = await loop.sock_recv(self._line, _READ_BYTES)
                    if not data:
                        raise _died(f"before it could {what}")
                    self._frames.feed(data)
                    frame = self._frames.take()
        except TimeoutError:
            raise _late(what, seconds) from None
        except (OSError, wire.Garbled):
            raise _died(f"before it could {what}") from None
        return frame


def _started(line: socket.socket) -> subprocess.Popen[bytes]:
    line.set_inheritable(True)
    return subprocess.Popen(  # noqa: S603 - our own module
        (sys.executable, "-m", "fairlead.engines.speech.process", str(line.fileno())),
        pass_fds=(line.fileno(),),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
    )


def _died(when: str) -> Refused:
    return Refused(Kind.MODEL, f"the voice's process ended {when}; its log may say why")


def _unloaded() -> Refused:
    return Refused(Kind.UNAVAILABLE, "the voice is being unloaded")


def _late(what: str, seconds: float) -> Refused:
    return Refused(Kind.MODEL, f"the voice did not {what} within {seconds:g} s")


class Voices:
    """All processes of one artifact, `limit` at most; one is always there. Belongs to one event loop."""

    def __init__(self, order: Mapping[str, Any], limit: int) -> None:
        self._order = json.dumps(order).encode()
        self._places = asyncio.Semaphore(limit)
        self._all: set[Voice] = set()
        self._idle: list[Voice] = []
        self._closed = False
        self._said = 0  # texts since memory was given back
        first = self._start()
        try:
            first.wait_ready()
        except BaseException:
            self.close()
            raise
        self.rate, self.lacks = first.rate, first.lacks

    @property
    def pids(self) -> list[int]:
        return [one.pid for one in self._all]

    @contextlib.asynccontextmanager
    async def saying(self, order: bytes) -> AsyncIterator[AsyncGenerator[bytes, None]]:
        """The sound of one text; leaving the context ends the synthesis.

        Raises Refused: UNAVAILABLE if the voice is closed, before its turn or while it speaks.
        """
        async with self._places:
            voice = self._take()
            whole = False
            try:
                await voice.ready()
                async with contextlib.aclosing(voice.say(order)) as sound:
                    yield sound
                whole = await voice.stop()
            except Refused:
                if self._closed:
                    raise _unloaded() from None
                raise
            finally:
                # Cancelled, it is given the moment it needs to stop; a second cancellation ends it.
                try:
                    whole = whole or await voice.stop()
                finally:
                    self._give_back(voice, alive=whole)
        self._said += 1
        if self._said >= _TEXTS_BETWEEN and len(self._idle) == len(self._all):
            self._said = 0
            await asyncio.to_thread(memory.give_back)

    def close(self) -> None:
        """End every process; whoever speaks or waits for his turn is refused."""
        self._closed = True
        for voice in self._all:
            if voice in self._idle:
                voice.end()
            else:
                voice.cut()
        self._all.clear()
        self._idle.clear()
        self._places.release()  # who waits first finds it closed, and leaves the place to the next

    def _start(self) -> Voice:
        voice = Voice(self._order)
        self._all.add(voice)
        self._idle.append(voice)
        return voice

    def _take(self) -> Voice:
        """One that is idle, or a new one: whoever has a place finds either. Raises Refused."""
        if self._closed:
            raise _unloaded()
        while True:
            if not self._idle:
                self._start()
            voice = self._idle.pop()  # the one that spoke last is warm
            if voice.lives:
                return voice
            self._replace(voice)

    def _give_back(self, voice: Voice, *, alive: bool) -> None:
        if self._closed:
            voice.end()
        elif alive:
            self._idle.append(voice)
        else:
            self._replace(voice)

    def _replace(self, voice: Voice) -> None:
        self._all.discard(voice)
        voice.end()
        try:
            self._start()
        except Refused as error:  # whoever asks next tries again
            _log.error("%s", error.message)
