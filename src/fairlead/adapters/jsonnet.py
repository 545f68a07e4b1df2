"""Jsonnet files, evaluated in a process of their own that is bounded in time, memory and output.

A file may import what lies below its own directory, nothing else. Jsonnet is a whole language, so a file can
run for ever, grow for ever, or nest so deep that the evaluator's stack ends: all of that ends the child, and
is told as a mistake in the file.
"""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

from fairlead.adapters import jsonnet_child
from fairlead.domain.errors import InvalidInput, Problem
from fairlead.domain.reading import NO_VARIABLES, Variables

SECONDS = 10.0
MOST_BYTES = 1 << 20  # of the result, as of any other document
_MEMORY_BYTES = 1 << 30
_PLACE = re.compile(r"^\s+(?:\./)?(?P<file>[^\n:]+):(?P<line>\d+):(?P<column>\d+)", re.MULTILINE)
_PREFIX = re.compile(r"^(runtime error|syntax error|import_callback error: \w+): ?")
_BOUNDS = {
    signal.SIGSEGV: "is nested or recurses too deeply for the evaluator",
    signal.SIGBUS: "is nested or recurses too deeply for the evaluator",
    signal.SIGABRT: f"needs more than {_MEMORY_BYTES >> 20} MiB of memory, or recurses too deeply",
    signal.SIGKILL: "was killed while it was evaluated: the machine may be short of memory",
}


def evaluate(path: Path, variables: Variables = NO_VARIABLES, *, seconds: float = SECONDS) -> Any:  # noqa: ANN401 - untrusted input has no type yet
    """The value of a Jsonnet file; raises InvalidInput with file, line and column of what is wrong."""
    order = {
        "file": path.name,
        "texts": dict(variables.texts),
        "code": dict(variables.code),
        "memory_bytes": _MEMORY_BYTES,
        "most_bytes": MOST_BYTES,
    }
    # By its file and isolated: no environment, nothing of the current directory, only an installed library.
    command = [sys.executable, "-I", "-X", "utf8", str(jsonnet_child.__file__)]
    try:
        done = subprocess.run(  # noqa: S603 - our own interpreter and file
            command,
            input=json.dumps(order).encode(),
            capture_output=True,
            cwd=path.parent,
            env={},
            timeout=seconds,
            check=False,
        )
    except subprocess.TimeoutExpired:
        wrong = f"was not evaluated within {seconds:g} s"
        raise _invalid(str(path), wrong, "look for a loop or a recursion without an end") from None
    if done.returncode != 0:
        raise _ended(path, done.returncode, done.stderr)
    answer = json.loads(done.stdout)
    if "error" in answer:
        raise _mistake(path, str(answer["error"]))
    return answer["value"]


def _ended(path: Path, code: int, errors: bytes) -> InvalidInput:
    if code < 0 and -code in _BOUNDS:
        return _invalid(str(path), _BOUNDS[signal.Signals(-code)], "make it smaller")
    last = errors.decode(errors="replace").strip().rpartition("\n")[2]
    return _invalid(str(path), f"cannot be evaluated ({last or f'exit code {code}'})", "")


def _mistake(path: Path, error: str) -> InvalidInput:
    """The evaluator's words as ours: where first, then what, without its prefix."""
    what = _PREFIX.sub("", error.split("\n    ", 1)[0].strip()).replace("\n", "; ")
    if what.startswith("stack overflow"):
        what = "recurses too deeply"
    place = _PLACE.search(error)
    if place is None:
        return _invalid(str(path), what, "")
    inside = path.parent / place["file"]
    source = f"{inside}:{place['line']}:{place['column']}"
    return _invalid(source, what, "" if inside == path else f"{path} imports it")


def _invalid(source: str, wrong: str, right: str) -> InvalidInput:
    return InvalidInput(source, [Problem("", wrong, right)])
