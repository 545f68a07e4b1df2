"""`fairlead rollout`, `fairlead rollouts`: a new revision led to all traffic, judged at every step."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fairlead.cli.common import home_option, json_option, say, table
from fairlead.cli.showing import clear, show
from fairlead.domain.errors import InvalidInput, Problem
from fairlead.domain.explanations import INTERRUPTED
from fairlead.domain.judge import Policy
from fairlead.domain.rollout import Outcome, Record, record_to_json

if TYPE_CHECKING:
    from fairlead.wiring.rolling import Rolling

_DEFAULT = Policy()
_MIB = 1 << 20


@click.command()
@click.argument("file", required=False, type=click.Path(path_type=Path))
@home_option
@click.option(
    "--steps",
    default=",".join(map(str, _DEFAULT.steps)),
    show_default=True,
    help="Percents of the line's traffic, one after another.",
)
@click.option(
    "--step-seconds",
    default=_DEFAULT.step_seconds,
    show_default=True,
    help="Least time at each step.",
)
@click.option(
    "--min-requests",
    default=_DEFAULT.min_requests,
    show_default=True,
    help="Least requests of either revision at each step.",
)
@click.option(
    "--timeout",
    default=_DEFAULT.timeout_seconds,
    show_default=True,
    help="Seconds after which a step that has settled nothing is rolled back.",
)
@click.option(
    "--start-timeout",
    default=_DEFAULT.start_seconds,
    show_default=True,
    help="Seconds for the new revision to get ready.",
)
@click.option(
    "--max-errors",
    default=100 * _DEFAULT.max_more_failed,
    show_default=True,
    help="Percent of requests that may fail beyond the stable revision's.",
)
@click.option(
    "--max-slower",
    default=100 * _DEFAULT.max_slower,
    show_default=True,
    help="Percent of latency beyond the stable revision's (mean and p95).",
)
@click.option(
    "--max-growth",
    default=_DEFAULT.max_growth_bytes // _MIB,
    show_default=True,
    help="MiB that a worker may grow by in one step, if it goes on growing.",
)
@click.option("--resume", metavar="ID", help="Take up a rollout whose command is gone.")
@click.option("--abort", metavar="ID", help="End a rollout: the stable revision gets all traffic.")
@json_option
def rollout(file: Path | None, home: Path | None, as_json: bool, **options: Any) -> int:
    """Lead FILE's revision to all of its line's traffic, or roll it back.

    Golden examples first, then 1 %, 10 %, 50 % and 100 %. At each step the new revision is compared with the
    stable one in the same window: failed requests, latency, memory, dead workers, and the golden examples
    again. It is promoted or rolled back without being asked; Ctrl-C rolls back. `fairlead why rollout` says why.

    Exits with 0 if the revision was promoted, 1 if not.
    """
    from fairlead.wiring.control import control_for
    from fairlead.wiring.rolling import Rolling

    given = [name for name in ("resume", "abort") if options[name]]
    if len(given) + (file is not None) != 1:
        raise click.UsageError("name one release file, or --resume ID, or --abort ID")
    policy = _policy(options)
    rolling = Rolling(control_for(home, say), _tell, show)
    record = _run(rolling, file, policy, options)
    clear()
    if as_json:
        click.echo(json.dumps(record_to_json(record), indent=1))
    else:
        click.echo(_last_word(record))
    if given == ["abort"]:
        return 0 if record.outcome is Outcome.ROLLED_BACK else 1
    if rolling.interruption.reason:
        return INTERRUPTED
    return 0 if record.outcome is Outcome.PROMOTED else 1


@click.command()
@home_option
@json_option
def rollouts(home: Path | None, as_json: bool) -> int:
    """List the rollouts there were, newest last, and how each ended."""
    from fairlead.wiring.control import control_for
    from fairlead.wiring.journals import journals_in, state_of

    journals = journals_in(control_for(home, say))
    records = [journals.read(name) for name in journals.ids()]
    if as_json:
        documents = [record_to_json(record) | {"state": state_of(record)} for record in records]
        click.echo(json.dumps(documents, indent=1))
        return 0
    rows = [
        (
            record.rollout.id,
            str(record.rollout.candidate),
            record.rollout.stable.served_version,
            state_of(record),
            "; ".join(record.reasons),
        )
        for record in records
    ]
    click.echo(table(("ID", "REVISION", "AGAINST", "STATE", "WHY"), rows) if rows else "none yet")
    return 0


def _run(rolling: Rolling, file: Path | None, policy: Policy, options: dict[str, Any]) -> Record:
    if options["resume"]:
        return rolling.resume(options["resume"])
    if options["abort"]:
        return rolling.abort(options["abort"])
    assert file is not None
    return rolling.start(file, policy)


def _policy(options: dict[str, Any]) -> Policy:
    try:
        steps = tuple(int(part) for part in options["steps"].split(","))
    except ValueError:
        wrong = f"are {options['steps']!r}"
        right = "write rising percents that end in 100: 1,10,100"
        raise InvalidInput("rollout", [Problem("steps", wrong, right)]) from None
    return Policy(
        steps=steps,
        step_seconds=options["step_seconds"],
        min_requests=options["min_requests"],
        timeout_seconds=options["timeout"],
        start_seconds=options["start_timeout"],
        max_more_failed=options["max_errors"] / 100,
        max_slower=options["max_slower"] / 100,
        max_growth_bytes=options["max_growth"] * _MIB,
    )


def _last_word(record: Record) -> str:
    led = record.rollout
    stands = {
        Outcome.PROMOTED: f"promoted: {led.candidate} has all traffic",
        Outcome.ROLLED_BACK: f"rolled back: {led.stable} has all traffic, as before",
        Outcome.STOPPED: "stopped",
    }
    outcome = record.outcome
    assert outcome is not None
    why = "" if outcome is Outcome.PROMOTED else f"\nwhy: {'; '.join(record.reasons)}"
    return f"{stands[outcome]}{why}\nmore: fairlead why rollout {led.id}"


def _tell(line: str) -> None:
    clear()
    say(line)
