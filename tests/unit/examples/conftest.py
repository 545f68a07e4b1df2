from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from examples import build


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All examples, built; what was built before of the same sources is taken as it is, as a user's next build does."""
    out = tmp_path_factory.mktemp("models") / "models"
    if build.OUT.is_dir():
        shutil.copytree(build.OUT, out)
    build.build(out)
    return out
