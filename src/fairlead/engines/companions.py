"""The modules an artifact brings beside its entry file.

While a code-only model is loaded, its directory is importable. Module names are one space per process,
so two loaded artifacts that each bring a `helpers.py` would get each other's code: that is refused.
"""

from __future__ import annotations

import sys
from pathlib import Path

from fairlead.domain.errors import Kind, Refused

_brought: dict[Path, frozenset[str]] = {}


def make_importable(directory: Path, entry: str) -> None:
    """Put the directory first on the path; raises Refused if another loaded model has the same names."""
    names = _top_level(directory, entry)
    for other, taken in _brought.items():
        if other != directory and names & taken:
            message = f"{min(names & taken)} is a module of two loaded models: serve them in processes of their own"
            raise Refused(Kind.CONFLICT, message)
    _brought[directory] = names
    sys.path.insert(0, str(directory))
    # An artifact's directory holds exactly the files of its manifest.
    sys.dont_write_bytecode = True


def forget(directory: Path) -> None:
    """Undo one `make_importable`; with the last one, drop what was imported from there."""
    if str(directory) in sys.path:
        sys.path.remove(str(directory))
    if str(directory) in sys.path:
        return
    _brought.pop(directory, None)
    for name, module in sys.modules.copy().items():  # another thread may import meanwhile
        file = getattr(module, "__file__", None)
        if isinstance(file, str) and Path(file).is_relative_to(directory):
            del sys.modules[name]


def _top_level(directory: Path, entry: str) -> frozenset[str]:
    modules = {path.stem for path in directory.glob("*.py") if path.name != entry}
    packages = {path.parent.name for path in directory.glob("*/__init__.py")}
    return frozenset(modules | packages)
