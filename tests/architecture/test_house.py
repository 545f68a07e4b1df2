"""The house stays clean: sizes, import cost, and reference pages that match the code."""

from __future__ import annotations

import re
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


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    ("process", "not_needed"),
    [
        ("fairlead.server.worker", ("grpc", "google.protobuf", "fastapi", "httpx", "yaml")),
        ("fairlead.gateway.run", ("grpc", "google.protobuf", "fastapi", "pydantic", "numpy")),
        ("fairlead.agent.loop", ("grpc", "google.protobuf", "fastapi", "pydantic", "numpy")),
        ("fairlead.agent.loop", ("fairlead.domain.rollout", "fairlead.domain.removal")),
        (
            "fairlead.server.worker",
            ("fairlead.domain.catalog", "fairlead.domain.table", "statistics"),
        ),
        ("fairlead.wiring.serving", ("uvicorn", "uvloop", "numpy", "msgspec", "onnxruntime")),
        (
            "fairlead.wiring.homes",
            ("yaml", "httpx", "numpy", "pydantic", "fairlead.domain.rollout"),
        ),
        ("fairlead.__main__, httpx", ("rich", "pygments")),
    ],
)
def test_a_process_starts_without_libraries_that_it_may_never_need(
    process: str, not_needed: tuple[str, ...]
) -> None:
    program = (
        f"import sys, {process}; print([name for name in {not_needed!r} if name in sys.modules])"
    )
    answer = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=50
    )
    assert answer.stdout.strip() == "[]"


def test_the_reference_pages_are_the_ones_the_code_writes() -> None:
    from fairlead.control.reference import release_page
    from fairlead.wiring.errors_page import errors_page
    from fairlead.wiring.reference import environment_page

    pages = {
        "release.md": release_page,
        "environment.md": environment_page,
        "errors.md": errors_page,
    }
    for name, page in pages.items():
        assert (ROOT / "docs" / "reference" / name).read_text() == page()


def test_the_changelog_knows_this_version() -> None:
    import fairlead

    assert f"## {fairlead.__version__}" in (ROOT / "CHANGELOG.md").read_text()
    assert f'version = "{fairlead.__version__}"' in (ROOT / "pyproject.toml").read_text()


def test_every_link_of_every_page_leads_somewhere() -> None:
    broken = []
    for page in [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("examples/**/*.md")]:
        targets = re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text())
        broken += [
            f"{page.relative_to(ROOT)}: {target}"
            for target in targets
            if "://" not in target and not (page.parent / target).exists()
        ]
    assert broken == []


def test_every_subsystem_has_its_page() -> None:
    overview = (ROOT / "docs" / "architecture" / "00-overview.md").read_text()
    for page in (ROOT / "docs" / "architecture").glob("0[1-9]-*.md"):
        assert page.name in overview


def test_every_command_stands_in_the_documentation() -> None:
    from fairlead.cli.main import COMMANDS

    text = "\n".join(
        page.read_text()
        for page in [ROOT / "README.md", *ROOT.glob("docs/**/*.md"), ROOT / "CHANGELOG.md"]
    )
    assert [name for name in COMMANDS if name not in text] == []
