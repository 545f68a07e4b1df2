"""Which files of a directory are release files."""

from __future__ import annotations

from pathlib import Path

import pytest

from fairlead.domain.errors import InvalidInput
from fairlead.wiring.bumping import release_files_in


def touch(directory: Path, *names: str) -> None:
    for name in names:
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def test_of_a_directory_what_ends_like_release_files_is_meant_and_no_folder(tmp_path: Path) -> None:
    touch(tmp_path, "b.yaml", "a.json", "c.jsonnet", "d.yml")
    touch(tmp_path, "README.md", "__init__.py", ".swap.yaml", "1/model.yaml", "folder.yaml/x.json")
    assert [path.name for path in release_files_in([tmp_path])] == [
        "a.json",
        "b.yaml",
        "c.jsonnet",
        "d.yml",
    ]


def test_a_file_that_is_named_is_meant_whatever_it_is(tmp_path: Path) -> None:
    touch(tmp_path, "in/a.json")
    named = tmp_path / "x.txt"
    assert release_files_in([named, tmp_path / "in"]) == [named, tmp_path / "in" / "a.json"]


def test_a_directory_without_a_release_file_is_refused(tmp_path: Path) -> None:
    touch(tmp_path, "README.md", "1/model.yaml")
    with pytest.raises(InvalidInput, match=r"holds no release file; name \*\.json, \*\.yaml"):
        release_files_in([tmp_path])


def test_one_that_is_no_regular_file_is_refused(tmp_path: Path) -> None:
    touch(tmp_path, "a.json")
    (tmp_path / "b.yaml").symlink_to("nowhere")
    with pytest.raises(InvalidInput, match=r"b\.yaml: is no regular file; mend it"):
        release_files_in([tmp_path])
