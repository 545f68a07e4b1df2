r"""Text of strangers, made fit to be shown: what steers a terminal is spelled out instead.

A request's id, a model's last words and a file's name all end up in front of a person. Control characters
in them could clear the screen, rewrite lines above, or pass for lines of our own. They are written as
`\u001b`, which is also how JSON writes them, so a line of JSON stays what it was.
"""

from __future__ import annotations

import re

# Controls (C0, DEL, C1), line and paragraph separators, marks that turn the direction of writing, and
# halves of surrogate pairs, which no terminal's encoding can carry. Newline and tab are told apart below.
_HIDDEN = "\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff"
_ANYWHERE = re.compile(f"[{_HIDDEN}]")
_IN_A_LINE = re.compile(f"[{_HIDDEN}\t\n]")


def printable(text: str) -> str:
    """The text with its lines, and nothing in it that steers a terminal."""
    return _ANYWHERE.sub(_spelled, text)


def one_line(text: str) -> str:
    """The same, as one line: nobody can add lines that look like ours."""
    return _IN_A_LINE.sub(_spelled, text)


def _spelled(found: re.Match[str]) -> str:
    return f"\\u{ord(found[0]):04x}"
