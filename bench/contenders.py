"""Who is measured, how each is started, and in which words it is asked."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PEERS = ROOT / "bench" / "peers"
PEER_PYTHON = ROOT / ".bench" / "venv" / "bin" / "python"
FASTAPI = "FastAPI + pydantic + uvicorn, 2 workers"
MLSERVER = "MLServer, in-process"
DIRECT = "Fairlead direct, 2 workers"
DIRECT_OIP = "Fairlead direct, OIP, 2 workers"
GATEWAY = "Fairlead gateway (key, version, 90/10)"
# What must be reached at 32 connections: whose requests/s, how many times, whose.
BARS = ((DIRECT, 2.2, FASTAPI), (DIRECT_OIP, 5.0, MLSERVER), (GATEWAY, 1.3, FASTAPI))
BAR_CONNECTIONS = 32
_PROJECT_PATH = "/v1/model/digits/predict"
_OIP_PATH = "/v2/models/digits/infer"
_SETUP_SECONDS = 60


@dataclass(frozen=True)
class Place:
    """What a contender may use: the built model, a directory of its own, its free ports."""

    models: Path  # holds digits/1
    home: Path
    ports: tuple[int, int, int]

    @property
    def port(self) -> int:
        return self.ports[0]

    @property
    def onnx(self) -> Path:
        return self.models / "digits" / "1" / "model.onnx"


@dataclass(frozen=True)
class Plan:
    """How to start a contender once it is prepared."""

    command: list[str]
    environment: dict[str, str] = field(default_factory=dict)
    key: str | None = None


@dataclass(frozen=True)
class Contender:
    """One server under test. `oip` says which of the two dialects it is asked in.

    `prepares`: its first start ever does what later ones need not, so it is not measured.
    """

    name: str
    short: str  # for --only
    plan: Callable[[Place], Plan]
    oip: bool = False
    prepares: bool = False

    @property
    def path(self) -> str:
        return _OIP_PATH if self.oip else _PROJECT_PATH

    def body(self, pixels: list[float]) -> bytes:
        if not self.oip:
            return json.dumps({"instances": [pixels]}).encode()
        tensor = {"name": "pixels", "shape": [1, 64], "datatype": "FP32", "data": pixels}
        return json.dumps({"inputs": [tensor]}).encode()

    def probabilities(self, body: bytes) -> list[float]:
        """The answer's ten numbers; raises ValueError, KeyError and the like for anything else."""
        answer = json.loads(body)
        row = answer["outputs"][0]["data"] if self.oip else answer["predictions"][0]
        return [float(value) for value in row]


def _fastapi(place: Place) -> Plan:
    command = [sys.executable, "-m", "uvicorn", "fastapi_app:app", "--app-dir", str(PEERS)]
    command += ["--host", "127.0.0.1", "--port", str(place.port), "--workers", "2"]
    command += ["--loop", "uvloop", "--http", "httptools", "--no-access-log"]
    command += ["--log-level", "warning"]
    return Plan(command, {"BENCH_MODEL": str(place.onnx)})


def _mlserver(place: Place) -> Plan:
    http, grpc, metrics = place.ports
    settings = {
        "host": "127.0.0.1",
        "http_port": http,
        "grpc_port": grpc,
        "metrics_port": metrics,
        "parallel_workers": 0,  # every hop to a pool of processes costs more than this model
        "debug": False,  # no access log
        "gzip_enabled": False,
        "metrics_endpoint": None,  # its metrics cost it some percent; ours stay on
    }
    model = {
        "name": "digits",
        "implementation": "mlserver_digits.DigitsModel",
        "parameters": {"uri": str(place.onnx), "version": "1"},
    }
    folder = place.home / "mlserver"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "settings.json").write_text(json.dumps(settings))
    (folder / "model-settings.json").write_text(json.dumps(model))
    program = str(PEER_PYTHON.parent / "mlserver")
    return Plan([program, "start", str(folder)], {"PYTHONPATH": str(PEERS)})


def _direct(workers: int) -> Callable[[Place], Plan]:
    def plan(place: Place) -> Plan:
        command = _fairlead("serve", str(place.models / "digits" / "1"))
        command += ["--host", "127.0.0.1", "--port", str(place.port), "--workers", str(workers)]
        command += ["--no-access-log"]  # as the peers
        return Plan(command)

    return plan


def _gateway(place: Place) -> Plan:
    """Two revisions of the same model, so that the split has something to choose between."""
    home = place.home / "fairlead"
    files = [_release(place, "1", [("1", 100)]), _release(place, "2", [("1", 90), ("2", 10)])]
    second = place.home / "models" / "digits" / "2"
    shutil.copytree(place.models / "digits" / "1", second, dirs_exist_ok=True)
    settings = (second / "model.yaml").read_text().replace("version: 1", "version: 2")
    (second / "model.yaml").write_text(settings)
    key_file = place.home / "key"
    if not key_file.exists():
        create = _fairlead("keys", "create", "bench", "--home", str(home))
        made = subprocess.run(
            create, check=True, capture_output=True, text=True, timeout=_SETUP_SECONDS
        )
        key_file.write_text(made.stdout.split()[-1])
    command = _fairlead("up", *map(str, files), "--home", str(home), "--port", str(place.port))
    command += ["--models", str(place.models), "--models", str(place.home / "models")]
    return Plan(command, key=key_file.read_text())


def _release(place: Place, version: str, traffic: list[tuple[str, int]]) -> Path:
    path = place.home / f"release-v1.{version}.json"
    document = {
        "service": "digits",
        "model": "v1",
        "version": version,
        "artifact": f"digits/{version}",
        "traffic": [{"tag": tag, "percent": percent} for tag, percent in traffic],
    }
    path.write_text(json.dumps(document))
    return path


def _fairlead(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "fairlead", *arguments]


CONTENDERS = (
    Contender(FASTAPI, "fastapi", _fastapi),
    Contender(MLSERVER, "mlserver", _mlserver, oip=True),
    Contender("Fairlead direct, 1 worker", "direct-1", _direct(1)),
    Contender(DIRECT, "direct-2", _direct(2)),
    Contender(DIRECT_OIP, "direct-oip", _direct(2), oip=True),
    Contender(GATEWAY, "gateway", _gateway, prepares=True),
)
