"""Proving a worker: it must be who it should be, and answer the golden examples through the transport."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fairlead.agent.asking import WorkerClient, socket_of
from fairlead.agent.settings import AgentSettings
from fairlead.api.worker import WorkerSpec
from fairlead.domain.errors import FairleadError, Kind
from fairlead.domain.golden import Example, Golden, difference, golden_from_bytes
from fairlead.domain.manifest import MANIFEST, Manifest, manifest_from_bytes
from fairlead.domain.signature import TensorSignature
from fairlead.kits.timeouts import timeout


@dataclass(frozen=True, slots=True)
class Exam:
    """What a worker of an artifact is asked."""

    manifest: Manifest
    golden: Golden


def read_exam(directory: Path) -> Exam:
    """Read the examples of a pulled artifact; raises FairleadError if they cannot be read."""
    try:
        manifest = manifest_from_bytes(
            (directory / MANIFEST).read_bytes(), str(directory / MANIFEST)
        )
        golden = directory / manifest.golden
        return Exam(manifest, golden_from_bytes(golden.read_bytes(), str(golden)))
    except OSError as error:
        raise FairleadError(f"{error.filename}: {error.strerror}") from None


async def prove(
    spec: WorkerSpec, settings: AgentSettings, *, examples: int, fresh: bool = False
) -> int:
    """Ask a loaded worker the first `examples` golden examples; returns how many there were.

    One that is `fresh`, which nobody else has asked yet, leaves them out of its model's statistics.

    Raises FairleadError that says which example was answered how; a worker it is raised for is never
    routed. Kind UNAVAILABLE, DEADLINE or CONFLICT: nobody there answered; any other: the answer is wrong.
    """
    exam = await asyncio.to_thread(read_exam, spec.artifact)
    try:
        async with (
            timeout(settings.proof_seconds),
            WorkerClient(socket_of(spec), settings.proof_seconds) as client,
        ):
            await check_identity(client, spec)
            total = min(examples, len(exam.golden.examples))
            for number, example in enumerate(exam.golden.examples[:examples], start=1):
                wrong = await _answer(client, spec, exam, example)
                if wrong is not None:
                    message = f"golden example {number} of {total}: {wrong.message}"
                    raise FairleadError(message, kind=wrong.kind)
            if fresh:
                await client.proved()
    except TimeoutError:
        message = f"the golden examples took more than {settings.proof_seconds:g} s"
        raise FairleadError(message, kind=Kind.DEADLINE) from None
    return total


async def check_identity(client: WorkerClient, spec: WorkerSpec) -> None:
    """Raises FairleadError unless the one who answers is that worker with that artifact, loaded."""
    identity = await client.identity()
    if identity is None:
        raise FairleadError("the worker does not say who it is", kind=Kind.UNAVAILABLE)
    if (identity.worker, identity.digest) != (spec.worker, spec.digest):
        raise FairleadError(
            f"expected worker {spec.worker} with {spec.digest} on {spec.socket}, "
            f"found worker {identity.worker} with {identity.digest}",
            kind=Kind.CONFLICT,
        )
    if not identity.ready:
        raise FairleadError("the worker is not loaded any more", kind=Kind.UNAVAILABLE)


async def _answer(
    client: WorkerClient, spec: WorkerSpec, exam: Exam, example: Example
) -> FairleadError | None:
    signature = exam.manifest.signature
    try:
        actual: Any
        if isinstance(signature, TensorSignature):
            actual = await client.infer(spec.infer_path, signature, example.request)
            named = example.response if isinstance(example.response, dict) else {}
            # An example may name only the outputs it is about.
            actual = {name: actual[name] for name in actual if name in named or not named}
        else:
            actual = await client.predict(spec.predict_path, example.request)
    except FairleadError as error:
        return error
    wrong = difference(example.response, actual, exam.golden.tolerance)
    return None if wrong is None else FairleadError(wrong, kind=Kind.MODEL)
