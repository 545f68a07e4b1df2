"""The next version of a release file (S0-15): decided from the file and from what its line ever had."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fairlead.domain.catalog import Catalog
from fairlead.domain.ids import LineId
from fairlead.domain.release import WHOLE

_NUMBER = re.compile(r"[0-9]{1,17}")


@dataclass(frozen=True, slots=True)
class Bump:
    """What a file becomes. `refusal` says why it stays as it is; empty if it does not."""

    line: str
    before: str
    after: str
    warnings: tuple[str, ...] = ()
    refusal: str = ""


def highest(catalog: Catalog, line_id: LineId) -> int:
    """The highest revision a line ever had, those it has let go too; 0 if it never had any.

    It takes the place of the cluster's observed generation: a version that is taken never comes back.
    """
    service = catalog.services.get(line_id.service)
    line = service.lines.get(line_id.line) if service else None
    names = [*line.revisions, *line.let_go] if line else []
    return max((int(name) for name in names if _NUMBER.fullmatch(name)), default=0)


def bump(document: Mapping[str, Any], taken: int) -> Bump:
    """The next version of a release document that reads right; `taken` is the highest its line has used.

    A file that splits traffic is for people: which revisions shall share it next cannot be known.
    """
    line, version = str(document["model"]), str(document["version"])
    if len(document.get("traffic") or ()) > 1:
        return Bump(
            line,
            version,
            version,
            refusal="split traffic config, manual update required, skipping...",
        )
    if not _NUMBER.fullmatch(version):
        wrong = f"version {version!r} is not a whole number, manual update required, skipping..."
        return Bump(line, version, version, refusal=wrong)
    following, warnings = int(version) + 1, []
    if following <= taken:
        warnings.append(
            f"version {following} of {line} is taken already, its line has had {taken}; going to {taken + 1}"
        )
        following = taken + 1
    elif following > taken + 1:
        had = f"its line has had {taken} at most" if taken else "its line has had no revision yet"
        warnings.append(f"version {following} of {line} leaves a gap: {had}")
    return Bump(line, version, str(following), tuple(warnings))


def bumped(document: Mapping[str, Any], version: str) -> dict[str, Any]:
    """The document with another version, and all traffic on it if it says anything of traffic."""
    traffic = {"traffic": [{"tag": version, "percent": WHOLE}]} if document.get("traffic") else {}
    return {**document, "version": version, **traffic}
