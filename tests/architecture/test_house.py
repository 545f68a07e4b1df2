"""The house stays clean: sizes, import cost, and reference pages that match the code."""

from __future__ import annotations

import ast
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
    folders = ("", "docs/**/", "examples/**/", "bench/", "soak/")
    for page in [page for folder in folders for page in ROOT.glob(f"{folder}*.md")]:
        for target, anchor in re.findall(r"\]\(([^)#]*)(?:#([^)]*))?\)", page.read_text()):
            there = page.parent / target if target else page
            if "://" in target or (there.exists() and (not anchor or anchor in _anchors(there))):
                continue
            broken.append(f"{page.relative_to(ROOT)}: {target}#{anchor}")
    assert broken == []


def _anchors(page: Path) -> set[str]:
    """What a page's headings are called in links."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", one.lower()).replace(" ", "-") for one in headings}


@pytest.mark.parametrize(
    ("package", "page"),
    [
        ("domain", "01-domain"),
        ("agent", "03-agent"),
        ("server", "04-model-server"),
        ("server/http", "04-model-server"),
        ("server/grpc", "04-model-server"),
        ("dialects", "04-model-server"),
        ("dialects/speech", "04-model-server"),
        ("engines", "04-model-server"),
        ("engines/speech", "04-model-server"),
        ("gateway", "05-gateway"),
    ],
)
def test_every_module_stands_on_the_page_of_its_subsystem(package: str, page: str) -> None:
    text = (ROOT / "docs" / "architecture" / f"{page}.md").read_text()
    names = [path.stem for path in (SOURCE / package).glob("[!_]*.py")]
    assert [name for name in names if not re.search(rf"\b{name}\b", text)] == []


def test_no_private_name_of_a_module_is_left_unread() -> None:
    unread = []
    for path in modules():
        text = path.read_text()
        for node in ast.parse(text).body:
            match node:
                case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name):
                    pass
                case ast.ClassDef(name=name) | ast.Assign(targets=[ast.Name(id=name)]):
                    pass
                case _:
                    continue
            private = re.fullmatch(r"_[^_].*", name)
            if private and len(re.findall(rf"\b{name}\b", text)) == 1:
                unread.append(f"{path.relative_to(SOURCE)}: {name}")
    assert unread == []


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
