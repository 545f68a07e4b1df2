"""`fairlead`: the commands by name, and what becomes of an error."""

from __future__ import annotations

import importlib
import os
import sys
import traceback
from collections.abc import Mapping
from pathlib import Path

import click

import fairlead
from fairlead.domain.errors import FairleadError
from fairlead.kits.terminal import printable

# name -> (module, attribute, one line of help): listed here so that `fairlead --help` imports none of them.
COMMANDS: Mapping[str, tuple[str, str, str]] = {
    "init": ("project", "init", "Write a small working project into a folder."),
    "up": ("up", "up", "Run everything on this machine until Ctrl-C."),
    "status": ("status", "status", "What should serve, what does, and why not."),
    "predict": ("predict", "predict", "Ask a service."),
    "logs": ("logs", "logs", "What happened, one line per event."),
    "validate": ("release", "validate", "Check release files, offline."),
    "plan": ("release", "plan", "What applying release files would change."),
    "apply": ("release", "apply", "Apply release files."),
    "docs": ("docs", "docs", "Reference pages, generated from the code."),
    "publish": ("models", "publish", "Prove a model and publish it as an artifact."),
    "models": ("models", "models", "The published artifacts."),
    "keys": ("keys", "keys", "The keys of callers."),
    "pin": ("traffic", "pin", "Which line `latest` means."),
    "traffic": ("traffic", "traffic", "Split a line's traffic over its revisions."),
    "kill": ("traffic", "kill", "Switch a service off: its callers get 503."),
    "revive": ("traffic", "revive", "Switch a service on again."),
    "serve": ("processes", "serve", "Serve models directly, without a gateway."),
    "agent": ("processes", "agent", "Run a node's agent."),
    "gateway": ("processes", "gateway", "Run a node's gateway."),
    "worker": ("processes", "worker", "Run one worker (started by the agent)."),
}
_HIDDEN = frozenset({"worker"})
_INTERRUPTED = 130  # 128 + SIGINT, as shells have it


class Commands(click.Group):
    """Commands that are imported when they are called."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - the library's signature
        return [name for name in COMMANDS if name not in _HIDDEN]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        if cmd_name not in COMMANDS:
            return None
        module, attribute, _ = COMMANDS[cmd_name]
        command: click.Command = getattr(
            importlib.import_module(f"fairlead.cli.{module}"), attribute
        )
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, COMMANDS[name][2]) for name in self.list_commands(ctx)])

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError as error:
            import difflib

            close = difflib.get_close_matches(args[0], COMMANDS, n=1)
            hint = f"did you mean {close[0]!r}?" if close else "see fairlead --help"
            raise click.UsageError(f"there is no command {args[0]!r}; {hint}", ctx) from error


@click.group(
    cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100}
)
@click.version_option(fairlead.__version__, prog_name="fairlead", message="%(prog)s %(version)s")
def cli() -> None:
    """Release machine-learning models and lead traffic to them."""


def main() -> None:
    """Run a command; every error ends as one clear message and an exit code."""
    try:
        code = cli.main(standalone_mode=False)
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message())
        code = 0
    except click.ClickException as error:
        error.show()
        code = error.exit_code
    except FairleadError as error:
        click.echo(printable(f"error: {error}"), err=True)
        code = 1
    except (KeyboardInterrupt, click.Abort):
        click.echo("interrupted", err=True)
        code = _INTERRUPTED
    except BrokenPipeError:
        # Whoever read our output has gone; Python would complain once more when it flushes.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 0
    except OSError as error:
        click.echo(f"error: {error.filename or 'system'}: {error.strerror or error}", err=True)
        code = 1
    except Exception as error:  # noqa: BLE001 - the last net: no traceback reaches a user
        code = 1
        click.echo(
            printable(
                f"unexpected error: {type(error).__name__}: {error} (details: {_kept_details()})"
            ),
            err=True,
        )
    sys.exit(code if isinstance(code, int) else 0)


def _kept_details() -> Path:
    import tempfile

    with tempfile.NamedTemporaryFile(
        "w", prefix="fairlead-error-", suffix=".txt", delete=False, encoding="utf-8"
    ) as file:
        traceback.print_exc(file=file)
    return Path(file.name)
