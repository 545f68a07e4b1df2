"""Sound as it goes over the wire, a piece at a time: MP3, WAV, Opus and bare samples, one channel of 24 kHz.

LAME and FFmpeg's libraries (PyAV) come with the extra `speech`. MP3 at 24 kHz is MPEG-2 Layer III, which knows no more
than 160 kbit/s: that is what asking for 192 gives everywhere, and so what is asked for here.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt

from fairlead.domain.errors import Kind, Refused

if TYPE_CHECKING:
    import av

RATE = 24_000
MP3_KILOBITS = 160
_OPUS_BITS = 48_000
_QUALITY = 5  # of LAME: 2 takes four times as long for what nobody hears in speech
_BITS = 16
_UNKNOWN_LENGTH = 0xFFFFFFFF  # what a WAV header says whose end is not known yet
_PAGE_MICROSECONDS = "100000"  # of Ogg: a page that waits for a whole second is no stream
_MISSING = "cannot be made here: install the extra, pip install 'fairlead[speech]'"

Samples = npt.NDArray[np.int16]


class Encoder(Protocol):
    """One stream's encoder; used by one thread at a time."""

    def encode(self, samples: Samples) -> bytes:
        """What can be sent so far; may be empty."""
        ...

    def finish(self) -> bytes:
        """What is left."""
        ...


@dataclass(frozen=True, slots=True)
class Format:
    """A form of sound: its content type, and what makes it of samples at a rate."""

    name: str
    content_type: str
    encoder: Callable[[int], Encoder]


class _Resampler:
    """Samples at the voice's rate to RATE."""

    def __init__(self, rate: int) -> None:
        import av  # noqa: PLC0415 - an extra, and not small

        self._rate = rate
        self._position = 0
        self._inner = av.AudioResampler(format="s16", layout="mono", rate=RATE)

    def resample(self, samples: Samples) -> Samples:
        if not samples.size:
            return samples
        frame = _frame(samples, self._rate, self._position)
        self._position += samples.size
        return _joined(self._inner.resample(frame))

    def rest(self) -> Samples:
        return _joined(self._inner.resample(None)) if self._position else np.zeros(0, np.int16)


def _frame(samples: Samples, rate: int, position: int) -> av.AudioFrame:
    import av  # noqa: PLC0415 - as above

    frame = av.AudioFrame.from_ndarray(
        np.ascontiguousarray(samples)[None], format="s16", layout="mono"
    )
    frame.sample_rate = rate
    frame.pts = position
    return frame


def _joined(frames: list[av.AudioFrame]) -> Samples:
    if not frames:
        return np.zeros(0, np.int16)
    return np.concatenate([frame.to_ndarray()[0] for frame in frames]).astype(np.int16, copy=False)


class Pcm:
    """Bare samples: 16 bits, little-endian."""

    def __init__(self, rate: int) -> None:
        self._resampler = _Resampler(rate)

    def encode(self, samples: Samples) -> bytes:
        return self._resampler.resample(samples).astype("<i2", copy=False).tobytes()

    def finish(self) -> bytes:
        return self._resampler.rest().astype("<i2", copy=False).tobytes()


class Wav(Pcm):
    """The same behind a header that leaves the length open."""

    def __init__(self, rate: int) -> None:
        super().__init__(rate)
        self._header = struct.pack(
            "<4sI4s4sIHHIIHH4sI",
            *(b"RIFF", _UNKNOWN_LENGTH, b"WAVE", b"fmt ", 16, 1, 1, RATE),
            *(RATE * _BITS // 8, _BITS // 8, _BITS, b"data", _UNKNOWN_LENGTH),
        )

    def encode(self, samples: Samples) -> bytes:
        head, self._header = self._header, b""
        return head + super().encode(samples)

    def finish(self) -> bytes:
        head, self._header = self._header, b""
        return head + super().finish()


class Mp3:
    """MPEG-2 Layer III by LAME."""

    def __init__(self, rate: int) -> None:
        import lameenc  # type: ignore[import-not-found] # noqa: PLC0415 - an extra; it ships no types

        self._resampler = _Resampler(rate)
        self._lame = lameenc.Encoder()
        self._lame.set_channels(1)
        self._lame.set_in_sample_rate(RATE)
        self._lame.set_bit_rate(MP3_KILOBITS)
        self._lame.set_quality(_QUALITY)
        self._lame.silence()
        self._begun = False

    def encode(self, samples: Samples) -> bytes:
        return self._lamed(self._resampler.resample(samples))

    def finish(self) -> bytes:
        last = self._lamed(self._resampler.rest())
        return last + bytes(self._lame.flush()) if self._begun else b""

    def _lamed(self, samples: Samples) -> bytes:
        if not samples.size:
            return b""
        self._begun = True
        return bytes(self._lame.encode(samples.tobytes()))


class _Written:
    """The file that an Ogg stream is written to: what has come since it was last taken."""

    def __init__(self) -> None:
        self._bytes = bytearray()

    def write(self, data: bytes) -> int:
        self._bytes += data
        return len(data)

    def take(self) -> bytes:
        taken = bytes(self._bytes)
        self._bytes.clear()
        return taken


class Opus:
    """Opus in Ogg, by libopus."""

    def __init__(self, rate: int) -> None:
        import av  # noqa: PLC0415 - an extra, and not small

        self._resampler = _Resampler(rate)
        self._written = _Written()
        self._container: Any = av.open(
            self._written,
            "w",
            format="ogg",
            options={"page_duration": _PAGE_MICROSECONDS, "flush_packets": "1"},
        )
        self._stream = self._container.add_stream("libopus", rate=RATE)
        self._stream.layout = "mono"
        self._stream.bit_rate = _OPUS_BITS
        self._position = 0

    def encode(self, samples: Samples) -> bytes:
        self._mux(self._resampler.resample(samples))
        return self._written.take()

    def finish(self) -> bytes:
        self._mux(self._resampler.rest())
        for packet in self._stream.encode(None):
            self._container.mux(packet)
        self._container.close()
        return self._written.take()

    def _mux(self, samples: Samples) -> None:
        if not samples.size:
            return
        frame = _frame(samples, RATE, self._position)
        self._position += samples.size
        for packet in self._stream.encode(frame):
            self._container.mux(packet)


def warm() -> None:
    """Load the libraries, which takes a tenth of a second, before anybody waits for it."""
    for name in ("mp3", "opus"):
        encoder = FORMATS[name].encoder(RATE)
        encoder.encode(np.zeros(RATE // 10, np.int16))
        encoder.finish()


def _or_say(name: str, encoder: Callable[[int], Encoder]) -> Callable[[int], Encoder]:
    def make(rate: int) -> Encoder:
        try:
            return encoder(rate)
        except ImportError:
            raise Refused(Kind.UNAVAILABLE, f"{name} {_MISSING}") from None

    return make


FORMATS: Mapping[str, Format] = {
    name: Format(name, content_type, _or_say(name, encoder))
    for name, content_type, encoder in (
        ("mp3", "audio/mpeg", Mp3),
        ("wav", "audio/wav", Wav),
        ("opus", "audio/ogg; codecs=opus", Opus),
        ("pcm", f"audio/pcm; rate={RATE}", Pcm),
    )
}
