"""What `fairlead doctor` finds: what is wrong, why it matters, and the command that mends it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Finding:
    """One fault of this machine or this home; `optional` for what only some commands need."""

    check: str
    wrong: str
    why: str
    mend: str
    optional: bool = False
