"""The next version of a release document, by the file and by what its line ever had."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, strategies as st

from fairlead.domain.bumping import bump, bumped, highest
from fairlead.domain.catalog import Catalog, Line, Pin, Revision, Service
from fairlead.domain.ids import ArtifactRef, LineId, RevisionId


def document(version: str, *tags: str) -> dict[str, Any]:
    traffic = [{"tag": tag, "percent": 100 // len(tags)} for tag in tags]
    return {"model": "v9", "version": version, **({"traffic": traffic} if tags else {})}


@pytest.mark.parametrize(
    ("version", "taken", "after", "warning"),
    [
        ("2", 2, "3", ""),
        ("1", 4, "5", "version 2 of v9 is taken already, its line has had 4; going to 5"),
        ("4", 4, "5", ""),
        ("3", 4, "5", "version 4 of v9 is taken"),
        ("7", 2, "8", "version 8 of v9 leaves a gap: its line has had 2 at most"),
        ("1", 0, "2", "version 2 of v9 leaves a gap: its line has had no revision yet"),
        ("007", 7, "8", ""),
    ],
)
def test_the_next_version_is_above_the_files_and_the_lines(
    version: str, taken: int, after: str, warning: str
) -> None:
    made = bump(document(version, version), taken)
    assert (made.line, made.before, made.after, made.refusal) == ("v9", version, after, "")
    assert bool(made.warnings) == bool(warning)
    assert warning in "".join(made.warnings)


def test_split_traffic_and_words_are_for_people() -> None:
    split = bump(document("2", "1", "2"), 2)
    assert split.refusal == "split traffic config, manual update required, skipping..."
    assert "is not a whole number" in bump(document("a2"), 2).refusal
    assert bump(document("2"), 2).refusal == ""


def test_all_traffic_goes_to_the_new_version_where_the_file_says_anything_of_it() -> None:
    assert bumped(document("2", "1"), "3")["traffic"] == [{"tag": "3", "percent": 100}]
    assert "traffic" not in bumped(document("2"), "3")
    assert list(bumped(document("2", "2"), "3")) == ["model", "version", "traffic"]


def test_what_a_line_has_let_go_counts() -> None:
    line_id = LineId("speech", "v9")
    one = RevisionId("speech", "v9", "3")
    there = Revision(one, ArtifactRef("a", 1), "sha256:x", (), "", 0.0)
    line = Line(line_id, {"3": there, "beta": there}, (), let_go=("1", "12", "x"))
    catalog = Catalog(1, {"speech": Service("speech", {"v9": line}, Pin("v9", by_hand=False))})
    assert highest(catalog, line_id) == 12
    assert highest(catalog, LineId("speech", "v10")) == 0
    assert highest(Catalog(), line_id) == 0


@given(version=st.integers(0, 10**9), taken=st.integers(0, 10**9))
def test_the_next_version_was_never_used(version: int, taken: int) -> None:
    made = bump(document(str(version)), taken)
    assert int(made.after) == max(version, taken) + 1
    assert bool(made.warnings) == (version != taken)
