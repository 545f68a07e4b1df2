"""`fairlead completion`: the script that lets a shell complete commands, options and names."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

VARIABLE = "_FAIRLEAD_COMPLETE"


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(ctx: click.Context, shell: str) -> int:
    """Print the script that lets SHELL complete commands, options, services, versions, keys and files.

    \b
    bash:  fairlead completion bash > ~/.local/share/bash-completion/completions/fairlead
    zsh:   fairlead completion zsh > ~/.zfunc/_fairlead   (with fpath+=~/.zfunc before compinit)
    fish:  fairlead completion fish > ~/.config/fish/completions/fairlead.fish

    Or for this shell alone: eval "$(fairlead completion bash)"
    """  # noqa: D301 - the library wants the character
    kind = get_completion_class(shell)
    assert kind is not None
    click.echo(kind(ctx.find_root().command, {}, "fairlead", VARIABLE).source())
    return 0
