"""A soak of streams must be able to fail."""

from __future__ import annotations

import pytest
from soak.streams import Book, Rest, verdict

MIB = 1 << 20


def rest(worker: float, processes: int = 6, descriptors: int = 100) -> Rest:
    return Rest({"worker": int(worker * MIB), "voice": 12 * MIB}, processes, descriptors)


def missed(rests: list[Rest], **changes: object) -> str:
    return "; ".join(verdict(rests, Book(**{"whole": 3, "left": 3, **changes})))  # type: ignore[arg-type]


def test_memory_may_breathe() -> None:
    assert missed([rest(44), rest(59), rest(58), rest(45)]) == ""
    assert "12.0" in str(rest(44))


@pytest.mark.parametrize(
    ("rests", "changes", "told"),
    [
        ([rest(44), rest(50), rest(56), rest(62)], {}, "private memory grew"),
        ([rest(44), rest(44, processes=7)], {}, "processes: 6 at first, 7 at last"),
        ([rest(44), rest(44, descriptors=120)], {}, "descriptors"),
        ([rest(44), rest(44)], {"left": 0}, "proves nothing"),
        ([rest(44), rest(44)], {"problems": ["503: full"]}, "503: full"),
    ],
)
def test_what_grows_fails_or_is_missing_is_missed(rests, changes, told) -> None:
    assert told in missed(rests, **changes)
