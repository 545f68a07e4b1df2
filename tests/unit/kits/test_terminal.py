"""What strangers wrote does not steer the terminal it is shown on, and adds no lines."""

from __future__ import annotations

import json
import logging

from hypothesis import given, strategies as st

from fairlead.kits.jsonlog import JsonFormatter, TextFormatter
from fairlead.kits.terminal import one_line, printable

EVIL = "\x1b[2J\x1b]0;owned\x07 \x9b31m \u202egnp.exe \r\nall is well \ud800"


def test_what_steers_a_terminal_is_spelled_out() -> None:
    assert one_line("a\x1b[2J\nb") == "a\\u001b[2J\\u000ab"
    assert printable("one\n\ttwo\x9b") == "one\n\ttwo\\u009b"
    assert one_line("Größe 10 µs → 好") == "Größe 10 µs → 好"


@given(st.text())
def test_every_line_can_be_printed_and_stays_one(text: str) -> None:
    shown = one_line(text)
    shown.encode()
    assert len(shown.splitlines()) <= 1
    assert shown.isprintable() or all(
        ord(letter) > 0x9F for letter in shown if not letter.isprintable()
    )


def test_a_log_line_is_one_line_and_still_json() -> None:
    record = logging.LogRecord("fairlead", logging.INFO, "f.py", 1, "%s", (EVIL,), None)
    line = JsonFormatter("worker").format(record)
    assert json.loads(line)["message"] == EVIL
    for text in (line, TextFormatter().format(record)):
        assert len(text.splitlines()) == 1
        assert not any(steering in text for steering in ("\x1b", "\x9b", "\u202e", "\ud800"))
