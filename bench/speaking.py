"""Asking for sound: one stream timed piece by piece, whose sound it is, and the node that is asked."""

import json
import random
import socket
import string
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException, HTTPResponse
from pathlib import Path
from time import perf_counter, sleep
from typing import Any

import numpy as np

from bench import load, ours, processes
from bench.subject import HOST, ROOT, Failed
from fairlead.engines.speech.tone import CHUNK_SECONDS, RATE, SECONDS_PER_CHARACTER, pitch_of

PACE = 4.0  # seconds of sound that the humming voice makes in a second: a tick every 5 ms
PCM, MP3 = "audio/pcm", "audio/mpeg"
BYTES_PER_SECOND = RATE * 2  # of PCM
_VOICE = "fairlead.engines.speech.process"
_ANSWER_SECONDS = 60.0
_START_SECONDS = 60.0
_APPLY_SECONDS = 60.0
_PIECE = 65536
_HERTZ_OFF = 13.0  # half a step of the humming voice's pitches


@dataclass(frozen=True)
class Stream:
    """A stream that came whole: its sound, and when each piece of it came, in seconds since it was asked for."""

    sound: bytes
    times: tuple[float, ...]
    version: str  # that served it

    @property
    def gaps(self) -> list[float]:
        """Seconds between two pieces."""
        return [after - before for before, after in zip(self.times, self.times[1:], strict=False)]


class _Unix(HTTPConnection):
    """HTTP over a worker's own socket."""

    def __init__(self, path: Path, seconds: float) -> None:
        super().__init__("worker", timeout=seconds)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


@dataclass(frozen=True)
class Caller:
    """Who asks: through the gateway with a key, or a worker at its own socket."""

    port: int
    key: str
    worker: Path | None = None

    def connection(self) -> HTTPConnection:
        if self.worker is not None:
            return _Unix(self.worker, _ANSWER_SECONDS)
        return HTTPConnection(HOST, self.port, timeout=_ANSWER_SECONDS)

    def stream(self, path: str, text: str, accept: str = PCM, speaker: int = 0) -> Stream:
        """The whole of it; raises Failed if it is refused or cut."""
        with self._asked(path, text, accept, speaker) as (answer, began):
            pieces, times = [], []
            while piece := answer.read1(_PIECE):
                times.append(perf_counter() - began)
                pieces.append(piece)
            version = answer.headers["x-served-version"] or ""
        if not times:
            raise Failed("a stream without a byte")
        return Stream(b"".join(pieces), tuple(times), version)

    def first_byte(self, path: str, text: str, accept: str = MP3, speaker: int = 0) -> float:
        """Seconds until its first byte is here; then the caller leaves."""
        with self._asked(path, text, accept, speaker) as (answer, began):
            if not answer.read(1):
                raise Failed("a stream without a byte")
            return perf_counter() - began

    def check(self, connection: HTTPConnection, path: str, text: str) -> float:
        """Seconds until a text is found to be sayable, on a connection that is kept."""
        began = perf_counter()
        try:
            connection.request("POST", path, _body(text, 0), self._headers(PCM))
            answer = connection.getresponse()
            said = answer.read()
        except (OSError, HTTPException) as error:
            raise Failed(f"no answer: {error!r}") from None
        spent = perf_counter() - began
        if (answer.status, said) != (200, b'{"message":"OK"}'):
            raise Failed(f"status {answer.status}: {said[:200]!r}")
        return spent

    def _headers(self, accept: str) -> dict[str, str]:
        return {"X-Api-Key": self.key, "Content-Type": "application/json", "Accept": accept}

    @contextmanager
    def _asked(
        self, path: str, text: str, accept: str, speaker: int
    ) -> Iterator[tuple[HTTPResponse, float]]:
        connection = self.connection()
        began = perf_counter()
        try:
            connection.request("POST", path, _body(text, speaker), self._headers(accept))
            with connection.getresponse() as answer:
                if answer.status != 200:  # noqa: PLR2004 - HTTP's own
                    shown = answer.read(200).decode(errors="replace")
                    raise Failed(f"status {answer.status}: {shown}")
                yield answer, began
        except (OSError, HTTPException) as error:
            raise Failed(f"the stream broke: {error!r}") from None
        finally:
            connection.close()


def _body(text: str, speaker: int) -> str:
    return json.dumps({"speaker_id": speaker, "text": text})


def texts(count: int, least: int) -> list[str]:
    """Texts for the humming voice, each of a length and a pitch of its own; the first has `least` letters."""
    found: list[str] = []
    dice = random.Random(count)
    while len(found) < count:
        text = "".join(dice.choices(string.ascii_lowercase, k=least + len(found)))
        if pitch_of(text) not in {pitch_of(one) for one in found}:
            found.append(text)
    return found


def wrong(text: str, sound: bytes) -> str:
    """What is wrong with this PCM as the humming voice's sound of that text; empty if nothing is."""
    samples = np.frombuffer(sound[: len(sound) // 2 * 2], "<i2")
    wanted = round(SECONDS_PER_CHARACTER * len(text) / CHUNK_SECONDS) * round(RATE * CHUNK_SECONDS)
    if len(samples) != wanted:
        return f"{len(samples)} samples instead of {wanted}"
    spectrum = np.abs(np.fft.rfft(samples * np.hanning(len(samples))))
    hertz = float(np.argmax(spectrum)) * RATE / len(samples)
    if abs(hertz - pitch_of(text)) > _HERTZ_OFF:
        return f"{hertz:.0f} Hz instead of {pitch_of(text)}"
    return ""


class Node:
    """A home with the example's voice and one that hums, and `fairlead up` on it."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.home = folder, folder / "fairlead"
        self.models = folder / "models"
        _copy(ROOT / "examples" / "speech" / "1", self.models / "speech" / "1")
        hum = self.models / "hum" / "1"
        hum.mkdir(parents=True)
        speakers = [{"name": "Ada", "voice": "hum", "language": "en-us"}]
        voice = {"synthesizer": "tone", "settings": {"pace": PACE}, "speakers": speakers}
        request = {"speaker_id": 0, "text": "hm"}
        proof = {"request": request, "response": {"seconds": 0.12, "loudness": -15.257}}
        (hum / "model.yaml").write_text("name: hum\nversion: 1\nengine: speech\n")
        (hum / "voice.json").write_text(json.dumps(voice))
        (hum / "golden.json").write_text(json.dumps({"examples": [proof]}))
        self.port = processes.free_ports()[0]
        self.key = ours.make_key(self.home, folder / "key")

    @property
    def caller(self) -> Caller:
        return Caller(self.port, self.key)

    def release(
        self, service: str, artifact: str, revision: int, **endpoints: Mapping[str, Any]
    ) -> Path:
        """The file of a revision of line v1 that takes all its traffic; its paths are below its own name."""
        names = {"stream": "stream", "validate": "input_validated"}
        document: dict[str, Any] = {
            "service": service,
            "model": "v1",
            "version": str(revision),
            "artifact": artifact,
            "traffic": [{"tag": str(revision), "percent": 100}],
            **{
                name: {"paths": [f"/{service}/{names[name]}"], "timeoutSeconds": 120, **scale}
                for name, scale in endpoints.items()
            },
        }
        path = self.folder / f"release-{service}-v1.{revision}.json"
        path.write_text(json.dumps(document))
        return path

    @contextmanager
    def up(
        self, releases: list[Path], environment: Mapping[str, str], paths: Mapping[str, str]
    ) -> Iterator[processes.Tree]:
        """Serve these; it runs once each of the paths has streamed its text. Raises Failed."""
        command = ours.fairlead("up", *releases, "--home", self.home, "--port", str(self.port))
        command += ["--models", str(self.models)]
        with processes.started(command, environment, self.folder / "log") as tree:
            until = perf_counter() + _START_SECONDS
            for path, text in paths.items():
                self._wait(tree, path, text, until)
            yield tree

    def _wait(self, tree: processes.Tree, path: str, text: str, until: float) -> None:
        while True:
            try:
                self.caller.stream(path, text)
            except Failed as error:
                if tree.has_ended or perf_counter() > until:
                    raise load.did_not_start(tree, error) from None
                sleep(0.1)
            else:
                return

    def apply(self, release: Path) -> None:
        """Release it, as a person does; raises Failed."""
        command = ours.fairlead("apply", release, "--home", self.home)
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, timeout=_APPLY_SECONDS
        )
        if done.returncode:
            raise Failed(f"apply: {(done.stderr or done.stdout).strip()}")

    def speaking(self, tree: processes.Tree) -> tuple[int, int, int]:
        """How many workers that serve something, how many voices, and how many workers kept in reserve."""
        serving = {one["pid"] for one in self._status()["replicas"]}
        workers = voices = reserve = 0
        for one in tree.members():
            words = processes.command_line(one)
            voices += _VOICE in words
            if "fairlead" in words and "worker" in words:
                kept = "--spare" in words and one.pid not in serving
                workers, reserve = workers + (not kept), reserve + kept
        return workers, voices, reserve

    def _status(self) -> Any:
        return json.loads((self.home / "node" / "status.json").read_bytes())

    def worker(self, service: str, endpoint: str) -> Caller:
        """A caller of the first worker of an endpoint, past the gateway."""
        for one in self._status()["replicas"]:
            mine = one["revision"]["service"] == service and one["state"] == "ready"
            if mine and one.get("endpoint", "") in ("", endpoint):
                return Caller(self.port, self.key, Path(one["socket"]))
        raise Failed(f"no worker of {service} is ready")


def _copy(source: Path, target: Path) -> None:
    target.mkdir(parents=True)
    for file in source.iterdir():
        if file.is_file():
            (target / file.name).write_bytes(file.read_bytes())
