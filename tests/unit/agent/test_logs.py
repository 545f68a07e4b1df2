"""A worker's log stays short, whatever its model prints."""

from __future__ import annotations

import os
from pathlib import Path

from fairlead.agent.logs import before, bound, prune
from fairlead.domain.layout import Home


def test_a_log_that_is_too_long_is_emptied_and_its_end_kept(tmp_path: Path) -> None:
    home = Home(tmp_path, tmp_path / "s")
    home.logs.mkdir()
    log = home.logs / "worker-echo-v1.1-abcd.jsonl"
    handle = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)  # as a worker has it
    try:
        os.write(handle, b"x" * 900 + b"the end\n")
        bound(home, 1000)
        assert log.stat().st_size == 908
        os.write(handle, b"y" * 200 + b"last words\n")
        bound(home, 1000)
        assert log.stat().st_size == 0
        assert before(log).stat().st_size <= 1000
        assert before(log).read_bytes().endswith(b"last words\n")
        os.write(handle, b"and on\n")
        assert log.read_bytes() == b"and on\n"
    finally:
        os.close(handle)
    prune(home, [], keep=0)
    assert list(home.logs.iterdir()) == []
