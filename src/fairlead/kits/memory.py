"""What the C library does with memory that a process does not use any more.

It keeps it: for each of several heaps, one for every few threads, in the hope that it is wanted again. In a process
that lives for months this looks like a leak, and with a model that was unloaded it is as large as the model. Nor does
`malloc_trim` help: it cuts the end of the first heap only, and tens of MiB may be free at the end of each. Only
glibc can be told; elsewhere nothing happens. And what Python's own collector does with what is never thrown away.
"""

from __future__ import annotations

import ctypes
import gc
from typing import Any

from fairlead.kits import garbage

# Parameters of glibc's mallopt (malloc.h).
_MMAP_THRESHOLD, _ARENA_MAX = -3, -8
_LARGE_BYTES = 128 << 10  # where it begins, before it moves by itself


def one_heap() -> None:
    """One heap for all threads, before others than the first begin: they take turns, as Python's mostly do.

    All that is free in it can be given back, and nothing of it lies where a thread was that has ended.
    """
    set_option = _function("mallopt")
    if set_option is not None:
        set_option(_ARENA_MAX, 1)


def stay_small() -> None:
    """One heap, and large blocks go back at once: for a process that seldom has any."""
    one_heap()
    set_option = _function("mallopt")
    if set_option is not None:
        set_option(_MMAP_THRESHOLD, _LARGE_BYTES)


def give_back() -> None:
    """Return what is free to the system, all of it if there is one heap.

    Takes milliseconds, during which whoever allocates waits: not for an event loop.
    """
    trim = _function("malloc_trim")
    if trim is not None:
        trim(0)


def settle(*, clean: bool = True) -> None:
    """What there is now stays for as long as the process: the garbage collector looks at it no more.

    A look at everything that a worker's libraries have made holds all its threads for 30 ms and finds nothing.
    `clean`: look once more before. That is cheap if what was imported has been settled already.
    """
    if clean:
        gc.collect()
    gc.freeze()
    garbage.as_usual()


def _function(name: str) -> Any:  # noqa: ANN401 - a function of C
    try:
        return getattr(ctypes.CDLL(None), name, None)
    except OSError:  # pragma: no cover - a Python without a dynamic linker
        return None
