"""Logs as JSON lines, with the field names of S3-6 and whatever the caller adds by `extra`.

Everything goes to standard error (or a file), but one line a request may go to standard output instead.
"""

from __future__ import annotations

import json
import logging
import logging.handlers
import os
import sys
from pathlib import Path
from typing import Any, TextIO

from fairlead.kits import clock
from fairlead.kits.terminal import one_line, printable

ACCESS = "fairlead.access"  # one line a request
_STANDARD = frozenset(logging.LogRecord("", 0, "", 0, "", (), None).__dict__) | {
    "message",
    "asctime",
    "taskName",
    "color_message",
}


_MOST_BYTES = 32 << 20  # of one log file; as much again lies in the one before it


class JsonFormatter(logging.Formatter):
    """One JSON object a line: service, asctime, levelname, name, filename, funcName, lineno, message."""

    def __init__(self, service: str) -> None:
        super().__init__()
        self._service = service

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "service": self._service,
            "asctime": clock.iso(record.created),
            "levelname": record.levelname,
            "name": record.name,
            "filename": record.filename,
            "funcName": record.funcName,
            "lineno": record.lineno,
            "message": record.getMessage(),
        }
        line.update({key: value for key, value in record.__dict__.items() if key not in _STANDARD})
        if record.exc_info:
            line["exc_info"] = self.formatException(record.exc_info)
        return one_line(json.dumps(line, default=str, ensure_ascii=False))


class TextFormatter(logging.Formatter):
    """One readable line: time, level, message."""

    def format(self, record: logging.LogRecord) -> str:
        text = one_line(f"{clock.iso(record.created)} {record.levelname:<7} {record.getMessage()}")
        if not record.exc_info:
            return text
        return f"{text}\n{printable(self.formatException(record.exc_info))}"


class _AccessHandler(logging.StreamHandler[TextIO]):
    """Whoever read standard output may have gone: that is no reason for a traceback a request."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - the standard library's name
        if isinstance(sys.exc_info()[1], BrokenPipeError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), self.stream.fileno())
        else:
            super().handleError(record)


def setup(
    service: str,
    *,
    level: int = logging.INFO,
    json_format: bool = True,
    file: Path | None = None,
    access_to_stdout: bool = False,
) -> None:
    """Send this process's logs to a file (appended, renamed to `.1` when it is large), or to standard error.

    `access_to_stdout`: the lines of the logger `ACCESS` go to standard output (S3-6), and nowhere else.
    """
    formatter = JsonFormatter(service) if json_format else TextFormatter()
    # A disk that is full must not turn each line into a traceback on somebody's terminal.
    logging.raiseExceptions = False
    handler: logging.StreamHandler[TextIO] | logging.FileHandler
    if file is None:
        handler = logging.StreamHandler(sys.stderr)
    else:
        file.parent.mkdir(parents=True, exist_ok=True)
        handler = logging.handlers.RotatingFileHandler(
            file, maxBytes=_MOST_BYTES, backupCount=1, encoding="utf-8"
        )
    handler.setFormatter(formatter)
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
    access = logging.getLogger(ACCESS)
    access.handlers[:] = [_AccessHandler(sys.stdout)] if access_to_stdout else []
    access.propagate = not access_to_stdout
    for own in access.handlers:
        own.setFormatter(formatter)
    # Libraries that report every call at INFO, or their own coming and going, would drown our own events.
    for noisy in ("httpx", "httpcore", "uvicorn.access", "uvicorn.error"):
        logging.getLogger(noisy).setLevel(max(level, logging.WARNING))
