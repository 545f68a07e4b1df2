"""The house stays clean: sizes, import cost, and reference pages that match the code."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "src" / "fairlead"
MOST_LINES = 400
HEAVY = (
    "numpy",
    "onnxruntime",
    "pydantic",
    "fastapi",
    "uvicorn",
    "httpx",
    "yaml",
    "msgspec",
    "asyncio",
    "envoy",
)


def modules() -> list[Path]:
    return [path for path in SOURCE.rglob("*.py") if "_generated" not in path.parts]


def test_no_room_is_larger_than_one_can_oversee() -> None:
    large = {
        path.name: lines
        for path in modules()
        if (lines := len(path.read_text().splitlines())) > MOST_LINES
    }
    assert large == {}


def test_every_module_tells_its_story() -> None:
    silent = [
        str(path.relative_to(SOURCE))
        for path in modules()
        if not path.read_text().lstrip().startswith(('"""', 'r"""'))
    ]
    assert silent == []


@pytest.mark.timeout(60)
def test_the_command_line_starts_without_the_heavy_libraries() -> None:
    program = (
        f"import sys, fairlead.cli.main; print([name for name in {HEAVY!r} if name in sys.modules])"
    )
    answer = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=50
    )
    assert answer.stdout.strip() == "[]"


def test_the_release_page_is_the_one_the_code_writes() -> None:
    from fairlead.control.reference import release_page

    assert (ROOT / "docs" / "reference" / "release.md").read_text() == release_page()


def test_the_changelog_knows_this_version() -> None:
    import fairlead

    assert f"## {fairlead.__version__}" in (ROOT / "CHANGELOG.md").read_text()
    assert f'version = "{fairlead.__version__}"' in (ROOT / "pyproject.toml").read_text()
