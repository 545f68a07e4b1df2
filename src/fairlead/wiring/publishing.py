"""Publishing a folder from the command line: bounded in time, and ended by the first Ctrl-C."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType

from fairlead.adapters.documents import read_document
from fairlead.control.publish import DESCRIPTION, Published, publish
from fairlead.domain.errors import FairleadError, InvalidInput, Kind, Problem
from fairlead.engines.pickles import refuse_pickles
from fairlead.wiring.homes import Control
from fairlead.wiring.settings import environment


def check_folders(folders: tuple[Path, ...]) -> None:
    """Raise InvalidInput for the first folder that holds no model, before anything is made."""
    for folder in folders:
        if not folder.is_dir():
            raise InvalidInput(str(folder), [Problem("", "is no folder", "name a model's folder")])
        if not (folder / DESCRIPTION).is_file():
            right = "write one: name, version, engine"
            raise InvalidInput(str(folder), [Problem("", f"holds no {DESCRIPTION}", right)])


def publish_folder(
    control: Control, folder: Path, tell: Callable[[str], None], limit_seconds: float
) -> Published:
    """Prove and publish one folder; raises FairleadError with what is wrong with it."""
    description = read_document(folder / DESCRIPTION)
    allow_pickle = pickles_allowed()
    # Not asyncio.run: that one waits for the model's own code before it lets Ctrl-C through.
    loop = asyncio.new_event_loop()
    with contextlib.closing(loop), _limit(folder, limit_seconds):
        work = publish(folder, description, control.artifacts, tell, allow_pickle=allow_pickle)
        return loop.run_until_complete(work)


def pickles_allowed() -> bool:
    """The node's setting; if it says no, this process cannot load pickles from now on."""
    allowed = environment().allow_pickle
    if not allowed:
        refuse_pickles()
    return allowed


@contextlib.contextmanager
def _limit(folder: Path, seconds: float) -> Iterator[None]:
    """Interrupt the model's code once its time is up; code that never comes back to Python is not reached."""

    def over(number: int, frame: FrameType | None) -> None:
        del number, frame
        message = (
            f"{folder}: loading and answering the golden examples took longer than {seconds:g} s: "
            "give --timeout if that is right for this model"
        )
        raise FairleadError(message, kind=Kind.DEADLINE)

    before = signal.signal(signal.SIGALRM, over)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
