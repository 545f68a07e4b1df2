"""Opening a home for a command: from its option, the environment, or the nearest one; and saying which."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from fairlead.domain.errors import FairleadError, Kind
from fairlead.wiring.homes import Control, open_home
from fairlead.wiring.settings import environment


def control_for(home: Path | None, tell: Callable[[str], None], *, create: bool = False) -> Control:
    """Open the home that is meant. A home that was found, not named, is told."""
    named = home or environment().home
    control = open_home(named, create=create)
    if named is None:
        tell(f"home: {control.home.root}")
    return control


def control_unless_named(
    home: Path | None, url: str | None, tell: Callable[[str], None]
) -> Control | None:
    """The same for a command that asks a gateway: None if that is named by `url` and there is no home."""
    try:
        return control_for(home, tell)
    except FairleadError as error:
        if url is None or home is not None or error.kind is not Kind.NOT_FOUND:
            raise
        return None
