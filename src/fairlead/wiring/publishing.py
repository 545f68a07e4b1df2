"""Publishing a folder from the command line."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

from fairlead.adapters.documents import read_document
from fairlead.control.publish import DESCRIPTION, Published, publish
from fairlead.domain.errors import InvalidInput, Problem
from fairlead.wiring.homes import Control


def publish_folder(control: Control, folder: Path, tell: Callable[[str], None]) -> Published:
    """Prove and publish one folder; raises FairleadError with what is wrong with it."""
    description = folder / DESCRIPTION
    if not description.is_file():
        raise InvalidInput(
            str(folder),
            [Problem("", f"holds no {DESCRIPTION}", "write one: name, version, engine")],
        )
    return asyncio.run(publish(folder, read_document(description), control.artifacts, tell))
