"""The seams of a rollout. Apart from the others, which every command needs: what a rollout is made of is not small."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from fairlead.domain.ids import LineId, RevisionId
from fairlead.domain.rollout import Entry, Exam, Record, Standing, Traffic
from fairlead.domain.samples import Reading


class Rollouts(Protocol):
    """The journals of rollouts in a store."""

    def append(self, rollout: str, entry: Entry) -> None:
        """Write one entry for ever. Raises StoreConflict if its number is taken: somebody else leads it now."""
        ...

    def ids(self) -> list[str]:
        """Every rollout there is, oldest first."""
        ...

    def unfinished(self) -> list[Record]:
        """Every rollout that nobody has ended, led by a living process or not."""
        ...

    def read(self, rollout: str) -> Record:
        """Raises Refused(NOT_FOUND) if there is no such rollout."""
        ...


class Scene(Protocol):
    """What can be seen of the machine that serves."""

    def standing(self, revision: RevisionId) -> Standing:
        """How far its workers are."""
        ...

    def flowing(self, line: LineId) -> Traffic | None:
        """What the gateway routes; None if it does not say."""
        ...

    def reading(self) -> Reading | None:
        """What the workers have counted; None if nobody answers."""
        ...

    def golden(self, revision: RevisionId, stop: Callable[[], str]) -> Exam:
        """Ask every ready worker of a revision its golden examples, giving up once `stop` says why."""
        ...
