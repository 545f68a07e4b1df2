"""Options that several commands share, and how lists are printed."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import click

from fairlead.domain.errors import InvalidInput, Problem
from fairlead.domain.reading import Variables
from fairlead.kits.terminal import one_line, printable

Function = TypeVar("Function", bound=Callable[..., Any])


def home_option(function: Function) -> Function:
    """`--home`, with what it means when it is not given."""
    return click.option(
        "--home",
        type=click.Path(path_type=Path, file_okay=False, readable=False),  # we say it better
        help="The Fairlead home. Default: FAIRLEAD_HOME, else the nearest .fairlead/ upwards from here.",
    )(function)


def address_options(function: Function) -> Function:
    """`--host`, `--port`, `--tls-cert` and `--tls-key` of a gateway."""
    file = click.Path(path_type=Path, dir_okay=False)
    options = (
        click.option(
            "--host", help="Address to listen on. Default: FAIRLEAD_HOST, else 127.0.0.1."
        ),
        click.option(
            "--port",
            type=click.IntRange(1, 65_535),
            help="Port to listen on. Default: FAIRLEAD_PORT, else 8080.",
        ),
        click.option(
            "--tls-cert",
            type=file,
            help="PEM certificate chain: speak TLS. Default: FAIRLEAD_TLS_CERT.",
        ),
        click.option("--tls-key", type=file, help="PEM private key. Default: FAIRLEAD_TLS_KEY."),
    )
    for option in reversed(options):
        function = option(function)
    return function


def json_option(function: Function) -> Function:
    """`--json`, for programs."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON.")(function)


def release_files(function: Function) -> Function:
    """FILE…: release files."""
    return click.argument(
        "files", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="FILE..."
    )(function)


def release_variables(function: Function) -> Function:
    """`--var` and `--var-code`: the function gets them as `variables`."""

    @functools.wraps(function)
    def called(*arguments: Any, texts: tuple[str, ...], code: tuple[str, ...], **named: Any) -> Any:
        variables = Variables(_pairs("--var", texts), _pairs("--var-code", code))
        return function(*arguments, variables=variables, **named)

    options = (
        click.option(
            "--var",
            "texts",
            multiple=True,
            metavar="NAME=TEXT",
            help="For Jsonnet files: an argument of the file's function, and std.extVar('NAME').",
        ),
        click.option(
            "--var-code",
            "code",
            multiple=True,
            metavar="NAME=CODE",
            help="The same, as a Jsonnet expression: --var-code shares='[90, 10]'.",
        ),
    )
    for option in reversed(options):
        called = option(called)
    return called  # type: ignore[return-value]  # takes what the function takes, and the two options


def _pairs(option: str, texts: Sequence[str]) -> dict[str, str]:
    found: dict[str, str] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or not name.isidentifier():
            raise InvalidInput("", [Problem(option, f"is {text!r}", "write NAME=VALUE: env=prod")])
        if name in found:
            raise InvalidInput("", [Problem(option, f"gives {name} twice", "keep one of the two")])
        found[name] = value
    return found


def text_of(argument: str) -> str:
    """What an argument means: @FILE the file's text, - what standard input says, anything else itself.

    Raises click.UsageError for a file that cannot be read.
    """
    if argument == "-":
        return sys.stdin.read()
    if not argument.startswith("@"):
        return argument
    path = argument[1:]
    try:
        return Path(path).read_text(encoding="utf-8")
    except OSError as error:
        raise click.UsageError(f"{path} cannot be read: {error.strerror}") from None
    except ValueError:
        raise click.UsageError(f"{path} cannot be read: it is not UTF-8") from None


def say(line: str = "") -> None:
    """To the person at the terminal, not to the program that reads the output."""
    click.echo(printable(line), err=True)


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns as wide as their content."""
    lines = [list(header), *[[one_line(cell) for cell in row] for row in rows]]
    widths = [max(len(line[column]) for line in lines) for column in range(len(header))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )
