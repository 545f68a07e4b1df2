"""`make` on a machine that lacks something: each time the name of what to install."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from support.running import ROOT

VERSION = f"{sys.version_info.major}.{sys.version_info.minor}"


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A clone without a virtual environment."""
    for name in ("scripts", "locks"):
        shutil.copytree(ROOT / name, tmp_path / name)
    for name in ("pyproject.toml", "Makefile", "src/fairlead/kits/interpreter.py"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    return tmp_path


def run_setup(checkout: Path, *pythons: str, named: str = "") -> subprocess.CompletedProcess[str]:
    """Set up with each a `python3` of our own in a directory of its own, and with nothing else that could serve as one."""
    tools = checkout / "tools"
    tools.mkdir()
    for name in ("sh", "cat", "dirname", "cksum", "rm", "env"):
        found = shutil.which(name)
        assert found is not None
        (tools / name).symlink_to(found)
    places = [tools]
    for number, python in enumerate(pythons):
        places.append(checkout / f"python {number}")
        places[-1].mkdir()
        (places[-1] / "python3").write_text(f"#!/bin/sh\n{python}\n")
        (places[-1] / "python3").chmod(0o755)
    environment = {**os.environ, "PATH": os.pathsep.join(map(str, places)), "PYTHON": named}
    return subprocess.run(
        ["sh", "scripts/setup.sh", "run"],
        cwd=checkout,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_a_python_that_is_too_old_is_told(checkout: Path) -> None:
    done = run_setup(checkout, "exit 1")
    assert done.returncode == 1
    assert "Fairlead needs Python 3.11 or newer" in done.stderr


def test_a_python_without_venv_gets_the_name_of_the_package(checkout: Path) -> None:
    without = f'case "$*" in *ensurepip*) exit 1;; esac\nexec {sys.executable} "$@"'
    done = run_setup(checkout, without)
    assert done.returncode == 1
    assert f"apt install python{VERSION}-venv" in done.stderr
    assert not (checkout / ".venv" / ".fairlead-run").exists()


def fake_python(*, slow: bool = False, whole: bool = True) -> str:
    """A Python that was built with or without optimisations, and with or without what makes environments."""
    return (
        f'case "$*" in *interpreter.py) exit {int(slow)};; *ensurepip*) exit {int(not whole)};; '
        f'"-m venv .venv") exit 7;; esac\nexec {sys.executable} "$@"'
    )


@pytest.mark.parametrize(
    ("pythons", "taken", "told"),
    [
        ((fake_python(slow=True), fake_python()), 1, True),
        ((fake_python(), fake_python(slow=True)), 0, False),
        ((fake_python(slow=True), fake_python(whole=False)), 0, False),
        ((fake_python(whole=False), fake_python(slow=True)), 1, False),
        ((fake_python(whole=False), fake_python(slow=True), fake_python()), 2, True),
        (("exit 1", fake_python(slow=True)), 1, False),
    ],
)
def test_a_python_that_was_built_without_optimisations_is_taken_if_there_is_no_other(
    checkout: Path, pythons: tuple[str, ...], taken: int, told: bool
) -> None:
    done = run_setup(checkout, *pythons)
    assert done.returncode == 7
    assert (
        f"with Python {sys.version.split()[0]} ({checkout}/python {taken}/python3)" in done.stderr
    )
    assert ("was built without optimisations" in done.stderr) == told


def test_a_python_that_is_named_is_taken(checkout: Path) -> None:
    named = str(checkout / "python 0" / "python3")
    done = run_setup(checkout, fake_python(slow=True), fake_python(), named=named)
    assert done.returncode == 7
    assert f"({named})" in done.stderr


def environment_of(checkout: Path, python: str) -> None:
    """An environment that was made before; its pip says what it is asked and fails."""
    (checkout / ".venv" / "bin").mkdir(parents=True)
    pip = '*"pip install"*) echo "pip of .venv"; exit 8;;'
    there = checkout / ".venv" / "bin" / "python"
    there.write_text(f'#!/bin/sh\ncase "$*" in {pip} esac\n{python}\n')
    there.chmod(0o755)


def test_an_environment_that_is_there_keeps_its_python(checkout: Path) -> None:
    environment_of(checkout, fake_python(slow=True))
    named = str(checkout / "python 0" / "python3")
    done = run_setup(checkout, fake_python(), named=named)
    assert (done.returncode, done.stdout) == (8, "pip of .venv\n")
    assert "(.venv/bin/python)" in done.stderr
    assert f"PYTHON={named} is not looked at" in done.stderr


@pytest.mark.parametrize("broken", ["too old", "gone"])
def test_an_environment_whose_python_does_not_do_is_made_again(checkout: Path, broken: str) -> None:
    environment_of(checkout, "exit 1")
    if broken == "gone":
        there = checkout / ".venv" / "bin" / "python"
        there.unlink()
        there.symlink_to(checkout / "nobody")
    done = run_setup(checkout, fake_python())
    assert done.returncode == 7
    assert not (checkout / ".venv").exists()


def test_a_checkout_that_is_set_up_is_left_alone(checkout: Path) -> None:
    (checkout / ".venv").mkdir()
    fingerprint = subprocess.run(
        "cat locks/run.txt pyproject.toml | cksum",
        shell=True,
        cwd=checkout,
        capture_output=True,
        text=True,
        check=True,
        timeout=10,
    ).stdout
    (checkout / ".venv" / ".fairlead-run").write_text(fingerprint)
    done = run_setup(checkout, "exit 1")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_make_help_lists_the_commands(checkout: Path) -> None:
    done = subprocess.run(
        ["make", "help"], cwd=checkout, capture_output=True, text=True, timeout=20, check=True
    )
    for command in ("run", "test", "bench", "clean"):
        assert f"make {command} " in done.stdout
