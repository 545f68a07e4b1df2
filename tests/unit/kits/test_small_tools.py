"""Clock, files and logs."""

from __future__ import annotations

import json
import logging
import multiprocessing
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from fairlead.kits import clock, files, jsonlog, processes
from fairlead.kits.addresses import is_loopback


@pytest.fixture
def root_logger() -> Iterator[None]:
    kept = [
        (logger, logger.handlers[:], logger.level, logger.propagate)
        for logger in map(logging.getLogger, ("", jsonlog.ACCESS, "uvicorn.error"))
    ]
    yield
    for logger, handlers, level, propagate in kept:
        for handler in logger.handlers:
            if handler not in handlers:
                handler.close()
        logger.handlers[:] = handlers
        logger.setLevel(level)
        logger.propagate = propagate


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

    def test_a_write_that_the_disk_refuses_says_whose_it_was(self, tmp_path: Path) -> None:
        kept = resource.getrlimit(resource.RLIMIT_FSIZE)
        ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, kept[1]))
        try:
            with pytest.raises(OSError, match="File too large") as caught:
                files.write_atomic(tmp_path / "file", b"x" * 8192)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, kept)
            signal.signal(signal.SIGXFSZ, ignored)
        assert caught.value.filename == str(tmp_path / "file")
        assert list(tmp_path.iterdir()) == []

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

    @pytest.mark.parametrize("json_format", [True, False])
    def test_access_lines_go_to_standard_output_and_all_else_to_standard_error(
        self, capsys: pytest.CaptureFixture[str], root_logger: None, json_format: bool
    ) -> None:
        jsonlog.setup("serve", json_format=json_format, access_to_stdout=True)
        logging.getLogger(jsonlog.ACCESS).info("an access", extra={"status_code": 200})
        logging.getLogger("x").info("an event")
        printed = capsys.readouterr()
        assert ("an access" in printed.out, "an access" in printed.err) == (True, False)
        assert ("an event" in printed.out, "an event" in printed.err) == (False, True)
        if json_format:
            assert json.loads(printed.out)["status_code"] == 200
        jsonlog.setup("worker")
        logging.getLogger(jsonlog.ACCESS).info("an access")
        printed = capsys.readouterr()
        assert printed.out == ""
        assert "an access" in printed.err

    def test_what_the_http_server_says_of_itself_is_heard_only_when_it_is_wrong(
        self, capsys: pytest.CaptureFixture[str], root_logger: None
    ) -> None:
        jsonlog.setup("serve")
        logging.getLogger("uvicorn.error").info("Started server process")
        logging.getLogger("uvicorn.error").warning("a warning")
        messages = [json.loads(line)["message"] for line in capsys.readouterr().err.splitlines()]
        assert messages == ["a warning"]

    def test_access_lines_nobody_reads_any_more_are_dropped_without_a_word(self) -> None:
        code = (
            "import logging, sys; from fairlead.kits import jsonlog\n"
            "jsonlog.setup('serve', access_to_stdout=True)\n"
            "sys.stdin.read()\n"
            "for _ in range(3): logging.getLogger(jsonlog.ACCESS).info('an access')\n"
        )
        with subprocess.Popen(
            [sys.executable, "-c", code],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        ) as process:
            assert process.stdin is not None
            assert process.stdout is not None
            assert process.stderr is not None
            process.stdout.close()
            process.stdin.close()
            assert process.stderr.read() == b""
            assert process.wait(10) == 0

    def test_the_first_access_line_nobody_reads_closes_the_way_for_all_others(
        self, root_logger: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        reading, writing = os.pipe()
        os.close(reading)
        with os.fdopen(writing, "w", buffering=1) as output:
            monkeypatch.setattr(sys, "stdout", output)
            jsonlog.setup("serve", access_to_stdout=True)
            logging.getLogger(jsonlog.ACCESS).info("an access")
            assert os.path.samestat(os.fstat(writing), Path(os.devnull).stat())
            logging.getLogger(jsonlog.ACCESS).info("another")
        logging.getLogger(jsonlog.ACCESS).info("into a closed file, which is no traceback either")
        assert capsys.readouterr().err == ""


class TestAddresses:
    @pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "127.9.9.9", "::1"])
    def test_only_this_machine_reaches_loopback(self, host: str) -> None:
        assert is_loopback(host)

    @pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.1", "example.com", "localhost.x"])
    def test_any_other_address_or_name_may_lead_elsewhere(self, host: str) -> None:
        assert not is_loopback(host)


class TestRecords:
    @pytest.mark.parametrize("record", [{"pid": "1", "started": 1}, {"pid": 1, "started": None}])
    def test_a_record_without_numbers_is_nobodys(self, record: dict[str, object]) -> None:
        with pytest.raises(TypeError):
            processes.from_record({**record, "boot": "b"})


class TestTextLogs:
    def test_an_error_brings_its_traceback_without_what_a_terminal_would_obey(self) -> None:
        error = ValueError("a\x1b[2Jb")
        info = (type(error), error, None)
        record = logging.LogRecord("n", logging.ERROR, "f.py", 1, "it broke", None, info)
        text = jsonlog.TextFormatter().format(record)
        assert "it broke\n" in text
        assert "ValueError" in text
        assert "\x1b" not in text
