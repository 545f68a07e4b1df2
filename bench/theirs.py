"""The peers: how each is started with the best of its documented settings. Their code is in peers/."""

import json
import os
import sys
from pathlib import Path

from bench import dialects
from bench.subject import HOST, PEERS, ROOT, Case, Contender, Place, Plan

VENVS = ROOT / ".bench"
_MOST_BATCHED = 64


def interpreter(name: str) -> Path:
    """The Python of a peer's own environment."""
    return VENVS / name / "bin" / "python"


def _program(name: str) -> list[str]:
    """A peer's command, by its interpreter: the path in its first line is wrong once the folder has moved."""
    python = interpreter(name)
    return [str(python), str(python.parent / name)]


def _told(case: Case, threads: int | None = None) -> dict[str, str]:
    """What the peers' code wants to know."""
    return {
        "BENCH_MODEL": str(case.onnx),
        "BENCH_NAME": case.name,
        "BENCH_BATCHES": "1" if case.batches else "0",
        "BENCH_THREADS": str(threads or case.threads),
        "OMP_NUM_THREADS": "1",
    }


def _fastapi(place: Place) -> Plan:
    command = [sys.executable, "-m", "uvicorn", "fastapi_app:app", "--app-dir", str(PEERS)]
    command += ["--host", HOST, "--port", str(place.port), "--workers", "2"]
    command += ["--loop", "uvloop", "--http", "httptools", "--no-access-log"]
    command += ["--log-level", "warning"]
    return Plan(command, _told(place.case))


def _mlserver(place: Place) -> Plan:
    http, grpc, metrics = place.ports
    settings = {
        "host": HOST,
        "http_port": http,
        "grpc_port": grpc,
        "metrics_port": metrics,
        "parallel_workers": 0,  # every hop to a pool of processes costs more than this model
        "debug": False,  # no access log
        "gzip_enabled": False,
        "metrics_endpoint": None,  # its metrics cost it some percent; ours stay on
    }
    case = place.case
    model: dict[str, object] = {
        "name": case.name,
        "implementation": "mlserver_model.OnnxModel",
        "parameters": {"uri": str(case.onnx), "version": "1"},
    }
    if case.batches:
        model |= {"max_batch_size": 32, "max_batch_time": 0.002}
    folder = place.home / "mlserver"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "settings.json").write_text(json.dumps(settings))
    (folder / "model-settings.json").write_text(json.dumps(model))
    # One process runs it inline: with both cores a batch is done sooner.
    told = _told(case, threads=os.cpu_count() if case.batches else 1)
    return Plan(
        [*_program("mlserver"), "start", str(folder)],
        told | {"PYTHONPATH": str(PEERS)},
        grpc_port=grpc,
    )


_TRITON_MODEL = """name: "{name}"
backend: "python"
max_batch_size: {most}
input [{{ name: "{source}" data_type: TYPE_FP32 dims: [ {wide} ] }}]
output [{{ name: "{target}" data_type: TYPE_FP32 dims: [ {narrow} ] }}]
instance_group [{{ count: {instances} kind: KIND_CPU }}]
{batching}
"""


class _Triton:
    """The server in the wheel of PyTriton, started as itself, with a repository of its own."""

    def __init__(self, instances: int) -> None:
        self._instances = instances

    def __call__(self, place: Place) -> Plan:
        case = place.case
        repository = place.home / "repository"
        version = repository / case.name / "1"
        version.mkdir(parents=True, exist_ok=True)
        (version / "model.py").write_text((PEERS / "triton_model.py").read_text())
        settings = _TRITON_MODEL.format(
            name=case.name,
            most=_MOST_BATCHED,
            source=case.source,
            target=case.target,
            wide=len(case.rows[0]),
            narrow=len(case.expected[0]),
            instances=self._instances,
            batching="dynamic_batching { }" if case.batches else "",
        )
        (version.parent / "config.pbtxt").write_text(settings)
        server = triton_home()
        command = [str(server / "bin" / "tritonserver"), "--model-repository", str(repository)]
        command += ["--backend-directory", str(server / "backends"), "--allow-metrics", "false"]
        # Servers on one machine must not share the names of their memory.
        command += ["--backend-config", f"python,shm-region-prefix-name=bench-{place.port}-"]
        for way, port in zip(("http", "grpc"), place.ports, strict=False):
            command += [f"--{way}-address", HOST, f"--{way}-port", str(port)]
        # The stub of its Python backend looks for modules as the first `python3` of the path does.
        venv = VENVS / "triton"
        path = f"{venv / 'bin'}{os.pathsep}{os.environ.get('PATH', '')}"
        told = _told(case) | {"PATH": path, "VIRTUAL_ENV": str(venv)}
        return Plan(command, told, grpc_port=place.ports[1])


def triton_home() -> Path:
    """Where the wheel keeps the server; raises LookupError if it is not there."""
    found = list((VENVS / "triton").glob("lib/python*/site-packages/pytriton/tritonserver"))
    if not found:
        raise LookupError("the wheel of PyTriton holds no tritonserver here")
    return found[0]


def _litserve(place: Place) -> Plan:
    # One process runs batches with all cores, two run single requests with one each.
    told = _told(place.case, threads=os.cpu_count() if place.case.batches else 1)
    python = str(interpreter("litserve"))
    return Plan([python, str(PEERS / "litserve_app.py"), str(place.port)], told)


def _bentoml(place: Place) -> Plan:
    command = [*_program("bentoml"), "serve", "bentoml_service:Model", "--working-dir", str(PEERS)]
    command += ["--host", HOST, "--port", str(place.port)]
    told = _told(place.case, threads=os.cpu_count() if place.case.batches else 1)
    home = place.home / "bentoml"
    home.mkdir(exist_ok=True)
    quiet = {"BENTOML_HOME": str(home), "BENTOML_DO_NOT_TRACK": "True"}
    return Plan(command, told | quiet | {"PYTHONPATH": str(PEERS)})


def _bare(place: Place) -> Plan:
    return Plan([sys.executable, str(PEERS / "bare.py"), str(place.port)])


FASTAPI = Contender(
    "FastAPI + pydantic + uvicorn, 2 workers", "fastapi", _fastapi, dialects.PROJECT
)
MLSERVER = Contender("MLServer, in-process", "mlserver", _mlserver, dialects.OIP, needs="mlserver")
TRITON = Contender(
    "Triton, Python backend, 2 instances", "triton", _Triton(2), dialects.OIP, needs="triton"
)
TRITON_1 = Contender(
    "Triton, Python backend, 1 instance", "triton-1", _Triton(1), dialects.OIP, needs="triton"
)
LITSERVE = Contender("LitServe", "litserve", _litserve, dialects.LITSERVE, needs="litserve")
BENTOML = Contender("BentoML", "bentoml", _bentoml, dialects.BENTOML, needs="bentoml")
BARE = Contender("bare server (reads and answers bytes)", "bare", _bare, dialects.BARE)
