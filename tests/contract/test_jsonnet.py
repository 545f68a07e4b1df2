"""Release files in Jsonnet: the evaluator's bounds, and its mistakes in our words."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, strategies as st

from fairlead.adapters.documents import read_document
from fairlead.adapters.jsonnet import evaluate
from fairlead.domain.errors import InvalidInput
from fairlead.domain.reading import Variables
from fairlead.wiring.homes import read_releases
from support.effort import effort

RELEASE = """
local base = import 'lib/base.libsonnet';
function(version, canary=0) base + {
  version: version,
  artifact: 'sentiment/' + version,
  traffic: [{ tag: '1', percent: 100 - canary }, { tag: version, percent: canary }],
}
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib" / "base.libsonnet").write_text("(import 'name.libsonnet') + { model: 'v1' }")
    (tmp_path / "lib" / "name.libsonnet").write_text("{ service: 'sentiment' }")
    (tmp_path / "a.jsonnet").write_text(RELEASE)
    return tmp_path


def mistake(path: Path, text: str | bytes, **options: float) -> str:
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    with pytest.raises(InvalidInput) as caught:
        evaluate(path, **options)
    return str(caught.value)


def test_a_file_with_imports_and_arguments_is_a_release(project: Path) -> None:
    variables = Variables({"version": "2"}, {"canary": "5 + 5"})
    (one,) = read_releases([project / "a.jsonnet"], variables)
    assert str(one.release.revision_id) == "sentiment/v1.2"
    assert [(share.tag, share.percent) for share in one.release.traffic] == [("1", 90), ("2", 10)]


def test_what_is_evaluated_is_read_as_strictly_as_any_file(tmp_path: Path) -> None:
    (tmp_path / "a.jsonnet").write_text("{ model: 'v1', version: 2, trafic: [] }")
    with pytest.raises(InvalidInput, match="trafic: unknown key; did you mean 'traffic'"):
        read_releases([tmp_path / "a.jsonnet"])


def test_a_variable_is_an_argument_or_asked_for(tmp_path: Path) -> None:
    (tmp_path / "a.jsonnet").write_text("{ a: std.extVar('env') }")
    assert read_document(tmp_path / "a.jsonnet", Variables({"env": "prod"})) == {"a": "prod"}
    with pytest.raises(InvalidInput, match="env"):
        read_document(tmp_path / "a.jsonnet", Variables({"evn": "prod"}))
    (tmp_path / "a.jsonnet").write_text("function(env) { a: env }")
    with pytest.raises(InvalidInput, match="evn"):
        read_document(tmp_path / "a.jsonnet", Variables({"evn": "prod"}))
    (tmp_path / "b.json").write_text("{}")
    with pytest.raises(InvalidInput, match="--var: is given, but no file is Jsonnet"):
        read_releases([tmp_path / "b.json"], Variables({"env": "prod"}))


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("{ a:\n  b }", "a.jsonnet:2:3: variable is not defined: b"),
        ("{ a: 1,\n  a: 2 }", "a.jsonnet:2:6: duplicate field name: a"),
        ("{ a:\n", 'got "EOF"'),
        ("{ a: error 'no such line' }", "a.jsonnet:1:6: no such line"),
        ("local f(x) = 1 + f(x); f(1)", "a.jsonnet:1:18: recurses too deeply"),
        ("{}\n + import 'no.libsonnet'", "a.jsonnet:2:4: no.libsonnet is no file"),
        ("import '/etc/hostname'", "a.jsonnet:1:1: /etc/hostname lies outside"),
        ("importstr '../secret'", "../secret lies outside the release file's directory"),
        ("importstr 'link'", "link lies outside the release file's directory"),
        ("importstr 'bytes'", "bytes is not UTF-8 (byte 0)"),
        ("importstr 'folder'", "folder is no file"),
        ("(import 'lib.libsonnet') + {}", "lib.libsonnet:1:6: inside;"),
        ("std.repeat('x', 2000000)", "its result has 2000002 bytes; at most 1048576"),
        (b"\xff", "is not UTF-8"),
        ("[" * 100_000, "too deeply for the evaluator"),
        ("std.foldl(function(a, b) a + a, std.range(1, 40), 'x')", "of memory"),
    ],
)
def test_a_mistake_is_told_with_its_place(tmp_path: Path, text: str | bytes, told: str) -> None:
    root = tmp_path / "releases"
    (root / "folder").mkdir(parents=True)
    (tmp_path / "secret").write_text("a secret")
    (root / "link").symlink_to(tmp_path / "secret")
    (root / "bytes").write_bytes(b"\xff")
    (root / "lib.libsonnet").write_text("{ b: error 'inside' }")
    words = mistake(root / "a.jsonnet", text)
    assert told in words
    assert words.startswith(str(root))
    assert "a secret" not in words
    assert "runtime error" not in words


def test_an_evaluation_without_an_end_is_ended(tmp_path: Path) -> None:
    began = time.monotonic()
    endless = "local f(n) = if n == 0 then 0 else f(n - 1) + f(n - 1); f(400)"
    words = mistake(tmp_path / "a.jsonnet", endless, seconds=0.5)
    assert "was not evaluated within 0.5 s; look for a loop" in words
    assert time.monotonic() - began < 5


def test_a_variable_of_the_environment_is_not_seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAIRLEAD_API_KEY", "a-secret")
    words = mistake(tmp_path / "a.jsonnet", "importstr '/proc/self/environ'")
    assert "lies outside" in words


@effort(12, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(
    st.binary(max_size=60) | st.text("{}[]()'\"$:+;,local importself stdfuncion=1.\n", max_size=60)
)
def test_any_bytes_are_a_value_or_a_mistake_in_words(tmp_path: Path, data: bytes | str) -> None:
    path = tmp_path / "a.jsonnet"
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    try:
        evaluate(path)
    except InvalidInput as error:
        assert str(error).startswith(str(path))
        assert "Traceback" not in str(error)
