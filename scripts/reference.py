"""Writes the reference pages from the code."""

from pathlib import Path

from fairlead.control.reference import release_page
from fairlead.wiring.errors_page import errors_page
from fairlead.wiring.reference import environment_page

PAGES = {"release.md": release_page, "environment.md": environment_page, "errors.md": errors_page}

for name, page in PAGES.items():
    path = Path(__file__).parents[1] / "docs" / "reference" / name
    path.write_text(page(), encoding="utf-8")
    print(f"wrote {path}")
