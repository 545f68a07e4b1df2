"""Does batching help this model on this machine? Measured when it is first proved here, and kept.

What is compared is the processor time of a row, alone and in batches: who else is at work on the machine
must not decide it. Unbatched, a model gets as many runs at once as there are cores, each on one thread; a
batch has all cores, so how much faster they make it counts too. A machine's speed moves, by half within
seconds where it is shared: what is compared is run in turn, so that a slow moment falls on every side, unless the
model is so slow that all sizes together take more than a fifth of a second.
"""

from __future__ import annotations

import asyncio
import logging
import math
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Protocol, runtime_checkable

from fairlead.api.inference import InferRequest, Model
from fairlead.domain.batching import Batching
from fairlead.domain.golden import Golden
from fairlead.domain.measured import Conditions, Measured, measured_from_bytes, measured_to_bytes
from fairlead.domain.signature import TensorSignature
from fairlead.engines.proof import prove, request_of
from fairlead.engines.sharing import Sharing, cannot_share, filled, infer_of, sharing_of
from fairlead.engines.together import mixes
from fairlead.kits.clock import Clock
from fairlead.kits.files import write_atomic
from fairlead.server.batch_queue import DEFAULT_MOST
from fairlead.server.threads import Threads

# Makes ready what is timed, anew for each time: code may change the document that it is given.
_Work = Callable[[], Callable[[], object]]

_log = logging.getLogger(__name__)
_SECONDS = 1.0  # for all sizes together: a first start must not take long
_SIZE_SECONDS = 0.2  # for one of them
_WAYS_SECONDS = 0.6  # for one batch run in the ways that several cores allow
_TURNS = 5
_TIMES = 2  # one after the other: the first run of a size may be slow
_ALONE_TIMES = 10
_FEW = 4  # requests: so many are tried however long it takes …
_SLOW_SECONDS = 2.0  # … unless half as many took this long
_SHORTEST = 1e-7  # seconds: what clocks tell apart
_ABREAST_WORTH = 1.2  # times the rows: with little to do, one batch with all cores answers earlier
_PARALLEL_WORTH = 0.0005  # seconds a row: a run this short is not sped up by more threads


@dataclass(frozen=True, slots=True)
class Record:
    """Where a measurement is kept, and under which conditions it holds."""

    path: Path | None
    conditions: Conditions

    def read(self) -> Measured | None:
        if self.path is None:
            return None
        try:
            return measured_from_bytes(self.path.read_bytes(), self.conditions)
        except OSError:
            return None

    def write(self, measured: Measured) -> None:
        """Keep it; a disk that takes nothing costs only another measurement."""
        if self.path is None:
            return
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            write_atomic(self.path, measured_to_bytes(measured, self.conditions))
        except OSError as error:
            _log.warning("the measurement is not kept: %s", error)


def cores() -> int:
    """How many this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@runtime_checkable
class Shrinks(Protocol):
    """A model that keeps the memory of its largest run until it is told to give it back."""

    def shrink(self, request: InferRequest) -> None:
        """Answer this request, and keep no more memory than that took; raises FairleadError."""
        ...


class Measuring:
    """One model's measurement. `load` gives the model once more, its runs on so many threads."""

    def __init__(
        self, golden: Golden, batching: Batching, load: Callable[[int], Model], clock: Clock
    ) -> None:
        self._golden = golden
        self._batching = batching
        self._load = load
        self._clock = clock

    async def of(self, model: Model, pool: Threads, threads: int) -> tuple[Model, Measured]:
        """The model to serve with, this one or one with more threads, and what was found. Closes the other.

        `threads` is what a run of this one may use, as it was said; 0 is one, or as many as turn out best.
        """
        reason = cannot_share(model)
        if reason is not None:
            return model, Measured(reason)
        served, found = await self._measured(model, pool, threads)
        if isinstance(served, Shrinks) and not (found.helps or self._batching.enabled):
            # The batches that were tried left memory behind that no run will need again.
            asked = request_of(served, self._golden.examples[0])
            first = filled(served, self._batching, asked)
            await asyncio.wrap_future(pool.submit(lambda: served.shrink(first)))
        return served, found

    async def _measured(self, model: Model, pool: Threads, threads: int) -> tuple[Model, Measured]:
        sharing = sharing_of(model, self._batching)
        # A graph on one thread does nothing but work; code, and who works with others, may wait for something.
        graph = isinstance(model.signature, TensorSignature)
        timer = self._clock.worked if graph and threads <= 1 else self._clock.monotonic
        found = await asyncio.wrap_future(pool.submit(lambda: self._found(model, sharing, timer)))
        if model.concurrent and threads <= 1:
            found = replace(found, parallel=min(cores(), pool.limit))
        found = replace(found, threads=max(1, threads))
        widen = graph and threads == 0 and cores() > 1 and found.alone * _PARALLEL_WORTH < 1
        if found.mixed or not widen or not _hopeful(found, self._batching):
            return model, found
        return await asyncio.wrap_future(pool.submit(lambda: self._widened(model, sharing, found)))

    def _found(self, model: Model, sharing: Sharing, timer: Callable[[], float]) -> Measured:
        mixed = mixes(model, self._golden, sharing, self._batching.most)
        if mixed is not None:
            return Measured(mixed)
        sample = self._sample(model, sharing)
        infer = infer_of(model, self._batching)
        works: list[_Work] = [lambda: partial(infer, sample())]
        once = partial(self._in_turn, works[:1], timer, _ALONE_TIMES, _SIZE_SECONDS)
        began, quickest = self._clock.monotonic(), once()
        for work, seconds in self._climb(model, sample, sharing, timer):
            works.append(work)
            quickest.append(seconds)
        left = _SECONDS - self._passed(began)
        if left >= 2 * sum(quickest):
            quickest = self._in_turn(works, timer, _TURNS, left)
        else:  # too slow for that
            quickest[0] = min(quickest[0], *once())
        alone, *batches = quickest
        step = sharing.count(sample())
        sizes = {step << place: (step << place) / one for place, one in enumerate(batches)}
        return Measured("", step / alone, sizes)

    def _widened(self, model: Model, sharing: Sharing, found: Measured) -> tuple[Model, Measured]:
        """For all cores: one batch that has them all, or its parts abreast, one on each, if that is clearly quicker."""
        sample = self._sample(model, sharing)()
        batch = [sample] * max(1, found.best // sharing.count(sample))
        most = cores()
        part = batch[: max(1, len(batch) // most)]
        wide = self._load(most)
        try:
            asyncio.run(prove(wide, self._golden, self._batching))
            one, all_of_them, each = self._ways(model, wide, sharing, batch, part)
        except BaseException:
            wide.close()
            raise
        found = replace(found, speedup=_speedup(one / all_of_them, most), threads=most)
        gained = most * len(part) / each / (len(batch) / one)
        abreast = replace(found, speedup=_speedup(gained, most), threads=1, abreast=most)
        # Whether to batch at all is the first's to say: a convolution's parts abreast are no better than one by one.
        if not (found.helps or self._batching.enabled):
            wide.close()
            return model, replace(found, threads=1)
        if abreast.speedup >= found.speedup * _ABREAST_WORTH:
            wide.close()
            return model, abreast
        model.close()
        return wide, found

    def _ways(
        self,
        model: Model,
        wide: Model,
        sharing: Sharing,
        batch: Sequence[InferRequest],
        part: Sequence[InferRequest],
    ) -> tuple[float, float, float]:
        """Seconds of a batch on one thread, of one with all cores, and of its part when one runs on every core."""
        most = cores()
        with ThreadPoolExecutor(most) as pool:

            def abreast() -> None:
                for future in [pool.submit(sharing.run, model, part) for _ in range(most)]:
                    future.result()

            works: list[_Work] = [
                lambda: partial(sharing.run, model, batch),
                lambda: partial(sharing.run, wide, batch),
            ]
            if model.concurrent:
                works.append(lambda: abreast)
            one, all_of_them, *each = self._in_turn(
                works, self._clock.monotonic, _TURNS, _WAYS_SECONDS
            )
        return one, all_of_them, each[0] if each else math.inf

    def _sample(self, model: Model, sharing: Sharing) -> Callable[[], InferRequest]:
        """Makes the golden example with the fewest rows; tensors are only read, so they are made once."""
        requests = [(request_of(model, one), one) for one in self._golden.examples]
        with_rows = [(sharing.count(request), request, one) for request, one in requests]
        _, request, example = min((one for one in with_rows if one[0]), key=lambda one: one[0])
        if isinstance(model.signature, TensorSignature):
            return lambda: request
        return partial(request_of, model, example)

    def _climb(
        self,
        model: Model,
        sample: Callable[[], InferRequest],
        sharing: Sharing,
        timer: Callable[[], float],
    ) -> Iterator[tuple[_Work, float]]:
        """Batches of 1, 2, 4 … requests and the seconds of a run, until the time is over."""
        most, step = self._batching.most or DEFAULT_MOST, sharing.count(sample())
        began, count, seconds = self._clock.monotonic(), 1, 0.0
        while count == 1 or count * step <= most:
            few = count <= _FEW and seconds < _SLOW_SECONDS
            if self._passed(began) >= _SECONDS and not few:
                break
            work = partial(_batch, model, sample, sharing, count)
            (seconds,) = self._in_turn([work], timer, _TIMES, _SIZE_SECONDS)
            yield work, seconds
            count *= 2

    def _passed(self, began: float) -> float:
        return self._clock.monotonic() - began

    def _in_turn(
        self,
        works: Sequence[_Work],
        timer: Callable[[], float],
        turns: int,
        seconds: float,
    ) -> list[float]:
        """Seconds of the quickest run of each, in so many turns; when `seconds` have passed, no turn begins."""
        quickest = [math.inf] * len(works)
        began = self._clock.monotonic()
        for turn in range(turns):
            if turn and self._passed(began) >= seconds:
                break
            for place, work in enumerate(works):
                run = work()
                start = timer()
                run()
                quickest[place] = min(quickest[place], timer() - start)
        return [max(one, _SHORTEST) for one in quickest]


def _batch(
    model: Model, sample: Callable[[], InferRequest], sharing: Sharing, count: int
) -> Callable[[], object]:
    return partial(sharing.run, model, [sample() for _ in range(count)])


def _speedup(measured: float, most: int) -> float:
    """Less than one thread makes, or more than all: another process had a hand in it."""
    return min(max(measured, 1.0), float(most))


def _hopeful(found: Measured, batching: Batching) -> bool:
    """Would it help with as many threads as there can be, or is it wanted all the same?"""
    return bool(batching.enabled) or replace(found, speedup=float(found.parallel)).helps
