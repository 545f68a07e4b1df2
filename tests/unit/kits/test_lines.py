"""Lines found in large files, and logs that are shifted along."""

from __future__ import annotations

import time
from pathlib import Path

from fairlead.kits import files
from fairlead.kits.lines import first_line, lines_with


def test_only_whole_lines_with_the_bytes_are_found(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_bytes(b"one a\ntwo b a a\nthree\na four\nhalf a")
    assert list(lines_with(log, b"a")) == [b"one a", b"two b a a", b"a four"]
    assert list(lines_with(log, b"nothing")) == []
    assert first_line(log) == b"one a"


def test_a_file_that_is_empty_or_not_there_has_no_lines(tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.write_bytes(b"")
    for path in (empty, tmp_path / "none"):
        assert list(lines_with(path, b"a")) == []
        assert first_line(path) == b""


def test_a_large_log_is_searched_in_well_under_two_seconds(tmp_path: Path) -> None:
    log = tmp_path / "log"
    line = b'{"client":"demo","path":"/v1/model/speech/predict","request_id":"%036d"}\n'
    block = b"".join(line % number for number in range(10_000))
    with log.open("wb") as file:
        for _ in range(64 * (1 << 20) // len(block)):
            file.write(block)
        file.write(line.replace(b"%036d", b"the-last"))
    start = time.perf_counter()
    (found,) = lines_with(log, b'"the-last"')
    assert time.perf_counter() - start < 2
    assert found.endswith(b'"the-last"}')


def test_a_log_is_shifted_and_only_as_many_are_kept(tmp_path: Path) -> None:
    log = tmp_path / "log"
    for number in range(6):
        log.write_text(str(number))
        files.shift(log, 3)
        assert not log.exists()
    assert contents(tmp_path) == {"log.1": "5", "log.2": "4", "log.3": "3"}
    log.write_text("6")
    files.shift(log, 1)  # fewer from now on
    assert contents(tmp_path) == {"log.1": "6"}


def contents(directory: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in directory.iterdir()}
