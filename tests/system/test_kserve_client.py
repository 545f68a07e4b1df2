"""KServe's own client, unchanged, from an environment of its own: its dependencies are not ours.

`make clients` installs it; without it these tests are skipped.
"""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from support.oip import served, write_models, write_releases
from support.running import ROOT, fairlead

PYTHON = ROOT / "build" / "kserve" / "bin" / "python"
PROGRAM = ROOT / "tests" / "support" / "kserve_asks.py"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not PYTHON.exists(), reason="KServe is not installed: make clients"),
]


def asks(*arguments: str) -> None:
    done = subprocess.run(
        [PYTHON, "-W", "ignore", PROGRAM, *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
        env={},
    )
    assert done.stdout.endswith("PASS\n"), done.stdout + done.stderr


def test_kserves_client_asks_the_model_server(tmp_path: Path) -> None:
    with served(tmp_path) as address:
        asks(f"http://{address}")


def test_kserves_client_asks_the_gateway(tmp_path: Path) -> None:
    write_models(tmp_path / "models")
    files = [str(path) for path in write_releases(tmp_path)]
    with fairlead(tmp_path, *files, "--models", str(tmp_path / "models")) as running:
        asks(running.url, running.key)
