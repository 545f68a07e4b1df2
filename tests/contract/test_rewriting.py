"""Release files with another version: everything a person wrote stays."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, strategies as st

from fairlead.adapters.documents import read_document
from fairlead.adapters.rewriting import rewrite
from fairlead.domain.errors import InvalidInput

YAML = """\
# Who may change this: the voice team.
service:   speech      # what clients call
model: v9
version: {version}   # the next one is 3

artifact: speech/2
stream: {{minScale: 0, paths: ["/api/x"]}}
traffic:
  - percent: {percent}
    tag: {tag}  # all of it
"""


def changed(path: Path, text: str, version: str = "3") -> str:
    path.write_bytes(text.encode())
    rewrite(path, read_document(path), version)
    return path.read_bytes().decode()


@pytest.mark.parametrize("quote", ["'", '"'])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_in_yaml_only_the_values_change(tmp_path: Path, quote: str, end: str) -> None:
    def text(version: str) -> str:
        quoted = f"{quote}{version}{quote}"
        made = YAML.format(version=quoted, tag=quoted, percent=100)
        return made.replace("\n", end)

    assert changed(tmp_path / "r.yaml", text("2")) == text("3")


def test_flow_style_and_a_link_are_kept(tmp_path: Path) -> None:
    real = tmp_path / "real.yaml"
    link = tmp_path / "link.yaml"
    link.symlink_to(real)
    real.write_text("")
    before = 'model: v1\nversion: "9"\ntraffic: [{tag: "8", percent: 100}] # ä\n'
    after = 'model: v1\nversion: "10"\ntraffic: [{tag: "10", percent: 100}] # ä\n'
    assert changed(link, before, "10") == after
    assert link.is_symlink()
    assert real.read_text() == after


def test_json_is_written_with_two_spaces_and_a_line_end(tmp_path: Path) -> None:
    path = tmp_path / "r.json"
    path.touch(mode=0o640)
    document = {"version": "2", "model": "v9", "traffic": [{"tag": "2", "percent": 100}]}
    assert changed(path, json.dumps(document)) == (
        '{\n  "version": "3",\n  "model": "v9",\n  "traffic": [\n    {\n      "tag": "3",\n'
        '      "percent": 100\n    }\n  ]\n}\n'
    )
    assert path.stat().st_mode & 0o777 == 0o640


def test_what_a_program_cannot_change_alone_is_left_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    text = "model: v1\nversion: |-\n  2\nartifact: a/1\n"
    with pytest.raises(InvalidInput, match="by hand"):
        changed(path, text)
    assert path.read_text() == text


@given(
    comment=st.text(
        st.characters(exclude_categories=["Cs", "Cc"], exclude_characters="\x85\u2028\u2029\ufeff"),
        max_size=20,
    ),
    version=st.integers(1, 10**6),
    spaces=st.integers(1, 5),
)
def test_comments_never_matter(
    tmp_path_factory: pytest.TempPathFactory, comment: str, version: int, spaces: int
) -> None:
    path = tmp_path_factory.mktemp("files") / "r.yaml"
    text = f"# {comment}\nmodel: v1\nversion:{' ' * spaces}'1' # {comment}\n"
    assert changed(path, text, str(version)) == text.replace("'1'", f"'{version}'")
