"""The process of one voice: `python -m fairlead.engines.speech.process FD`.

It loads one synthesizer, then says what it is told, one text after another, and ends when its worker is gone. A
synthesizer hands over sound as it makes it; handing over blocks while the worker does not read, and says when to stop.
"""

from __future__ import annotations

import json
import select
import signal
import socket
import sys
from collections.abc import Callable, Mapping
from typing import Any

from fairlead.engines.speech import wire
from fairlead.engines.speech.synthesizer import Cannot, Synthesizer

_READ_BYTES = 64 * 1024


class _Line:
    """The worker, as a synthesizer sees it."""

    def __init__(self, line: socket.socket) -> None:
        self._line = line
        self._frames = wire.Frames()
        self.stopped = False

    def next(self) -> tuple[bytes, bytes] | None:
        """The next frame; None if the worker is gone."""
        while (frame := self._frames.take()) is None:
            data = self._line.recv(_READ_BYTES)
            if not data:
                return None
            self._frames.feed(data)
        return frame

    def tell(self, letter: bytes, content: bytes = b"") -> None:
        self._line.sendall(wire.framed(letter, content))

    def __call__(self, samples: bytes) -> bool:
        if samples and not self.wait(0):
            return False
        if samples:
            self.tell(wire.AUDIO, samples)
        return not self.stopped

    def wait(self, seconds: float) -> bool:
        """What the worker says during a synthesis can only be that it shall end."""
        if not self.stopped and select.select([self._line], [], [], seconds)[0]:
            frame = self.next()
            if frame is None:
                raise ConnectionResetError("the worker is gone")
            self.stopped = frame[0] == wire.STOP
        return not self.stopped


def _espeak(order: Mapping[str, Any]) -> Synthesizer:
    from fairlead.engines.speech.espeak import Espeak  # noqa: PLC0415 - only the one that is asked for

    return Espeak(order)


def _sherpa(order: Mapping[str, Any]) -> Synthesizer:
    from fairlead.engines.speech.sherpa import Sherpa  # noqa: PLC0415 - as above

    return Sherpa(order)


def _tone(order: Mapping[str, Any]) -> Synthesizer:
    from fairlead.engines.speech.tone import Tone  # noqa: PLC0415 - as above

    return Tone(order)


SYNTHESIZERS: Mapping[str, Callable[[Mapping[str, Any]], Synthesizer]] = {
    "espeak-ng": _espeak,
    "sherpa-onnx": _sherpa,
    "tone": _tone,
}


def serve(line: socket.socket) -> None:
    """Load what the worker says, then say what it says, until it is gone."""
    worker = _Line(line)
    first = worker.next()
    if first is None:
        return
    order = json.loads(first[1])
    try:
        voice = SYNTHESIZERS[order["synthesizer"]](order)
        hello = {"rate": voice.rate, "lacks": voice.lacks(order["voices"])}
    except Cannot as error:
        worker.tell(wire.FAILED, str(error).encode())
        return
    worker.tell(wire.HELLO, json.dumps(hello).encode())
    while (frame := worker.next()) is not None:
        if frame[0] != wire.SAY:
            continue  # a STOP that crossed our END
        worker.stopped = False
        try:
            voice.say(json.loads(frame[1]), worker)
        except Cannot as error:
            worker.tell(wire.FAILED, str(error).encode())
        else:
            worker.tell(wire.END)


def main() -> None:
    """The worker tells us to end by going away, and lets its last listeners finish: signals are for it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    with socket.socket(fileno=int(sys.argv[1])) as line:
        line.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, wire.BUFFER_BYTES)
        try:
            serve(line)
        except (BrokenPipeError, ConnectionResetError):
            return


if __name__ == "__main__":
    main()
