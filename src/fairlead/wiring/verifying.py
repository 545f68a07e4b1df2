"""Asking every path of release files once, as a client would (S0-16): does what was released answer?"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import httpx

from fairlead.domain.errors import FairleadError, Kind
from fairlead.domain.ids import DEFAULT_ENDPOINT
from fairlead.domain.release import Release
from fairlead.kits.clock import Clock
from fairlead.kits.timeouts import timeout
from fairlead.wiring.asking import Way, way_to
from fairlead.wiring.bumping import release_files_in
from fairlead.wiring.examples import Asking, first_example
from fairlead.wiring.homes import Control, read_releases
from fairlead.wiring.settings import shared_key

_WORKERS = 20
_SECONDS = 120.0
_SPEECH = ("stream", "validate")  # endpoints that are asked to speak
_SPOKEN = {
    "speaker_id": "4",
    "text": "Lorem ipsum",
    "consumerId": "Test",
    "consumerSource": "VerifyGKE",
}
_OPENAI = "/audio/speech"  # how OpenAI's path ends, wherever a release puts it
_WHY_BYTES = 300  # of an answer that is no success


@dataclass(frozen=True, slots=True)
class Call:
    """One request to make."""

    line: str
    path: str
    body: str


@dataclass(frozen=True, slots=True)
class Result:
    """What came of it; `status_line` is empty where nothing came, `why` where all is well."""

    call: Call
    url: str
    status_line: str
    seconds: float
    received: int
    why: str

    @property
    def right(self) -> bool:
        return not self.why


@dataclass(frozen=True, slots=True)
class Verifying:
    """What is asked, and where. `found` counts the release files there are, `silent` names those with nothing to ask."""

    way: Way
    calls: tuple[Call, ...]
    silent: tuple[str, ...]
    found: int


def prepare(
    control: Control | None, paths: Sequence[Path], only: str | None, host: str | None
) -> Verifying:
    """Read the release files and find what to ask. Raises InvalidInput, or FairleadError without key or gateway."""
    url = None if host is None else host if "://" in host else f"https://{host}"
    way = way_to(control, url, shared_key())
    read = read_releases(release_files_in(paths))
    chosen = [one for one in read if only in (None, one.release.line)]
    if not chosen:
        there = ", ".join(sorted({one.release.line for one in read}))
        raise FairleadError(f"no file is of model {only!r}; models: {there}", kind=Kind.NOT_FOUND)
    calls: dict[Call, None] = {}
    silent = []
    for one in chosen:
        found = calls_of(control, way, one.release)
        if not found:
            silent.append(one.source)
        calls.update(dict.fromkeys(found))
    return Verifying(way, tuple(calls), tuple(silent), len(read))


async def verify(
    verifying: Verifying, clock: Clock, tell: Callable[[Result], None]
) -> list[Result]:
    """Make every call, twenty at a time; `tell` gets each result as it comes."""
    turns = asyncio.Semaphore(_WORKERS)
    way = verifying.way
    limits = httpx.Limits(max_connections=_WORKERS)
    results: list[Result] = []
    async with httpx.AsyncClient(verify=way.verify, timeout=_SECONDS, limits=limits) as client:

        async def one(call: Call) -> None:
            async with turns:
                result = await _made(client, way, call, clock)
            results.append(result)
            tell(result)

        async with asyncio.TaskGroup() as group:
            for call in verifying.calls:
                group.create_task(one(call))
    return results


async def _made(client: httpx.AsyncClient, way: Way, call: Call, clock: Clock) -> Result:
    headers = {
        "Content-Type": "application/json",
        "Accept-Version": call.line,
        "X-Api-Key": way.key,
    }
    began = clock.monotonic()
    result = Result(call, f"{way.base}{call.path}", "", 0.0, 0, "no answer")
    try:
        async with (
            timeout(_SECONDS),
            client.stream("POST", result.url, content=call.body, headers=headers) as answer,
        ):
            line = f"{answer.http_version} {answer.status_code} {answer.reason_phrase}".rstrip()
            result = replace(result, status_line=line, why="the answer broke off")
            received, start = 0, b""
            async for piece in answer.aiter_bytes():
                received += len(piece)
                start = (start + piece)[:_WHY_BYTES]
            right = answer.status_code == httpx.codes.OK
            why = "" if right else start.decode(errors="replace") or "not 200"
            result = replace(result, received=received, why=why)
    except TimeoutError:
        result = replace(result, why=f"no answer after {_SECONDS:g} s")
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        result = replace(result, why=f"{result.why}: {str(error) or type(error).__name__}")
    return replace(result, seconds=clock.monotonic() - began)


def calls_of(control: Control | None, way: Way, release: Release) -> list[Call]:
    """What can be asked of a release: each of its own paths, else the service as a whole."""
    example = _example(control, release)
    # A release's own paths speak the project API, which some models have no requests in.
    sent = example if example is not None and not example.tensors else None
    found = [
        Call(
            release.line,
            path,
            _spoken(release, path) if endpoint.name in _SPEECH else json.dumps(sent and sent.body),
        )
        for endpoint in release.endpoints
        for path in endpoint.paths
        if endpoint.name in _SPEECH or sent is not None
    ]
    whole = any(
        one.name == DEFAULT_ENDPOINT and (sent is None or not one.paths)
        for one in release.endpoints
    )
    if whole and release.service and example is not None:
        path = example.path(release.service, way.root)
        found.append(Call(release.line, path, json.dumps(example.body)))
    return found


def _spoken(release: Release, path: str) -> str:
    if path.endswith(_OPENAI):
        spoken = {"model": release.service, "input": _SPOKEN["text"], "voice": "4"}
        return json.dumps(spoken)
    return json.dumps(_SPOKEN)


def _example(control: Control | None, release: Release) -> Asking | None:
    """The first golden example of what is released; None if this home does not have it."""
    if control is None or release.artifact is None:
        return None
    try:
        return first_example(control, control.artifacts.manifest(release.artifact))
    except FairleadError as error:
        if error.kind is not Kind.NOT_FOUND:
            raise
        return None
