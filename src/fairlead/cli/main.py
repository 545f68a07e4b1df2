"""`fairlead`: the commands by name. What becomes of an error is `cli/guard`'s matter."""

from __future__ import annotations

import importlib
from collections.abc import Mapping

import click
from click.shell_completion import CompletionItem

import fairlead
from fairlead.cli.completing import with_values
from fairlead.cli.guard import guarded

# name -> (module, attribute, one line of help): listed here so that `fairlead --help` imports none of them.
COMMANDS: Mapping[str, tuple[str, str, str]] = {
    "init": ("project", "init", "Write a small working project into a folder."),
    "up": ("up", "up", "Run everything on this machine until Ctrl-C."),
    "status": ("status", "status", "What should serve, what does, and why not."),
    "predict": ("predict", "predict", "Ask a service."),
    "say": ("say", "say", "Let a speech service say something, into a file or a pipe."),
    "logs": ("logs", "logs", "What happened, one line per event."),
    "validate": ("release", "validate", "Check release files, offline."),
    "plan": ("release", "plan", "What applying release files would change."),
    "apply": ("release", "apply", "Apply release files."),
    "revisions": ("revisions", "revisions", "Every revision, and how far it is on each node."),
    "delete": (
        "delete",
        "delete",
        "Delete a service, a line or a revision, and all that is left of it.",
    ),
    "bump": ("bump", "bump", "The next version into release files."),
    "verify": ("verify", "verify", "Ask every path of release files: does it answer?"),
    "doctor": ("doctor", "doctor", "What is wrong on this machine, and how to mend it."),
    "completion": ("completion", "completion", "Let your shell complete commands and names."),
    "docs": ("docs", "docs", "Reference pages, generated from the code."),
    "publish": ("models", "publish", "Prove a model and publish it as an artifact."),
    "models": ("models", "models", "The published artifacts."),
    "keys": ("keys", "keys", "The keys of callers."),
    "rollout": ("rollout", "rollout", "Lead a new revision to all traffic, judged step by step."),
    "rollouts": ("rollout", "rollouts", "The rollouts there were, and how each ended."),
    "why": ("why", "why", "Why something was decided as it was."),
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
        return with_values(command)

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """The commands, none of them imported; and the options, as ever."""
        if incomplete.startswith("-"):
            return super().shell_complete(ctx, incomplete)
        names = [name for name in self.list_commands(ctx) if name.startswith(incomplete)]
        return [CompletionItem(name, help=COMMANDS[name][2]) for name in names]

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


def run() -> int:
    """Run a command; every error ends as one clear message and the exit code that is returned."""
    return guarded(lambda: cli.main(standalone_mode=False, complete_var="_FAIRLEAD_COMPLETE"))
