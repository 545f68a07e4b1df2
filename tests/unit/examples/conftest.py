from __future__ import annotations

from pathlib import Path

import pytest
from examples import build


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All examples, built once."""
    out = tmp_path_factory.mktemp("models")
    build.build(out)
    return out
