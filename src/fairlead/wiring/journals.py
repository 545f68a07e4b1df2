"""What the journals of rollouts say, for commands that lead none themselves."""

from __future__ import annotations

from fairlead.adapters.store.rollouts import StoredRollouts
from fairlead.domain.rollout import Record
from fairlead.kits import processes
from fairlead.wiring.homes import Control


def journals_in(control: Control) -> StoredRollouts:
    """The journals of a home's store."""
    return StoredRollouts(control.store)


def is_led(record: Record) -> bool:
    """Does the process that leads an unfinished rollout still live, on this machine?"""
    try:
        return record.outcome is None and processes.alive(processes.from_record(record.leader))
    except (KeyError, TypeError):
        return False


def state_of(record: Record) -> str:
    """In words: how it ended, or how far it is and whether anybody leads it."""
    if record.outcome is not None:
        return str(record.outcome)
    return f"{'running' if is_led(record) else 'unfinished'} at {record.percent} %"


def open_rollouts(control: Control) -> list[str]:
    """One line for each rollout that has not ended, with what to do about one that nobody leads."""
    found = []
    for record in journals_in(control).unfinished():
        name, led = record.rollout.id, record.rollout
        line = f"rollout {name} of {led.candidate} is {state_of(record)}"
        if is_led(record):
            found.append(f"{line} (process {record.leader.get('pid')})")
        else:
            mend = f"`fairlead rollout --resume {name}` or `--abort {name}`"
            found.append(f"{line}, and its command is gone: {mend}")
    return found
