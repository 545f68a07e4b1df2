"""Memory that is free goes back to the system."""

from __future__ import annotations

import ctypes
import gc
import os
import subprocess
import sys
import weakref
from pathlib import Path

import pytest

from fairlead.kits import garbage, memory
from fairlead.kits.memory import give_back, stay_small

SCRIPT = """
import ctypes, os, threading
from fairlead.kits import memory

def resident():
    return int(open("/proc/self/statm").read().split()[1]) * os.sysconf("SC_PAGE_SIZE") >> 20

libc = ctypes.CDLL(None)
libc.malloc.restype, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_void_p]
blocks = [libc.malloc(100_000) for _ in range(1000)]
for block in blocks:
    ctypes.memset(ctypes.c_void_p(block), 1, 100_000)
last = libc.malloc(100_000)  # a heap that is only cut at its end stays
full = resident()
for block in blocks:
    libc.free(block)
memory.give_back()
print(full - resident())
memory.stay_small()
"""


def test_what_is_free_in_the_middle_of_the_heap_is_given_back() -> None:
    source = Path(__file__).parents[3] / "src"
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        env={**os.environ, "PYTHONPATH": str(source), "MALLOC_MMAP_THRESHOLD_": str(1 << 30)},
        capture_output=True,
        text=True,
        timeout=20,
        check=True,
    )
    assert int(done.stdout) > 80


HEAPS = """
import ctypes, os, threading
from fairlead.server.worker import set_up_process

def resident():
    return int(open("/proc/self/statm").read().split()[1]) * os.sysconf("SC_PAGE_SIZE") >> 20

libc = ctypes.CDLL(None)
libc.malloc.restype, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_void_p]

def work():
    # Three blocks fill most of what one heap of a thread can be.
    blocks = [libc.malloc(16 << 20) for _ in range(3)]
    for block in blocks:
        ctypes.memset(ctypes.c_void_p(block), 1, 16 << 20)
    sizes.append(resident())
    for block in blocks:
        libc.free(block)

sizes = []
set_up_process()
thread = threading.Thread(target=work)
thread.start()
thread.join()
from fairlead.kits import memory
memory.give_back()
print(sizes[0] - resident())
"""


def test_what_a_thread_of_a_server_has_freed_is_given_back() -> None:
    source = Path(__file__).parents[3] / "src"
    # Neither threshold moves by itself then: the blocks lie in a heap, and whoever frees them cuts nothing off.
    heap = {"MALLOC_MMAP_THRESHOLD_": str(1 << 30), "MALLOC_TRIM_THRESHOLD_": str(1 << 30)}
    done = subprocess.run(
        [sys.executable, "-c", HEAPS],
        env={**os.environ, **heap, "PYTHONPATH": str(source)},
        capture_output=True,
        text=True,
        timeout=20,
        check=True,
    )
    assert int(done.stdout) > 40


def test_it_can_be_asked_for_at_any_time_and_with_any_c_library(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stay_small()
    give_back()
    monkeypatch.setattr(ctypes, "CDLL", lambda _: object())
    stay_small()
    give_back()


class _Ring:
    """Only the collector finds it, once nobody else holds it."""

    def __init__(self) -> None:
        self.me = self


def test_what_is_settled_is_looked_at_no_more() -> None:
    ring = _Ring()
    there = weakref.ref(ring)
    try:
        memory.settle(clean=False)
        del ring
        gc.collect()
        assert there() is not None
    finally:
        gc.unfreeze()
    gc.collect()
    assert there() is None


def test_garbage_is_looked_for_seldom_until_what_was_imported_is_settled() -> None:
    usual = gc.get_threshold()
    try:
        garbage.seldom()
        assert gc.get_threshold()[0] > 100_000 > usual[0]
        memory.settle(clean=False)
        assert gc.get_threshold() == usual
    finally:
        gc.unfreeze()
        gc.set_threshold(*usual)


def test_settling_throws_away_first_what_nobody_holds() -> None:
    there = weakref.ref(_Ring())
    gc.disable()
    try:
        memory.settle()
        assert there() is None
    finally:
        gc.unfreeze()
        gc.enable()
