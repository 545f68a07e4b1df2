"""Giving a release file another version, and leaving everything else of it as a person wrote it.

JSON is written anew, as S0-15 has it: two spaces, a line end. In YAML only the characters of the values
themselves are replaced: comments, quotes, order and blank lines stay what they were.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml

from fairlead.adapters.documents import read_document
from fairlead.domain.bumping import bumped
from fairlead.domain.errors import InvalidInput, Problem
from fairlead.kits.files import write_atomic

_BY_HAND = "change its version by hand"

Edit = tuple[int, int, str]  # from, to, by what


def rewrite(path: Path, document: dict[str, Any], version: str) -> None:
    """Write the file with that version, and all traffic on it. `document` is what it says now.

    Raises InvalidInput if it cannot be done without changing anything else; the file is then as it was.
    """
    wanted = bumped(document, version)
    target = path.resolve()  # a link goes on leading there
    if path.suffix == ".json":
        text = json.dumps(wanted, indent=2, ensure_ascii=False) + "\n"
    else:
        text = _edited(path, target.read_bytes().decode(), version)
    before = target.read_bytes()
    mode = target.stat().st_mode & 0o777
    write_atomic(target, text.encode(), mode=mode)
    if read_document(path) != wanted:
        write_atomic(target, before, mode=mode)
        wrong = "could not be changed without changing something else"
        raise InvalidInput(str(path), [Problem("version", wrong, _BY_HAND)])


def _edited(path: Path, text: str, version: str) -> str:
    root = yaml.compose(text, Loader=yaml.SafeLoader)
    edits = [_edit(path, _value(root, "version"), version)]
    traffic = _value(root, "traffic")
    if isinstance(traffic, yaml.SequenceNode) and traffic.value:
        share = traffic.value[0]
        edits.append(_edit(path, _value(share, "tag"), version))
        percent = _value(share, "percent")
        if isinstance(percent, yaml.ScalarNode):
            edits.append((percent.start_mark.index, percent.end_mark.index, "100"))
    for start, end, value in sorted(edits, reverse=True):
        text = f"{text[:start]}{value}{text[end:]}"
    return text


def _edit(path: Path, node: yaml.Node | None, version: str) -> Edit:
    if not isinstance(node, yaml.ScalarNode) or node.style not in ("'", '"', None):
        wrong = "is written in a way that is not changed by a program"
        raise InvalidInput(str(path), [Problem("version", wrong, _BY_HAND)])
    quote = node.style or '"'  # a version is text, and a bare number would not be
    return node.start_mark.index, node.end_mark.index, f"{quote}{version}{quote}"


def _value(node: yaml.Node | None, key: str) -> yaml.Node | None:
    pairs = node.value if isinstance(node, yaml.MappingNode) else ()
    return next((value for name, value in pairs if name.value == key), None)
