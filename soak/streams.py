"""Streams of speech with listeners who leave: `python soak/streams.py [--minutes 60] [--seed 1]` (`make streams`).

Starts `fairlead up` with the speech example in a home of its own. Listeners ask through the gateway, for texts, forms
and speakers at random; half of them leave somewhere in the middle, some read slowly. Whoever stays must get all of the
sound: bare samples are compared with what the same text gave before, and every form must end cleanly. Every half minute all come to rest: then
nothing may be in progress, no voice may use the processor, and memory, processes and descriptors must be what they were. Exits with 0 if all that holds, 1 if not, 2 if it could not run. Ctrl-C ends it in order.
"""

import argparse
import asyncio
import contextlib
import json
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import psutil

ROOT = Path(__file__).resolve().parent.parent
_STREAM = "/api/text_to_speech/stream"
_FORMS = ("audio/mpeg", "audio/ogg", "audio/wav", "audio/pcm")
_SPEAKERS = (0, 3, 4, 5, 6)
_SENTENCE = "The harbour is calm this morning, and the ferry leaves at nine. "
_LISTENERS = 4
_LEAVE, _SLOW = 0.5, 0.1  # of all listeners
_FEWEST_RESTS = 2
_LOAD_SECONDS = 30.0
_READY_SECONDS = 60.0
_REST_SECONDS = 60.0  # what is stuck never rests; a crowded machine takes its time
_MIB = 1 << 20
_GROWTH_BYTES = 8 * _MIB  # of all processes together
_BREATH = 8  # descriptors of connections that are kept for a while
_DIFFERENCE = 0.02  # of two readings of the same text


@dataclass
class Book:
    """What happened."""

    whole: int = 0
    left: int = 0
    seconds_of_sound: float = 0.0
    problems: list[str] = field(default_factory=list)
    lengths: dict[tuple[int, int], int] = field(
        default_factory=dict
    )  # bytes of samples, by speaker and sentences


@dataclass(frozen=True)
class Rest:
    """All processes while nobody asks: private bytes by what they are."""

    private: Mapping[str, int]
    processes: int
    descriptors: int

    @property
    def private_bytes(self) -> int:
        return sum(self.private.values())

    def __str__(self) -> str:
        parts = ", ".join(f"{name} {size / _MIB:.1f}" for name, size in self.private.items())
        return f"{self.private_bytes / _MIB:.1f} MiB ({parts}), {self.processes} processes, {self.descriptors} descriptors"


class Subject:
    """One `fairlead up`."""

    def __init__(self, folder: Path) -> None:
        self.home = folder / "home"
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        models = folder / "models"
        build = (
            sys.executable,
            str(ROOT / "examples" / "build.py"),
            "--out",
            str(models),
            "speech",
        )
        subprocess.run(build, check=True, stdout=subprocess.DEVNULL)
        release = ROOT / "examples" / "speech" / "release-v1.1.yaml"
        command = (sys.executable, "-m", "fairlead", "up", str(release), "--home", str(self.home))
        self._log = folder / "up.log"
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                (*command, "--models", str(models), "--port", str(port)),
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        end = time.monotonic() + _READY_SECONDS
        while "Ready after" not in self._log.read_text():
            if time.monotonic() > end or self._process.poll() is not None:
                self.stop()
                raise RuntimeError(f"it was not ready:\n{self._log.read_text()}")
            time.sleep(0.1)
        self.key = (self.home / "demo-key").read_text().strip()

    def tree(self) -> list[psutil.Process]:
        root = psutil.Process(self._process.pid)
        return [root, *root.children(recursive=True)]

    def stop(self) -> int:
        """The exit code."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGINT)
        return self._process.wait(60)


class Listeners:
    """All who listen, until told to stop."""

    def __init__(self, subject: Subject, book: Book, seed: int) -> None:
        self._subject = subject
        self._book = book
        self._random = random.Random(seed)

    async def listen(self, seconds: float) -> None:
        """Ask for so long; then everybody has ended."""
        end = time.monotonic() + seconds
        async with asyncio.TaskGroup() as group:
            for _ in range(_LISTENERS):
                group.create_task(self._listener(end))

    async def _listener(self, end: float) -> None:
        headers = {"x-api-key": self._subject.key}
        async with httpx.AsyncClient(
            base_url=self._subject.url, headers=headers, timeout=60
        ) as client:
            while time.monotonic() < end:
                try:
                    await self._stream(client)
                except (httpx.HTTPError, OSError) as error:
                    self._book.problems.append(f"{type(error).__name__}: {error}")

    async def _stream(self, client: httpx.AsyncClient) -> None:
        dice = self._random
        speaker, sentences, form = dice.choice(_SPEAKERS), dice.randint(1, 40), dice.choice(_FORMS)
        leaves_after = dice.choice((1, 50_000, 300_000)) if dice.random() < _LEAVE else None
        slowly = dice.random() < _SLOW
        body = {"speaker_id": speaker, "text": _SENTENCE * sentences}
        taken = 0
        async with client.stream("POST", _STREAM, json=body, headers={"accept": form}) as answer:
            if answer.status_code != httpx.codes.OK:
                await answer.aread()
                self._book.problems.append(f"{answer.status_code}: {answer.text[:200]}")
                return
            async for piece in answer.aiter_raw():
                taken += len(piece)
                if leaves_after is not None and taken > leaves_after:
                    self._book.left += 1
                    return
                if slowly:
                    await asyncio.sleep(0.01)
        self._book.whole += 1
        if form == "audio/pcm":
            self._compare((speaker, sentences), taken)

    def _compare(self, which: tuple[int, int], taken: int) -> None:
        before = self._book.lengths.setdefault(which, taken)
        self._book.seconds_of_sound += taken / 48_000
        if abs(before - taken) > _DIFFERENCE * before:
            self._book.problems.append(f"{which}: {taken} bytes, before it was {before}")


async def rest(subject: Subject, book: Book) -> Rest | None:
    """Wait until nothing is worked on; None, and a problem, if that does not come."""
    end = time.monotonic() + _REST_SECONDS
    headers = {"x-api-key": subject.key}
    async with httpx.AsyncClient(base_url=subject.url, headers=headers, timeout=10) as client:
        while time.monotonic() < end:
            text = (await client.get("/metrics")).text
            lines = [
                one for one in text.splitlines() if one.startswith("fairlead_requests_in_progress{")
            ]
            busy = [one for one in lines if 'service="speech"' in one and not one.endswith(" 0.0")]
            if lines and not busy and await _still(subject):
                return _look(subject)
            await asyncio.sleep(0.2)
    book.problems.append(
        f"no rest within {_REST_SECONDS:g} s: a stream or a voice is still at work"
    )
    return None


async def _still(subject: Subject) -> bool:
    """Does no voice use the processor?"""
    voices = [one for one in subject.tree() if "fairlead.engines.speech.process" in one.cmdline()]
    before = [sum(one.cpu_times()[:2]) for one in voices]
    await asyncio.sleep(0.3)
    return before == [sum(one.cpu_times()[:2]) for one in voices]


def _look(subject: Subject) -> Rest:
    private: dict[str, int] = {}
    descriptors = count = 0
    for one in subject.tree():
        with contextlib.suppress(psutil.NoSuchProcess):
            name = _name(one.cmdline())
            private[name] = private.get(name, 0) + one.memory_full_info().uss
            descriptors += one.num_fds()
            count += 1
    return Rest(private, count, descriptors)


def _name(command: list[str]) -> str:
    """What a process is: Envoy, a voice, or the command of Fairlead's."""
    if "fairlead.engines.speech.process" in command:
        return "voice"
    if "fairlead" in command:
        return next((word for word in command[command.index("fairlead") + 1 :]), "fairlead")
    return Path(command[0]).name if command else "?"


def verdict(rests: list[Rest], book: Book) -> Iterator[str]:
    """What is not as it should be. Memory breathes from rest to rest: the least of each half is compared."""
    first, last = rests[0], rests[-1]
    half = len(rests) // 2
    before, after = (
        min(some, key=lambda one: one.private_bytes) for some in (rests[:half], rests[half:])
    )
    yield from book.problems[:20]
    if after.private_bytes - before.private_bytes > _GROWTH_BYTES:
        yield f"private memory grew: {before} in the first half, {after} in the second"
    if last.processes != first.processes:
        yield f"processes: {first.processes} at first, {last.processes} at last"
    if last.descriptors > first.descriptors + _BREATH:
        yield f"descriptors: {first.descriptors} at first, {last.descriptors} at last"
    if not book.whole or not book.left:
        yield f"{book.whole} listened to the end and {book.left} left: that proves nothing"


async def soak(subject: Subject, minutes: float, seed: int, book: Book) -> list[Rest]:
    """The rests; the first comes after a warm-up, in which every process has come up."""
    listeners = Listeners(subject, book, seed)
    end = time.monotonic() + 60 * minutes
    rests: list[Rest] = []
    while time.monotonic() < end or len(rests) < _FEWEST_RESTS:
        await listeners.listen(min(_LOAD_SECONDS, max(5.0, 60 * minutes / 4)))
        found = await rest(subject, book)
        if found is None:
            break
        rests.append(found)
        left = max(0.0, end - time.monotonic()) / 60
        print(f"{left:6.1f} min left   {found}   {book.whole} whole, {book.left} left", flush=True)
    return rests


def main() -> int:
    parser = argparse.ArgumentParser(description="Streams of speech with listeners who leave.")
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="fl-streams-"))
    book = Book()
    rests: list[Rest] = []
    try:
        subject = Subject(folder)
        try:
            rests = asyncio.run(soak(subject, arguments.minutes, arguments.seed, book))
        except KeyboardInterrupt:
            print("stopped", file=sys.stderr)
        finally:
            if subject.stop() != 0:
                book.problems.append("`fairlead up` did not end with 0")
    except (RuntimeError, OSError, subprocess.SubprocessError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    if len(rests) < _FEWEST_RESTS:
        problems = [*book.problems, "fewer than two rests: nothing can be said of memory"]
    else:
        problems = list(verdict(rests, book))
    for problem in problems:
        print(f"MISSED {problem}")
    summary = {"whole": book.whole, "left": book.left, "problems": len(problems)}
    print(json.dumps(summary))
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
