"""`fairlead why REQUEST-ID`: one request, explained from the access log."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fairlead.cli.common import home_option, json_option, say

if TYPE_CHECKING:
    from fairlead.wiring.requests import Found

_WIDTH = 10


class OrRequest(click.Group):
    """A group of which every word that is no command of it is a request's id."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args[0] in self.commands:
            return super().resolve_command(ctx, args)
        return request.name, request, args

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Also `why --json ID`: a group would take the options before a word for its own."""
        word = self._first_word(args)
        if word is not None and word not in self.commands:
            place = args.index(word)
            args = [word, *args[:place], *args[place + 1 :]]
        return super().parse_args(ctx, args)

    def _first_word(self, args: list[str]) -> str | None:
        words = iter(args)
        for word in words:
            if word == "--home":
                next(words, None)
            elif not word.startswith("-"):
                return word
        return None


@click.command("request")
@click.argument("request_id", metavar="REQUEST-ID")
@home_option
@click.option("--all", "every", is_flag=True, help="Every request that carried this id.")
@json_option
def request(request_id: str, home: Path | None, every: bool, as_json: bool) -> int:
    """Explain one request: its key, the rule that chose, bucket, revision, worker, times, retries."""
    from fairlead.wiring.control import control_for
    from fairlead.wiring.requests import find_requests

    found = find_requests(control_for(home, say), request_id)
    shown = found if every else found[-1:]
    if as_json:
        documents = [_document(one) for one in shown]
        click.echo(json.dumps(documents if every else documents[0], indent=1, ensure_ascii=False))
        return 0
    for number, one in enumerate(shown):
        if number:
            click.echo()
        _print(one)
    if len(found) > len(shown):
        say(f"{len(found)} requests carried this id, this is the last: --all shows every")
    return 0


def _document(one: Found) -> dict[str, Any]:
    return {**one.explanation.document, "workerLog": one.worker_log}


def _print(one: Found) -> None:
    click.echo(one.explanation.title)
    for name, text in one.explanation.parts:
        click.echo(f"  {name:<{_WIDTH}} {text}")
    if not one.explanation.document.get("catalog", {"exact": True})["exact"]:
        click.echo(
            f"  {'note':<{_WIDTH}} names come from what is configured now; that time's catalog is not there"
        )
    for record in one.worker_log:
        click.echo(
            f"  {'its log':<{_WIDTH}} {record.get('asctime', '')} {record.get('levelname', '')} {record.get('message', '')}"
        )
