"""Fairlead's ways in: the model server alone, and everything behind the gateway."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from bench import dialects
from bench.subject import HOST, Contender, Place, Plan

_SETUP_SECONDS = 60


def fairlead(*arguments: str | Path) -> list[str]:
    """A command of ours."""
    return [sys.executable, "-m", "fairlead", *map(str, arguments)]


def _direct(workers: int, *more: str) -> Callable[[Place], Plan]:
    def plan(place: Place) -> Plan:
        command = fairlead("serve", place.case.folder, "--host", HOST, "--port", str(place.port))
        command += ["--workers", str(workers), "--no-access-log", *more]  # as the peers
        return Plan(command)

    return plan


def _direct_grpc(place: Place) -> Plan:
    plan = _direct(2, "--grpc-port", str(place.ports[1]))(place)
    return Plan(plan.command, grpc_port=place.ports[1])


def _unbatched(place: Place) -> Plan:
    """The same model with batching switched off in its own file."""
    folder = place.home / "unbatched" / place.case.name / "1"
    shutil.copytree(place.case.folder, folder, dirs_exist_ok=True)
    settings = (place.case.folder / "model.yaml").read_text()
    (folder / "model.yaml").write_text(f"{settings}batching: {{enabled: false}}\n")
    command = fairlead("serve", folder, "--host", HOST, "--port", str(place.port))
    return Plan([*command, "--no-access-log"])


def _gateway(place: Place) -> Plan:
    """Two revisions of the same model, so that the split has something to choose between."""
    home, name = place.home / "fairlead", place.case.name
    files = [
        release(place.home, name, "1", [("1", 100)]),
        release(place.home, name, "2", [("1", 90), ("2", 10)]),
    ]
    second = place.home / "models" / name / "2"
    shutil.copytree(place.case.folder, second, dirs_exist_ok=True)
    settings = (second / "model.yaml").read_text().replace("version: 1", "version: 2")
    (second / "model.yaml").write_text(settings)
    command = fairlead("up", *files, "--home", home, "--port", str(place.port))
    command += ["--models", str(place.case.folder.parent.parent)]
    command += ["--models", str(place.home / "models")]
    key = make_key(home, place.home / "key")
    return Plan(command, key=key, grpc_port=place.port)


def make_key(home: Path, kept: Path) -> str:
    """The secret of a key called `bench`, made when it is first asked for."""
    if not kept.exists():
        command = fairlead("keys", "create", "bench", "--home", home)
        made = subprocess.run(
            command, check=True, capture_output=True, text=True, timeout=_SETUP_SECONDS
        )
        kept.write_text(made.stdout.split()[-1])
    return kept.read_text()


def release(
    folder: Path, service: str, revision: str, traffic: list[tuple[str, int]], artifact: str = ""
) -> Path:
    """Write the release file of a revision of line v1; its artifact has the revision's number."""
    path = folder / f"release-{service}-v1.{revision}.json"
    document = {
        "service": service,
        "model": "v1",
        "version": revision,
        "artifact": artifact or f"{service}/{revision}",
        "traffic": [{"tag": tag, "percent": percent} for tag, percent in traffic],
    }
    path.write_text(json.dumps(document))
    return path


DIRECT_1 = Contender("Fairlead direct, 1 worker", "direct-1", _direct(1), dialects.PROJECT)
DIRECT = Contender("Fairlead direct, 2 workers", "direct-2", _direct(2), dialects.PROJECT)
DIRECT_OIP = Contender("Fairlead direct, OIP, 2 workers", "direct-oip", _direct(2), dialects.OIP)
GATEWAY = Contender(
    "Fairlead gateway (key, version, 90/10)", "gateway", _gateway, dialects.PROJECT, prepares=True
)
DIRECT_GRPC = Contender("Fairlead direct, gRPC, 2 workers", "direct-grpc", _direct_grpc)
# One process with all cores for the model: fewer, fuller batches beat two processes.
BATCHED = Contender("Fairlead direct, batching as proved", "batched", _direct(1), dialects.OIP)
UNBATCHED = Contender("Fairlead direct, batching off", "unbatched", _unbatched, dialects.OIP)
TENSORS = Contender("Fairlead direct, binary tensors", "tensors", _direct(1), dialects.OIP_BINARY)
