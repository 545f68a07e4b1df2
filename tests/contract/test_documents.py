"""Release files and model descriptions as people write them, right and wrong."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from fairlead.adapters.documents import read_document
from fairlead.domain.errors import InvalidInput

RIGHT = {
    "model": "v1",
    "traffic": [{"tag": "1", "percent": 100}],
    "empty": None,
    "deep": {"a": [1, 2.5, True]},
}


@pytest.mark.parametrize(
    ("name", "text"),
    [
        (
            "a.yaml",
            'model: v1\ntraffic:\n  - {tag: "1", percent: 100}\nempty:\ndeep: {a: [1, 2.5, true]}\n',
        ),
        (
            "a.json",
            '{"model":"v1","traffic":[{"tag":"1","percent":100}],"empty":null,"deep":{"a":[1,2.5,true]}}',
        ),
    ],
)
def test_json_and_yaml_say_the_same(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text)
    assert read_document(tmp_path / name) == RIGHT


@pytest.mark.parametrize(
    ("name", "data", "told"),
    [
        ("a.json", b'{"a": 1,\n "b" 2}', "is not JSON (line 2: Expecting ':' delimiter)"),
        ("a.json", b" \n", "is empty; write an object"),
        ("a.json", b'{"a": 1, "a": 2}', "key 'a' stands twice in one object"),
        ("a.json", b"[" * 100_000, "is nested too deeply"),
        ("a.yaml", b"a: 1\nb: [1, 2\nc: 3", "is not YAML (line 3:"),
        ("a.yaml", b"a: 1\na: 2", "is not YAML (line 2: key 'a' stands twice in one object)"),
        ("a.yaml", b"a: &x 1\nb: *x", "is not YAML (line 2: aliases are not allowed here)"),
        ("a.yaml", b"a: 1\n---\nb: 2", "is not YAML"),
        ("a.yaml", b"a: !!python/object:os.system {}", "is not YAML"),
        ("a.yaml", b"a: \xff", "is not UTF-8 (byte 3)"),
        ("a.yaml", b"a: " + b"x" * (1 << 20), "has more than 1048576 bytes"),
        ("a.json", b'{"a": ' + b"9" * 5000 + b"}", "holds a number of 5000 digits"),
        ("a.yaml", b"a: 2024-13-45", "timestamp is no kind of value here"),
        ("a.yaml", b"a: " + b"[" * 100_000, "is nested too deeply"),
        ("a.yaml", b"", "is empty; write an object"),
        ("a.toml", b"a = 1", "ends in '.toml'; name it *.json, *.yaml, *.yml, *.jsonnet"),
    ],
)
def test_a_mistake_is_told_with_its_line(tmp_path: Path, name: str, data: bytes, told: str) -> None:
    path = tmp_path / name
    path.write_bytes(data)
    with pytest.raises(InvalidInput) as caught:
        read_document(path)
    assert told in str(caught.value)
    assert str(caught.value).startswith(str(path))


def test_a_missing_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="is not there; check the path"):
        read_document(tmp_path / "none.yaml")


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").mkdir()
    with pytest.raises(InvalidInput, match="cannot be read"):
        read_document(tmp_path / "a.yaml")


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(st.binary(max_size=200) | st.text("ab:[]{}-\n \"'&*!1.", max_size=60).map(str.encode))
def test_any_bytes_are_a_document_or_a_mistake_in_words(tmp_path: Path, data: bytes) -> None:
    for name in ("a.yaml", "a.json"):
        (tmp_path / name).write_bytes(data)
        try:
            read_document(tmp_path / name)
        except InvalidInput as error:
            assert len(str(error)) > len(name)


@pytest.mark.timeout(60)
@pytest.mark.slow
def test_a_document_of_many_keys_takes_no_longer_than_it_is_long(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text("{" + ", ".join(f"a{number}: 1" for number in range(60_000)) + "}")
    assert len(read_document(path)) == 60_000  # comparing each with each took minutes


def test_a_name_that_leads_to_something_without_an_end_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").symlink_to("/dev/zero")
    with pytest.raises(InvalidInput, match="has more than 1048576 bytes"):
        read_document(tmp_path / "a.yaml")
