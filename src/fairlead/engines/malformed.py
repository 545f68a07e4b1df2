"""Where a body stops being JSON.

pydantic says it in a line and a column; callers are told the byte, as they are by every other model.
"""

from __future__ import annotations

import re

from fairlead.domain.errors import FieldError

_PLACE = re.compile(r" at line (?P<line>\d+) column (?P<column>\d+)$")
_ENDED = "EOF "


def json_invalid(data: bytes, why: str) -> FieldError:
    """`why` is pydantic's: what is wrong, and the line and the column (from 1, in bytes) where."""
    words = _PLACE.sub("", why)
    place = _PLACE.search(why)
    if place is None or words.startswith(_ENDED):
        at = len(data)
    else:
        at = _start_of_line(data, int(place["line"])) + int(place["column"]) - 1
    return FieldError((at,), f"JSON decode error: {words}", "json_invalid")


def _start_of_line(data: bytes, line: int) -> int:
    """By halves, because a body may hold millions of lines."""
    before = line - 1
    if before == 0:
        return 0
    low, high = 0, len(data)
    while high - low > 1:
        middle = (low + high) // 2
        found = data.count(b"\n", low, middle)
        if found >= before:
            high = middle
        else:
            before -= found
            low = middle
    return high
