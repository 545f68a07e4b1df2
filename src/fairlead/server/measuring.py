"""Does batching help this model on this machine? Measured when it is first proved here, and kept.

Alone means as many runs at once as there are cores, each on one thread: that is what a model gets that is
not batched. A batch has all the cores to itself. Both are timed as bursts; the best of some counts, because
whatever else runs on the machine only ever makes one slower.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from fairlead.api.inference import InferRequest, Model
from fairlead.domain.batching import Batching
from fairlead.domain.golden import Golden
from fairlead.domain.measured import Conditions, Measured, measured_from_bytes, measured_to_bytes
from fairlead.engines.proof import prove, request_of
from fairlead.engines.sharing import Sharing, cannot_share, sharing_of
from fairlead.engines.together import mixes
from fairlead.kits.clock import Clock
from fairlead.kits.files import write_atomic
from fairlead.server.batch_queue import DEFAULT_MOST
from fairlead.server.threads import Threads

_log = logging.getLogger(__name__)
_SECONDS = 1.0  # for all sizes together: a first start must not take long
_TIMES = 3
_PARALLEL_WORTH = 0.001  # seconds: a run this short is not sped up by more threads


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


class Measuring:
    """One model's measurement. `load` gives the model once more, its runs on so many threads."""

    def __init__(
        self, golden: Golden, batching: Batching, load: Callable[[int], Model], clock: Clock
    ) -> None:
        self._golden = golden
        self._batching = batching
        self._load = load
        self._now = clock.monotonic

    async def of(self, model: Model, pool: Threads, *, widen: bool) -> tuple[Model, Measured]:
        """The model to serve with, this one or one with more threads, and what was found. Closes the other."""
        reason = cannot_share(model)
        if reason is not None:
            return model, Measured(reason)
        sharing = sharing_of(model, self._batching)
        run = pool.submit
        mixed = await asyncio.wrap_future(run(lambda: self._mixed(model, sharing)))
        if mixed is not None:
            return model, Measured(mixed)
        sample = self._sample(model, sharing)
        alone = await self._alone(model, sample, pool)
        seconds = 1 / alone
        threads, wide = 1, model
        if widen and cores() > 1 and seconds > _PARALLEL_WORTH / cores():
            threads = cores()
            wide = await asyncio.wrap_future(run(lambda: self._loaded(threads)))
        try:
            sizes = await asyncio.wrap_future(run(lambda: dict(self._sizes(wide, sample, sharing))))
            # Once more: who else is at work may have changed meanwhile.
            alone = max(alone, await self._alone(model, sample, pool)) * sharing.count(sample)
        except BaseException:
            if wide is not model:
                wide.close()
            raise
        measured = Measured("", alone, sizes, threads)
        if measured.helps or self._batching.enabled:
            if wide is not model:
                model.close()
            return wide, measured
        if wide is not model:
            wide.close()
        return model, Measured("", alone, sizes, 1)

    def _mixed(self, model: Model, sharing: Sharing) -> str | None:
        return mixes(model, self._golden, sharing, self._batching.most)

    def _loaded(self, threads: int) -> Model:
        model = self._load(threads)
        asyncio.run(prove(model, self._golden))
        return model

    def _sample(self, model: Model, sharing: Sharing) -> InferRequest:
        """The golden example with the fewest rows."""
        requests = [request_of(model, example) for example in self._golden.examples]
        return min((one for one in requests if sharing.count(one)), key=sharing.count)

    async def _alone(self, model: Model, sample: InferRequest, pool: Threads) -> float:
        """Requests per second, unbatched."""
        together = cores()

        def burst() -> None:
            model.infer(sample)

        best = 0.0
        start = self._now()
        while best == 0.0 or self._now() - start < _SECONDS / 10:
            began = self._now()
            runs = [asyncio.wrap_future(pool.submit(burst)) for _ in range(2 * together)]
            await asyncio.gather(*runs)
            best = max(best, 2 * together / (self._now() - began))
        return best

    def _sizes(
        self, model: Model, sample: InferRequest, sharing: Sharing
    ) -> Iterator[tuple[int, float]]:
        """Rows per second by size, until the time is over or nothing is gained any more."""
        most = self._batching.most or DEFAULT_MOST
        step, count = sharing.count(sample), 1
        stop = self._now() + _SECONDS
        while count == 1 or (count * step <= most and self._now() < stop):
            requests = [sample] * count
            best = 0.0
            for _ in range(_TIMES):
                began = self._now()
                sharing.run(model, requests)
                best = max(best, count * step / (self._now() - began))
                if self._now() > stop:
                    break
            yield count * step, best
            count *= 2
