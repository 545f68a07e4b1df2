"""From a loaded artifact to its endpoints: each with its limits, and with its batches if it has any.

Batching is what the model's own file says, what the release says over it, and what was measured here: it is
off where it does not help, unless somebody insists, and always off where requests would notice each other.
"""

from __future__ import annotations

import asyncio
import inspect
from dataclasses import dataclass

from fairlead.api.worker import ServedEndpoint, WorkerSpec
from fairlead.domain.batching import Batching, batching_from_json, checked
from fairlead.domain.errors import InvalidInput, Kind, Refused
from fairlead.domain.golden import golden_from_bytes
from fairlead.domain.reading import Node
from fairlead.domain.signature import TensorSignature
from fairlead.engines.sharing import Alone, Sharing, cannot_share, infer_of, misfits, sharing_of
from fairlead.engines.together import mixes
from fairlead.kits.clock import Clock
from fairlead.server.batch_members import Member
from fairlead.server.batch_queue import DEFAULT_MOST, BatchQueue
from fairlead.server.batching import Batcher
from fairlead.server.endpoint import Endpoint
from fairlead.server.loading import LoadedArtifact

_QUICK = "a run is so quick that nobody waits for it"
_IN_A_TURN = "what arrives in the same moment shares a run; nobody waits for others"


@dataclass(frozen=True, slots=True)
class _Decision:
    """`sharing` is None if its requests run one by one; `why` says why, or what is gained.

    `in_a_turn`: there is no queue; only what one turn of the event loop has read shares a run.
    """

    sharing: Sharing | None
    why: str
    in_a_turn: bool = False


async def endpoints_of(spec: WorkerSpec, artifact: LoadedArtifact, clock: Clock) -> list[Endpoint]:
    """The endpoints of a revision; raises InvalidInput or Refused for batching that cannot be as it was said."""
    return [await _endpoint(spec, one, artifact, clock) for one in spec.endpoints]


async def _endpoint(
    spec: WorkerSpec, served: ServedEndpoint, artifact: LoadedArtifact, clock: Clock
) -> Endpoint:
    said = _said(served, artifact)
    decision = await _decide(said, artifact)
    infer = infer_of(artifact.model, said)
    batcher = None
    how = decision.why
    if decision.sharing is None and _in_threads(artifact):
        # The limits of its queue hold whether requests share runs or not.
        alone = Alone(artifact.model.signature, infer)
        batcher = Batcher(artifact.model, artifact.threads, alone, BatchQueue(said, 1), said, clock)
        batcher.abreast = artifact.threads.limit
    elif decision.sharing is not None and not decision.in_a_turn:
        # Who prefers a size wants it, whatever was measured.
        most = said.most or max(_measured_most(artifact), *(said.preferred_batch_sizes or (1,)))
        queue: BatchQueue[Member] = BatchQueue(said, most)
        batcher = Batcher(artifact.model, artifact.threads, decision.sharing, queue, said, clock)
        measured = artifact.measured
        if measured is not None and artifact.model.concurrent:
            batcher.abreast = measured.abreast
        at_once = f", {batcher.abreast} at once" if batcher.abreast > 1 else ""
        how = f"batches of up to {most} rows{at_once}, {how}"
        if 0 < served.concurrency < most:
            how += f"; concurrency {served.concurrency} keeps batches at so many requests"
    endpoint = Endpoint(
        spec.endpoint_id(served.name),
        artifact,
        served.concurrency,
        spec.deadline_seconds,
        clock,
        batcher,
    )
    endpoint.run_by(infer)
    endpoint.batching = how
    if decision.sharing is not None and decision.in_a_turn:
        endpoint.share_in_a_turn(decision.sharing, said.most or DEFAULT_MOST)
    return endpoint


def _said(served: ServedEndpoint, artifact: LoadedArtifact) -> Batching:
    where = f"endpoints.{served.name}"
    node = Node(served.batching, f"{where}.batching")
    own = batching_from_json(node)
    node.done("")
    said = checked(own.over(artifact.manifest.batching), where)
    problems = misfits(said, artifact.model)
    if problems:
        raise InvalidInput(where, problems)
    return said


def _in_threads(artifact: LoadedArtifact) -> bool:
    """Do its requests run in threads, all of them?"""
    return not artifact.profile.inline and not inspect.iscoroutinefunction(artifact.model.infer)


async def _decide(said: Batching, artifact: LoadedArtifact) -> _Decision:
    measured = artifact.measured
    if said.enabled is False:
        return _Decision(None, "one by one, as it was said")
    reason = cannot_share(artifact.model)
    if reason is not None:
        # Of most models that take documents nobody has ever thought that they could be batched.
        expected = said or isinstance(artifact.model.signature, TensorSignature)
        return _Decision(None, f"one by one: {reason}" if expected else "")
    sharing = sharing_of(artifact.model, said)
    if measured is None and not said.enabled:
        return await _in_a_turn(said, artifact, sharing)
    mixed = measured.mixed if measured else ""
    # What padding adds to an answer is learned by the proof.
    if measured is None or said != artifact.manifest.batching or (sharing.padded and not mixed):
        mixed = await _mixed(artifact, sharing, said.most) or ""
    if mixed and said.enabled:
        raise Refused(Kind.MODEL, f"batching.enabled is true, but {mixed}")
    if mixed:
        return _Decision(None, f"one by one: {mixed}")
    if said.enabled:
        return _Decision(sharing, f"as it was said ({measured})" if measured else "as it was said")
    assert measured is not None
    return (
        _Decision(sharing, str(measured))
        if measured.helps
        else _Decision(None, f"one by one: {measured}")
    )


async def _in_a_turn(said: Batching, artifact: LoadedArtifact, sharing: Sharing) -> _Decision:
    """Of a model that is run on the event loop: it needs no queue, and no measurement to know what calls cost it."""
    alone = _Decision(None, f"one by one: {_QUICK}" if said else "")
    if not artifact.profile.inline or not artifact.model.concurrent:
        return alone
    # Not in the model's own threads: one that runs on the event loop never has any.
    if await asyncio.to_thread(_mixes, artifact, sharing, said.most) is not None:
        return alone
    return _Decision(sharing, _IN_A_TURN, in_a_turn=True)


async def _mixed(artifact: LoadedArtifact, sharing: Sharing, most: int | None) -> str | None:
    """The proof again, for settings it was not proved with."""
    return await asyncio.wrap_future(
        artifact.threads.submit(lambda: _mixes(artifact, sharing, most))
    )


def _mixes(artifact: LoadedArtifact, sharing: Sharing, most: int | None) -> str | None:
    name = artifact.manifest.golden
    golden = golden_from_bytes((artifact.directory / name).read_bytes(), name)
    return mixes(artifact.model, golden, sharing, most)


def _measured_most(artifact: LoadedArtifact) -> int:
    measured = artifact.measured
    return measured.best if measured is not None and measured.best > 1 else DEFAULT_MOST
