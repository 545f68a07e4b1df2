"""Memory goes back to the system when it is asked for; elsewhere than on glibc nothing happens."""

from __future__ import annotations

import ctypes
import subprocess
import sys

import pytest

from fairlead.kits.memory import give_back, stay_small

PROGRAM = """
import psutil
from fairlead.kits.memory import give_back, stay_small

stay_small()
mine = psutil.Process()
small = [bytes(1000) for _ in range(100_000)]
full = mine.memory_info().rss
del small
give_back()
print((full - mine.memory_info().rss) >> 20)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="glibc")
def test_what_was_used_once_is_given_back() -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=9, check=True
    )
    assert int(done.stdout) > 50


def test_it_can_be_asked_for_at_any_time_and_with_any_c_library(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stay_small()
    give_back()
    monkeypatch.setattr(ctypes, "CDLL", lambda _: object())
    stay_small()
    give_back()
