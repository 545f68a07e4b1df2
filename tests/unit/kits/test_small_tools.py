"""Clock, files and logs."""

from __future__ import annotations

import json
import logging
import multiprocessing
from collections.abc import Iterator
from pathlib import Path

import pytest

from fairlead.kits import clock, files, jsonlog


@pytest.fixture
def root_logger() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    for handler in root.handlers:
        if handler not in handlers:
            handler.close()
    root.handlers[:] = handlers
    root.setLevel(level)


class TestFiles:
    def test_a_write_replaces_the_whole_file_and_leaves_nothing_beside_it(
        self, tmp_path: Path
    ) -> None:
        path = tmp_path / "deep" / "file"
        files.write_atomic(path, b"one", mode=0o600)
        files.write_atomic(path, b"two", mode=0o640, durable=False)
        assert path.read_bytes() == b"two"
        assert path.stat().st_mode & 0o777 == 0o640
        assert [one.name for one in path.parent.iterdir()] == ["file"]

    def test_a_write_that_fails_leaves_the_old_file(self, tmp_path: Path) -> None:
        path = tmp_path / "file"
        files.write_atomic(path, b"one")
        with pytest.raises(TypeError):
            files.write_atomic(path, "text")  # type: ignore[arg-type]
        assert path.read_bytes() == b"one"
        assert [one.name for one in tmp_path.iterdir()] == ["file"]

    def test_a_missing_file_is_no_value_and_a_broken_one_an_error(self, tmp_path: Path) -> None:
        assert files.read_json(tmp_path / "none") is None
        (tmp_path / "broken").write_text("{")
        with pytest.raises(ValueError, match="Expecting"):
            files.read_json(tmp_path / "broken")

    def test_a_lock_is_one_process_at_a_time(self, tmp_path: Path) -> None:
        path = tmp_path / "lock"
        assert files.try_lock(path) is not None
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            assert pool.apply(files.try_lock, (path,)) is None


class TestClock:
    async def test_a_fake_clock_moves_only_when_it_is_slept_on(self) -> None:
        fake = clock.FakeClock(100.0)
        await fake.sleep(2)
        fake.pause(3)
        fake.advance(5)
        assert fake.now() == fake.monotonic() == 110.0

    async def test_the_system_clock_goes_on(self) -> None:
        system = clock.SystemClock()
        before = system.monotonic()
        await system.sleep(0.001)
        system.pause(0.001)
        assert system.monotonic() - before >= 0.002
        assert system.now() > 1_700_000_000

    def test_moments_are_written_in_utc(self) -> None:
        assert clock.iso(0.1234) == "1970-01-01T00:00:00.123Z"


class TestLogs:
    def test_a_line_has_the_fields_of_the_format_and_what_the_caller_adds(
        self, tmp_path: Path, root_logger: None
    ) -> None:
        jsonlog.setup("agent", file=tmp_path / "logs" / "agent.jsonl")
        logging.getLogger("some.module").info("ready in %.1f s", 1.5, extra={"event": "ready"})
        logging.getLogger("httpx").info("a call")
        try:
            raise ValueError("why")  # noqa: TRY301 - to be logged
        except ValueError:
            logging.getLogger("some.module").exception("failed")
        lines = [
            json.loads(line)
            for line in (tmp_path / "logs" / "agent.jsonl").read_text().splitlines()
        ]
        assert len(lines) == 2
        assert list(lines[0])[:8] == [
            "service",
            "asctime",
            "levelname",
            "name",
            "filename",
            "funcName",
            "lineno",
            "message",
        ]
        assert (lines[0]["service"], lines[0]["message"], lines[0]["event"]) == (
            "agent",
            "ready in 1.5 s",
            "ready",
        )
        assert "ValueError: why" in lines[1]["exc_info"]

    def test_text_is_for_people(
        self, capsys: pytest.CaptureFixture[str], root_logger: None
    ) -> None:
        jsonlog.setup("serve", json_format=False, level=logging.WARNING)
        logging.getLogger("x").info("not shown")
        logging.getLogger("x").warning("shown")
        assert capsys.readouterr().err.endswith("WARNING shown\n")
