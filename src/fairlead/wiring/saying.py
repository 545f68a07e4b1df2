"""Speech through the running gateway, as any client would get it: piece by piece, whole in the file or not there."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Protocol

import httpx

from fairlead.domain.catalog import Catalog
from fairlead.domain.errors import FairleadError, Kind
from fairlead.kits.clock import Clock
from fairlead.wiring.asking import Way
from fairlead.wiring.homes import Control

PATH = "/api/text_to_speech/stream"
FORMATS = {"mp3": "audio/mpeg", "wav": "audio/wav", "opus": "audio/ogg"}
_CONNECT_SECONDS = 10.0
_READ_SECONDS = 120.0  # between two pieces; a service that starts from nothing takes a while
_STREAM = "stream"
_UNKNOWN = b"\xff\xff\xff\xff"  # a length in a WAV file's head that was written before it was known
_WAV_HEAD = 44


class Sink(Protocol):
    """Where sound goes."""

    def write(self, piece: bytes, /) -> object:
        """Take the next piece."""
        ...


@dataclass(frozen=True, slots=True)
class Wish:
    """What is to be said, by whom, in which form; an empty version is the pinned line."""

    service: str
    text: str
    speaker: str
    form: str
    version: str = ""


@dataclass(frozen=True, slots=True)
class Said:
    """How it went: bytes, seconds to the first of them and to the last, and what served it."""

    received: int
    first_seconds: float
    seconds: float
    version: str


def say_to(
    control: Control | None,
    wish: Wish,
    way: Way,
    sink: Sink,
    clock: Clock,
    progress: Callable[[int, float], None],
) -> Said:
    """Let it be said into `sink`; `progress` gets bytes and seconds. Raises FairleadError with the service's words."""
    headers = {"X-Api-Key": way.key, "Accept": FORMATS[wish.form]}
    if wish.version:
        headers["Accept-Version"] = wish.version
    url = f"{way.base}{_path(control, wish.service)}"
    timeout = httpx.Timeout(_READ_SECONDS, connect=_CONNECT_SECONDS)
    body = {"speaker_id": wish.speaker, "text": wish.text}
    began, received, first = clock.monotonic(), 0, 0.0
    try:
        with httpx.stream(
            "POST", url, json=body, headers=headers, timeout=timeout, verify=way.verify
        ) as answer:
            if answer.status_code != httpx.codes.OK:
                raise _refused(answer)
            for piece in answer.iter_bytes():
                first = first or clock.monotonic() - began
                sink.write(piece)
                received += len(piece)
                progress(received, clock.monotonic() - began)
            version = answer.headers.get("x-served-version", "")
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        why = str(error) or type(error).__name__
        message = f"the sound broke off after {received} bytes" if received else "no answer"
        raise FairleadError(f"{url}: {message}: {why}", kind=Kind.UNAVAILABLE) from None
    return Said(received, first, clock.monotonic() - began, version)


@contextlib.contextmanager
def whole_file(path: Path) -> Iterator[BinaryIO]:
    """A file that is there once all of it is: written beside under another name, gone if anything goes wrong."""
    beside = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        with beside.open("xb") as file:
            yield file
        with beside.open("r+b") as file:
            _finish_wav(file)
        beside.replace(path)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise


def _finish_wav(file: BinaryIO) -> None:
    """Write the lengths that a stream could not know into a WAV file's head."""
    head = file.read(_WAV_HEAD)
    if head[:4] != b"RIFF" or head[36:40] != b"data" or _UNKNOWN not in (head[4:8], head[40:44]):
        return
    size = file.seek(0, os.SEEK_END)
    for place, before in ((4, 8), (40, _WAV_HEAD)):
        file.seek(place)
        file.write((size - before).to_bytes(4, "little"))


def _path(control: Control | None, service: str) -> str:
    """Where this service speaks: a path of its endpoint `stream`."""
    catalog = control.catalogs.read() if control else Catalog()
    known = catalog.services.get(service)
    if known is None:
        if catalog.services:
            catalog.service(service)  # says which there are
        return PATH
    paths = [
        path
        for revision in known.lines[known.pin.line].live()
        for endpoint in revision.endpoints
        if endpoint.name == _STREAM
        for path in endpoint.paths
    ]
    if not paths:
        message = f"service {service!r} has no endpoint {_STREAM!r} with a path of its own: it does not speak"
        raise FairleadError(message, kind=Kind.NOT_FOUND)
    return (
        PATH if PATH in paths else next((one for one in paths if one.endswith("/stream")), paths[0])
    )


def _refused(answer: httpx.Response) -> FairleadError:
    answer.read()
    code = answer.headers.get("x-error-code", "")
    kind = Kind(code) if code in set(Kind) else Kind.INVALID
    message = answer.text.strip() or f"{answer.status_code} {answer.reason_phrase}"
    with contextlib.suppress(ValueError, AttributeError):
        document = answer.json()
        said = document.get("message") or document.get("error")
        message = str(said) if said else message
        message += f" ({document['code']})" if document.get("code") else ""
    return FairleadError(message, kind=kind)
