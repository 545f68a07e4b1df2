"""The end of a process whose threads may still be in a library's native code.

The interpreter ends a thread that wants to go on in Python while it tears itself down: it unwinds the thread's
stack. Where that goes through a C++ destructor, as behind a run of ONNX Runtime, the C++ runtime ends the whole
process instead: "terminate called without an active exception", SIGABRT, a core file. What has run well then looks
like a crash. So a process with threads left over is not torn down: it has done what it does at its end, and is gone.
"""

from __future__ import annotations

import atexit
import contextlib
import logging
import os
import sys
import threading
from typing import NoReturn

_FAILED = 1  # the interpreter's own code for an exception that nobody has caught


class Ending:
    """Make one before anything else is registered with `atexit`: then it is what comes last."""

    def __init__(self) -> None:
        self._code = _FAILED
        atexit.register(self._end)

    def exit(self, code: int) -> NoReturn:
        """End the process with this code."""
        self._code = code
        sys.exit(code)

    def _end(self) -> None:
        """By now the threads that are waited for have ended, and everybody else who wanted to know of the end does."""
        if threading.active_count() == 1:
            return
        logging.shutdown()
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError):  # closed by now, or by whoever reads it
                stream.flush()
        os._exit(self._code)
