"""What batching gains a model on a node, as it was measured there when the model was first proved."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from fairlead.domain.errors import FairleadError
from fairlead.domain.reading import Node, read_json

SCHEMA = 3  # 2: sizes were measured in turn; 3: what padding adds was learned, and allowed sizes were filled up
WORTH = 1.2  # below it, the gain is not worth that requests wait for each other
_AS_GOOD = 0.98  # of the best size's rows per second: a smaller batch answers earlier
_KEYS = (
    *("schema", "conditions", "mixed", "alone", "sizes"),
    *("threads", "parallel", "speedup", "abreast"),
)


@dataclass(frozen=True, slots=True)
class Conditions:
    """Under which the measurement holds: on another machine, or by another engine, it is made again."""

    cores: int
    threads: int  # what the worker was told; 0 is: as measured
    engine: str


@dataclass(frozen=True, slots=True)
class Measured:
    """Rows per second of one thread: alone, and by batch size.

    `mixed` says why its requests must not share a run; the figures are empty then. Unbatched, `parallel` runs
    go on at once. Of batches, `abreast` do, each on `threads` of its own, which makes `speedup` times as many rows.
    """

    mixed: str = ""
    alone: float = 0.0
    sizes: Mapping[int, float] = field(default_factory=dict)
    threads: int = 1
    parallel: int = 1
    speedup: float = 1.0
    abreast: int = 1

    @property
    def best(self) -> int:
        """The smallest size that is as good as any, near enough; 1 if nothing was measured."""
        most = max(self.sizes.values(), default=0.0)
        good = (size for size, found in self.sizes.items() if found >= _AS_GOOD * most)
        return min(good, default=1)

    @property
    def gain(self) -> float:
        """How many times the rows per second of the whole machine, at best."""
        if not self.sizes or not self.alone:
            return 1.0
        return self.sizes[self.best] / self.alone * self.speedup / self.parallel

    @property
    def helps(self) -> bool:
        return not self.mixed and self.gain >= WORTH

    def __str__(self) -> str:
        if self.mixed:
            return f"its requests cannot share a run: {self.mixed}"
        if not self.sizes:
            return "not measured"
        rate = f"a core does {self.sizes[self.best]:.0f} rows/s in batches of {self.best}, {self.alone:.0f} alone"
        verdict = "it helps" if self.helps else f"it would have to be {WORTH:g} times"
        return f"{self.gain:.1f} times the rows ({rate}): {verdict}"


def measured_to_bytes(measured: Measured, conditions: Conditions) -> bytes:
    """As a node keeps it."""
    document = {
        "schema": SCHEMA,
        "conditions": asdict(conditions),
        "mixed": measured.mixed,
        "alone": measured.alone,
        "threads": measured.threads,
        "parallel": measured.parallel,
        "speedup": measured.speedup,
        "abreast": measured.abreast,
        "sizes": {str(size): found for size, found in measured.sizes.items()},
    }
    return json.dumps(document).encode()


def measured_from_bytes(data: bytes, conditions: Conditions | None = None) -> Measured | None:
    """What was kept; None if it cannot be read, or not under these conditions."""
    try:
        document = read_json(data, "the measurement", "remove it")
    except FairleadError:
        return None
    node = Node(document)
    if not node.mapping(_KEYS, _KEYS) or document["schema"] != SCHEMA:
        return None
    if conditions is not None and document["conditions"] != asdict(conditions):
        return None
    measured = Measured(
        node.child("mixed").text(),
        node.child("alone").number(),
        {int(size): child.number() for size, child in node.child("sizes").items() if _size(size)},
        node.child("threads").integer(1),
        node.child("parallel").integer(1),
        node.child("speedup").number(),
        node.child("abreast").integer(1),
    )
    return None if node.problems else measured


def _size(text: Any) -> bool:  # noqa: ANN401 - a key of a document
    return isinstance(text, str) and text.isascii() and text.isdigit() and 0 < len(text) <= 6  # noqa: PLR2004 - more than any batch
