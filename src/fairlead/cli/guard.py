"""The last net of the command line: whatever happens, one clear line and an exit code, never a traceback.

An error line starts with its code, `error[not_found]: …`; `fairlead docs errors` explains each.
"""

from __future__ import annotations

import contextlib
import errno
import io
import logging
import os
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

import fairlead
from fairlead.domain.errors import FairleadError, Kind
from fairlead.domain.explanations import (
    DONE,
    FAILED,
    INTERRUPTED,
    SYSTEM,
    UNEXPECTED,
    UNREAD,
)
from fairlead.kits.terminal import printable

_A_MOMENT_SECONDS = 0.01
_REPORT_TO = "please report it, with that file, to whoever maintains Fairlead"


def guarded(command: Callable[[], Any]) -> int:
    """Run a command to its exit code."""
    _make_streams_safe()
    # A library's warning is no answer to a person; processes that log set up their own.
    logging.getLogger().addHandler(logging.NullHandler())
    return _finish(_run(command))


def keep_interrupts() -> None:
    """See to it that no Ctrl-C is lost.

    One that comes while a finalizer or a weak reference's callback runs is raised in there (each import has some), and
    Python goes on after printing it. It is raised once more a moment later, when that is over.
    """
    tell = sys.unraisablehook

    def told(ignored: Any) -> None:
        if issubclass(ignored.exc_type, KeyboardInterrupt):
            signal.setitimer(signal.ITIMER_REAL, _A_MOMENT_SECONDS)
        else:
            tell(ignored)

    signal.signal(signal.SIGALRM, signal.default_int_handler)
    sys.unraisablehook = told


def _run(command: Callable[[], Any]) -> int:
    try:
        result = command()
    except click.exceptions.NoArgsIsHelpError as error:
        _tell(error.format_message(), err=False)
        return DONE
    except click.ClickException as error:
        with contextlib.suppress(OSError):
            error.show()
        return error.exit_code
    except (KeyboardInterrupt, click.Abort):
        _tell("interrupted")
        return INTERRUPTED
    except SystemExit as end:  # the library's, when who reads our output has gone
        return end.code if isinstance(end.code, int) else FAILED
    except BaseException as error:  # noqa: BLE001 - the last net: no traceback reaches a user
        return _explain(_leaf(error))
    return result if isinstance(result, int) else DONE


def _leaf(error: BaseException) -> BaseException:
    """What really happened, where tasks have wrapped it: our own refusal before all else."""
    if not isinstance(error, BaseExceptionGroup):
        return error
    leaves = [_leaf(one) for one in error.exceptions]
    ours = [one for one in leaves if isinstance(one, FairleadError)]
    return (ours or leaves)[0]


def _explain(error: BaseException) -> int:
    if isinstance(error, KeyboardInterrupt):
        _tell("interrupted")
        return INTERRUPTED
    if isinstance(error, FairleadError):
        _tell(printable(f"error[{error.kind}]: {error}"))
        return FAILED
    if isinstance(error, BrokenPipeError):
        return UNREAD
    if isinstance(error, OSError):
        _tell(printable(f"error[{SYSTEM}]: {_words(error)}"))
        return FAILED
    what = " ".join(f"{type(error).__name__}: {error}".split())
    what = printable(what)
    _tell(f"error[{Kind.INTERNAL}]: {what}; this is a fault of Fairlead: {_kept_details(error)}")
    return UNEXPECTED


def _words(error: OSError) -> str:
    name = error.filename
    where = os.fsdecode(name) if isinstance(name, str | bytes) else "the system"
    return f"{where}: {error.strerror or error}"


def _kept_details(error: BaseException) -> str:
    """Write the traceback where its reader can take it from; says where, or why not."""
    import tempfile

    try:
        with tempfile.NamedTemporaryFile(
            "w", prefix="fairlead-error-", suffix=".txt", delete=False, encoding="utf-8"
        ) as file:
            # No arguments: a key could be one of them.
            file.write(f"Fairlead {fairlead.__version__}, Python {sys.version}, {sys.platform}\n")
            traceback.print_exception(error, file=file)
        return f"details are in {Path(file.name)}; {_REPORT_TO}"
    except OSError as problem:
        return f"its details could not be kept ({problem.strerror or problem})"


def _tell(line: str, *, err: bool = True) -> None:
    with contextlib.suppress(OSError):  # nobody can be told that nobody can be told
        click.echo(line, err=err)


def _make_streams_safe() -> None:
    """A file name may hold bytes that are no text, a terminal may know few letters: neither is an error."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _finish(code: int) -> int:
    """Flush while we can still say what is wrong; Python's own complaint at its end would be a traceback."""
    for stream, descriptor in ((sys.stdout, 1), (sys.stderr, 2)):
        try:
            if stream is not None:
                stream.flush()
        except (OSError, ValueError) as error:
            with contextlib.suppress(OSError):
                os.dup2(os.open(os.devnull, os.O_WRONLY), descriptor)
            if getattr(error, "errno", None) == errno.EPIPE:
                return code or UNREAD
            if code == DONE:
                _tell(f"error[{SYSTEM}]: standard output: {getattr(error, 'strerror', error)}")
                return FAILED
    return code
