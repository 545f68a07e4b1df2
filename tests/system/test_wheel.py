"""The wheel, in an empty folder: `fairlead init && fairlead up`."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from support.running import ROOT, Fairlead


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel's content alone, as an installer would lay it out; its dependencies are this environment's."""
    out = tmp_path_factory.mktemp("wheel")
    # What `uv build --wheel` calls, without its download of the build backend.
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(out)]
    subprocess.run(build, cwd=ROOT, check=True, timeout=60, capture_output=True)
    (wheel,) = out.glob("*.whl")
    target = out / "installed"
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        archive.extractall(target)
    assert "fairlead/control/templates/model.py.txt" in names
    assert not [name for name in names if name.startswith(("tests/", "examples/", "bench/"))]
    assert any(name.endswith("licenses/LICENSE") for name in names)
    return target


def test_the_wheel_serves_a_new_project(installed: Path, tmp_path: Path) -> None:
    environment = {"PYTHONPATH": str(installed)}
    where = subprocess.run(
        [sys.executable, "-c", "import fairlead; print(fairlead.__file__)"],
        env={**os.environ, **environment},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )
    assert where.stdout.startswith(str(installed))
    running = Fairlead(tmp_path / "empty", environment=environment)
    running.directory.mkdir()
    try:
        running.cli("init")
        running.start()
        reply = running.ask("/v1/model/reading-time/predict", {"text": "one two"})
        assert (reply.status, reply.json["words"]) == (200, 2)
        assert running.ask("/docs", key=None).status == 200
        assert running.stop() == 0
    finally:
        running.close()
