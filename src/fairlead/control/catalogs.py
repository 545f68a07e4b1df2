"""Changing the catalog: read, change, commit; again if somebody else was faster."""

from __future__ import annotations

import random
from collections.abc import Callable

from fairlead.domain.catalog import Catalog
from fairlead.domain.errors import Kind, Refused, StoreConflict
from fairlead.domain.ports import Catalogs
from fairlead.kits.clock import Clock

Change = Callable[[Catalog], Catalog]

# Many writers at once: each round at least one of them wins, so this is far beyond any real crowd.
_MOST_TRIES = 200
_PAUSE_SECONDS = 0.002
_LONGEST_PAUSE_SECONDS = 0.2


def change(
    catalogs: Catalogs, clock: Clock, what: Change, message: str, *, always: bool = False
) -> Catalog:
    """Apply a pure change to the newest catalog. A change that changes nothing writes nothing, unless `always`.

    `what` may run several times, each time over a newer catalog; it raises to refuse.
    """
    for attempt in range(_MOST_TRIES):
        before = catalogs.read()
        after = what(before)
        if after == before and not always:
            return before
        try:
            return catalogs.commit(after, message)
        except StoreConflict:
            longest = min(_LONGEST_PAUSE_SECONDS, _PAUSE_SECONDS * 2**attempt)
            clock.pause(random.uniform(0, longest))  # noqa: S311 - spreads writers, no secret
    raise Refused(Kind.CONFLICT, f"the catalog changed {_MOST_TRIES} times meanwhile; try again")
