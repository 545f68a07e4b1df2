"""One line at a terminal that the next one replaces: progress, for whoever watches."""

from __future__ import annotations

import os
import sys

import click

from fairlead.kits.terminal import one_line

_ERASE = "\r\x1b[K"
_COLUMNS = 100  # of a terminal that does not say


def show(line: str) -> None:
    """Show what is going on; nothing where nobody watches."""
    if sys.stderr.isatty():
        click.echo(f"{_ERASE}{one_line(line)[: _columns() - 1]}", err=True, nl=False)


def clear() -> None:
    """Take the line away."""
    if sys.stderr.isatty():
        click.echo(_ERASE, err=True, nl=False)


def _columns() -> int:
    try:
        return os.get_terminal_size(sys.stderr.fileno()).columns or _COLUMNS
    except (OSError, ValueError):
        return _COLUMNS
