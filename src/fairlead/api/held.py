"""How a worker tells its agent, and whoever else asks, that runs which do not end hold its model: nobody else is answered."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Held:
    """Every place a model's runs have is taken by a run that nobody waits for any more.

    So it has been for `left_seconds`, and all of those runs have gone on for `seconds` at least.
    """

    seconds: float
    left_seconds: float

    def beyond(self, longest_seconds: float) -> float:
        """For how long they have gone on though nobody waits, and longer than a run may take."""
        return max(0.0, min(self.left_seconds, self.seconds - longest_seconds))

    def __str__(self) -> str:
        """For whoever asks how the server is."""
        return (
            f"a run nobody waits for has gone on for {self.seconds:.0f} s; nobody else is answered"
        )


def held_to_json(held: Held | None) -> dict[str, float] | None:
    """What stands at `held` in a replica's document."""
    return None if held is None else asdict(held)


def held_from_json(document: Any) -> Held | None:  # noqa: ANN401 - a JSON value
    """Read it; what is none, as a worker of an older version says, is nothing held."""
    if not isinstance(document, dict):
        return None
    seconds, left = document.get("seconds"), document.get("left_seconds")
    if not isinstance(seconds, int | float) or not isinstance(left, int | float):
        return None
    return Held(float(seconds), float(left))
