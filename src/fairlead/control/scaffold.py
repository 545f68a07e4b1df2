"""The project that `fairlead init` writes: small, working, and made to be changed."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import resources

# Where each template goes in the new project.
_FILES: Mapping[str, str] = {
    "model.py.txt": "models/reading-time/1/model.py",
    "model.yaml": "models/reading-time/1/model.yaml",
    "golden.json": "models/reading-time/1/golden.json",
    "release.yaml": "releases/reading-time.yaml",
    "README.md": "README.md",
    "gitignore.txt": ".gitignore",
}


def project_files() -> dict[str, str]:
    """The files of a new project: path in the project -> text."""
    templates = resources.files("fairlead.control") / "templates"
    return {
        target: (templates / name).read_text(encoding="utf-8") for name, target in _FILES.items()
    }
