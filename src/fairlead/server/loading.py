"""From an artifact on disk to a model that has proved itself.

Every file is checked against the manifest before anything is loaded; then the model is loaded, answers
its golden examples, and is timed: tensors through a graph that takes microseconds may go onto the event
loop later. A code-only model may not, however quick its examples are: how long its code runs depends on
what it is asked, and on the event loop a long run would stop everything, `/livez` included.
"""

from __future__ import annotations

import asyncio
import hashlib
import inspect
import json
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from fairlead.api.inference import InferRequest, Model
from fairlead.dialects import project
from fairlead.domain.batching import Batching
from fairlead.domain.errors import FairleadError, Kind, Refused
from fairlead.domain.golden import Example, Golden, golden_from_bytes
from fairlead.domain.manifest import MANIFEST, Manifest, manifest_from_bytes
from fairlead.domain.measured import Conditions, Measured
from fairlead.domain.signature import DocumentSignature, TensorSignature
from fairlead.engines.loading import load_model
from fairlead.engines.pickles import check_files
from fairlead.engines.proof import differences, prove, request_of
from fairlead.engines.sharing import cannot_share, infer_of
from fairlead.kits.clock import Clock
from fairlead.server.measuring import Measuring, Record, cores
from fairlead.server.threads import Threads

INLINE_LIMIT_MICROSECONDS = 50.0  # above it, waiting requests feel the run of another
_INLINE_ROOM = 4  # how much larger than the largest golden example a request may be to run inline
_SMALLEST_ROOM_BYTES = 4096
_RUNS = 50
_TIMING_SECONDS = 0.1  # per example: a slow model is not run 50 times
_MOST_THREADS = 32  # that run one model
_FEW_THREADS = 4
_CHUNK_BYTES = 1024 * 1024
_LAST_RUN_SECONDS = 5.0  # a run that nobody waits for any more may take so long to end
LOOK_AGAIN_SECONDS = 0.01
_LIBRARIES = {"onnx": "onnxruntime"}


class Damaged(Refused):
    """An artifact on disk is not what its manifest says."""

    def __init__(self, message: str) -> None:
        super().__init__(Kind.CONFLICT, message)


@dataclass(frozen=True, slots=True)
class Profile:
    """How long a golden example takes, and what may therefore run on the event loop."""

    run_microseconds: float
    inline: bool
    inline_elements: int
    inline_bytes: int


@dataclass(slots=True)
class LoadedArtifact:
    """A proved model, its threads, and what is known of it.

    `sample` and `example` are its first golden example: as a request, and as the project API would be sent it.
    `busy` counts runs in threads; `measured` says what batching gains, None if nobody needs to know.
    """

    directory: Path
    manifest: Manifest
    digest: str
    model: Model
    threads: Threads
    profile: Profile
    sample: InferRequest
    example: Any
    busy: int = 0
    measured: Measured | None = None

    @property
    def on_loop(self) -> bool:
        """Does it run on the event loop, at least when it is asked little?"""
        return self.profile.inline or inspect.iscoroutinefunction(self.model.infer)

    def close(self) -> None:
        """Free what it holds, once the last run is over; takes milliseconds for a large one."""
        self.threads.close()
        self.model.close()


async def unload(artifacts: Sequence[LoadedArtifact], clock: Clock) -> None:
    """Close what nobody serves any more.

    A run whose caller has left holds its model still: it is waited for, but not for one that hangs.
    """
    for one in artifacts:
        await asyncio.to_thread(one.close)
    stop = clock.monotonic() + _LAST_RUN_SECONDS
    while clock.monotonic() < stop and not all(one.threads.over for one in artifacts):
        await clock.sleep(LOOK_AGAIN_SECONDS)


async def load_artifact(
    directory: Path,
    digest: str,
    threads: int,
    clock: Clock,
    *,
    allow_pickle: bool = False,
    measured: Path | None = None,
) -> LoadedArtifact:
    """Verify, load, prove and time; raises Damaged, or FairleadError for a model that does not do its job.

    `threads` is what one run may use, 0 as many as turn out best. What batching gains is read from the file
    `measured`, or measured now and written there.
    """
    manifest = await asyncio.to_thread(verify, directory, digest)
    if not allow_pickle:
        await asyncio.to_thread(check_files, directory, [file.path for file in manifest.files])
    golden = golden_from_bytes((directory / manifest.golden).read_bytes(), manifest.golden)
    # A plain model is loaded in a thread of its pool: some libraries want to stay in theirs.
    # Named by the digest, so that whoever sees a thread knows whose it is (`server/held.py`).
    pool = Threads(manifest.digest, 1)
    engine = f"{manifest.engine} {version(_LIBRARIES.get(manifest.engine, 'fairlead'))}"
    record = Record(measured, Conditions(cores(), threads, engine))
    known = record.read()

    def load(on: int) -> Model:
        return load_model(directory, manifest, threads=on)

    first = threads or (known.threads if known else 1)
    model = await asyncio.wrap_future(pool.submit(lambda: load(first)))
    if model.concurrent:
        pool.close()
        pool = Threads(manifest.digest, _runs_at_once(model))
    try:
        _check_signature(model, manifest)
        profile = await _proved(model, golden, pool, clock, manifest.batching)
        if known is None and _may_batch(model, manifest, profile):
            measuring = Measuring(golden, manifest.batching, load, clock)
            model, known = await measuring.of(model, pool, threads)
            record.write(known)
    except BaseException:
        pool.close()
        model.close()
        raise
    if model.concurrent:
        # Fresh ones, which start when they are needed: a model that runs on the event loop never has any.
        pool.close()
        pool = Threads(manifest.digest, _runs_at_once(model))
    example = golden.examples[0]
    return LoadedArtifact(
        directory,
        manifest,
        manifest.digest,
        model,
        pool,
        profile,
        request_of(model, example),
        project.example_body(model.signature, example.request),
        measured=known,
    )


def _runs_at_once(model: Model) -> int:
    """Of a model that several threads may call: a graph does nothing but work, code may wait for something."""
    graph = isinstance(model.signature, TensorSignature)
    return min(_MOST_THREADS, cores() if graph else max(_FEW_THREADS, 2 * cores()))


def _may_batch(model: Model, manifest: Manifest, profile: Profile) -> bool:
    """Is it worth knowing what batching gains? A run that is shorter than a hand-over gains nothing."""
    tensors = isinstance(manifest.signature, TensorSignature)
    return (
        (tensors or cannot_share(model) is None)
        and not profile.inline
        and manifest.batching.enabled is not False
    )


def _check_signature(model: Model, manifest: Manifest) -> None:
    """Tensors must be what was published; the schema of documents is words that vary with a library's version."""
    if isinstance(model.signature, TensorSignature) and model.signature != manifest.signature:
        message = "the model's tensors are not the ones in its manifest: publish it again"
        raise Refused(Kind.MODEL, message)


def verify(directory: Path, digest: str) -> Manifest:
    """Check the manifest against the digest and every file against the manifest; raises Damaged."""
    try:
        manifest = manifest_from_bytes((directory / MANIFEST).read_bytes())
    except OSError as error:
        raise Damaged(f"{directory}: {MANIFEST} cannot be read: {error.strerror}") from None
    except FairleadError as error:
        raise Damaged(f"{directory}: {error.message}") from None
    if manifest.digest != digest:
        raise Damaged(f"{directory}: {MANIFEST} has the digest {manifest.digest}, not {digest}")
    named = {file.path for file in manifest.files} | {MANIFEST}
    for path in directory.rglob("*"):
        if not path.is_dir() and path.relative_to(directory).as_posix() not in named:
            raise Damaged(f"{path} is not in the manifest: an artifact holds nothing else")
    for file in manifest.files:
        _verify_file(directory / file.path, file.size, file.sha256)
    return manifest


def _verify_file(path: Path, size: int, sha256: str) -> None:
    digest = hashlib.sha256()
    found = 0
    try:
        with path.open("rb") as file:
            while chunk := file.read(_CHUNK_BYTES):
                digest.update(chunk)
                found += len(chunk)
    except OSError as error:
        raise Damaged(f"{path} cannot be read: {error.strerror}") from None
    if found != size:
        raise Damaged(f"{path} has {found} bytes, the manifest says {size}")
    if digest.hexdigest() != sha256:
        raise Damaged(f"{path} has the SHA-256 {digest.hexdigest()}, the manifest says {sha256}")


async def _proved(
    model: Model, golden: Golden, pool: Threads, clock: Clock, batching: Batching
) -> Profile:
    requests = [request_of(model, example) for example in golden.examples]
    if inspect.iscoroutinefunction(model.infer):
        await prove(model, golden)
        return Profile(
            await _time_async(model, golden.examples[0], clock),
            inline=False,
            inline_elements=0,
            inline_bytes=0,
        )

    def in_thread() -> float:
        asyncio.run(prove(model, golden, batching))
        return max(_time(model, example, clock, batching) for example in golden.examples)

    microseconds = await asyncio.wrap_future(pool.submit(in_thread))
    inline = (
        isinstance(model.signature, TensorSignature)
        and microseconds < INLINE_LIMIT_MICROSECONDS
        # Once more on the event loop's own thread, which not every library likes.
        and not await differences(model, golden, batching)
    )
    sizes = [len(json.dumps(example.request)) for example in golden.examples]
    return Profile(
        microseconds,
        inline,
        inline_elements=_INLINE_ROOM * max(map(_elements, requests)),
        inline_bytes=max(_SMALLEST_ROOM_BYTES, _INLINE_ROOM * max(sizes)),
    )


def _time(model: Model, example: Example, clock: Clock, batching: Batching) -> float:
    """The median of some runs, in microseconds; the proof was the warm-up."""
    seconds: list[float] = []
    stop = clock.monotonic() + _TIMING_SECONDS
    infer, request = infer_of(model, batching), request_of(model, example)
    while len(seconds) < _RUNS and (not seconds or clock.monotonic() < stop):
        if seconds and isinstance(model.signature, DocumentSignature):
            request = request_of(model, example)  # code may change the document it is given
        start = clock.monotonic()
        infer(request)
        seconds.append(clock.monotonic() - start)
    return float(np.median(seconds)) * 1e6


async def _time_async(model: Model, example: Example, clock: Clock) -> float:
    """One run, in microseconds: somebody may be waiting for a model that speaks."""
    request = request_of(model, example)
    start = clock.monotonic()
    answer = model.infer(request)
    if inspect.isawaitable(answer):
        await answer
    return (clock.monotonic() - start) * 1e6


def _elements(request: InferRequest) -> int:
    return sum(tensor.size for tensor in request.tensors.values())
