"""What memory processes and replicas take: measured where one has run, else guessed from those like it."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from fairlead.agent.budget import guess


class Weights:
    """By process what it has now, by artifact what a replica from it takes beside its process."""

    def __init__(self) -> None:
        self.processes: dict[str, int] = {}
        self._guessed: dict[str, int] = {}
        self._measured: dict[str, int] = {}

    def has(self, digest: str, size: int) -> None:
        """An artifact of so many bytes is here."""
        self._guessed[digest] = max(guess(size), self._guessed.get(digest, 0))

    def lost(self, digest: str) -> None:
        """It is not any more."""
        self._guessed.pop(digest, None)
        self._measured.pop(digest, None)

    def measured(self, process: str, size: int, shares: Mapping[str, int]) -> None:
        """A process has so much; `shares` is what a replica of each of its artifacts takes, if that can be told."""
        self.processes[process] = size
        self._measured.update({one: share for one, share in shares.items() if one in self._guessed})

    def ended(self, process: str) -> None:
        self.processes.pop(process, None)

    def needs(self, light: Collection[str]) -> Mapping[str, int]:
        """What one more replica of each artifact may take.

        One that never ran here is at least like the others: what code takes with it, its files do not tell.
        """
        usual = {kind: self._usual(light, kind=kind) for kind in (True, False)}
        guessed = {
            digest: max(size, usual[digest in light])
            for digest, size in self._guessed.items()
            if digest not in self._measured
        }
        return guessed | self._measured

    def _usual(self, light: Collection[str], *, kind: bool) -> int:
        known = [size for digest, size in self._measured.items() if (digest in light) is kind]
        return sum(known) // len(known) if known else 0
