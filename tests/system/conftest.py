"""Real processes: slower, with TCP on the loopback interface."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.running import FAIRLEAD, ROOT, Fairlead, fairlead


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    for item in items:
        if item.path.is_relative_to(here):
            item.add_marker(pytest.mark.enable_socket)
            if item.get_closest_marker("timeout") is None:
                item.add_marker(pytest.mark.timeout(120))


@pytest.fixture(scope="session")
def models() -> Path:
    """The example models, built as `make run` builds them."""
    out = ROOT / "build" / "models"
    subprocess.run(
        [sys.executable, str(ROOT / "examples" / "build.py"), "--out", str(out)],
        check=True,
        timeout=110,
    )
    return out


@pytest.fixture(scope="session")
def published(models: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home where the examples are published, once for all testers: give `fairlead` a copy, and `up` has them already.

    For those who ask what runs; that `up` publishes what the store lacks is shown by `examples` below and by test_up.
    """
    mine = tmp_path_factory.getbasetemp()
    shared = mine.parent if "PYTEST_XDIST_WORKER" in os.environ else mine
    home, whole = shared / "published", shared / "published.whole"
    with (shared / "published.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not whole.exists():
            folders = sorted(str(path.parent) for path in models.glob("*/*/model.yaml"))
            command = [*FAIRLEAD, "publish", "--home", str(home), *folders]
            subprocess.run(command, check=True, timeout=110, capture_output=True)
            whole.touch()
    return home


@pytest.fixture(scope="session")
def releases() -> list[str]:
    return [
        str(path)
        for path in sorted(ROOT.glob("examples/*/release*"))
        if path.suffix in (".yaml", ".json")
    ]


@pytest.fixture(scope="module")
def examples(
    models: Path, releases: list[str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Fairlead]:
    """Everything that `make run` serves, running; shared by the tests of one file."""
    directory = tmp_path_factory.mktemp("examples")
    with fairlead(
        directory, *releases, "--models", str(models), "--pin", "sentiment=v2"
    ) as running:
        yield running
