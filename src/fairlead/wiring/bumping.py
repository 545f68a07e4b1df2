"""Bumping release files: each against its line in the catalog, one after the other."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from fairlead.adapters.documents import read_document
from fairlead.adapters.rewriting import rewrite
from fairlead.domain.bumping import Bump, bump, highest
from fairlead.domain.catalog import Catalog
from fairlead.domain.errors import InvalidInput, Problem
from fairlead.domain.ids import LineId
from fairlead.domain.reading import JSONNET, SUFFIXES
from fairlead.domain.release import release_from_document


def release_files_in(paths: Iterable[Path]) -> list[Path]:
    """The files that are meant: those named, and of a directory those in it that end as release files do, in order.

    Raises InvalidInput for a directory that has none, or where one of them is no regular file (S0-16): a pipe,
    a link that leads nowhere. What lies in folders below is not meant.
    """
    found: list[Path] = []
    for path in paths:
        if not path.is_dir():
            found.append(path)
            continue
        inside = sorted(one for one in path.iterdir() if _looks_like_one(one))
        if not inside:
            wrong, right = "holds no release file", f"name *{', *'.join(SUFFIXES)} files"
            raise InvalidInput(str(path), [Problem("", wrong, right)])
        for one in inside:
            if not one.is_file():
                right = "mend it, or take it out of that directory"
                raise InvalidInput(str(one), [Problem("", "is no regular file", right)])
        found += inside
    return found


def _looks_like_one(path: Path) -> bool:
    return path.suffix in SUFFIXES and not path.name.startswith(".") and not path.is_dir()


def bump_files(
    files: Iterable[Path], catalog: Catalog, *, write: bool
) -> Iterator[tuple[Path, Bump]]:
    """Bump each file; versions given to one file of a line are taken for the next.

    Raises InvalidInput, before any file is changed, if one of them is no release file that can be.
    """
    given: dict[LineId, int] = {}
    for path, document in [(path, _document(path)) for path in files]:
        line_id = LineId(str(document.get("service", "")), str(document["model"]))
        taken = max(highest(catalog, line_id), given.get(line_id, 0))
        made = bump(document, taken)
        if not made.refusal:
            given[line_id] = int(made.after)
            if write:
                rewrite(path, document, made.after)
        yield path, made


def _document(path: Path) -> dict[str, Any]:
    if path.suffix == JSONNET:
        right = "change `version` in it by hand, or let it be an argument: --var version=8"
        wrong = "is Jsonnet, a program: what it makes of a version nobody can write back"
        raise InvalidInput(str(path), [Problem("", wrong, right)])
    document: dict[str, Any] = read_document(path)
    release_from_document(document, str(path))  # what does not read right is not changed
    return document
