"""Processes that end while a thread of theirs is at work."""

import subprocess
import sys

import pytest

from support.models import scaled

# The thread is in native code nearly always, and comes back into Python again and again.
AT_WORK = """
import atexit, sys, threading
from fairlead.kits.ending import Ending
ending = Ending()
import numpy, onnxruntime
session = onnxruntime.InferenceSession(sys.stdin.buffer.read())
began = threading.Event()
def work():
    while True:
        session.run(None, {"x": numpy.ones((1, 3), "float32")})
        began.set()
threading.Thread(target=work, daemon=True).start()
began.wait()
atexit.register(print, "told")
"""

pytestmark = pytest.mark.timeout(60)


def ended(program: str) -> "subprocess.CompletedProcess[bytes]":
    return subprocess.run(
        [sys.executable, "-c", program],
        input=scaled(),
        capture_output=True,
        timeout=50,
        check=False,
    )


@pytest.mark.parametrize("code", [0, 3])
def test_a_process_ends_as_it_meant_to_while_a_thread_is_in_native_code(code: int) -> None:
    end = ended(f"{AT_WORK}\nending.exit({code})")
    assert (end.returncode, end.stdout, end.stderr) == (code, b"told\n", b"")


def test_what_nobody_has_caught_is_a_failure_all_the_same() -> None:
    end = ended(f"{AT_WORK}\nraise ValueError('wrong')")
    assert end.returncode == 1
    assert end.stderr.endswith(b"ValueError: wrong\n")


def test_without_other_threads_it_ends_as_ever() -> None:
    end = ended("from fairlead.kits.ending import Ending; Ending().exit(3)")
    assert (end.returncode, end.stdout, end.stderr) == (3, b"", b"")
