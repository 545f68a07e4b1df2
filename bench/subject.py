"""The words of a run: a model that is asked for, a server that answers, and how it is started."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

ROOT = Path(__file__).resolve().parent.parent
BENCH = ROOT / "bench"
PEERS = BENCH / "peers"
HOST = "127.0.0.1"

# How a server is loaded: HTTP by wrk; gRPC by h2load, and by grpcio as people's own programs do.
Load = Literal["wrk", "h2load", "grpcio"]


class Failed(Exception):
    """A server did not start, or did not answer as it must."""


@dataclass(frozen=True)
class Case:
    """One model and one request for it. All take a matrix of FP32 and give another."""

    name: str  # the model's, and the service's
    folder: Path  # holds model.yaml and model.onnx
    source: str  # input tensor
    target: str  # output tensor
    rows: list[list[float]]
    expected: list[list[float]]
    work: str = ""  # what it is, for people
    batches: bool = False  # big enough for batching to be the question
    threads: int = 1  # of one run, where the server has one process for it
    tolerance: float = 1e-4

    @property
    def onnx(self) -> Path:
        return self.folder / "model.onnx"

    @property
    def shape(self) -> list[int]:
        return [len(self.rows), len(self.rows[0])]


@dataclass(frozen=True)
class Place:
    """What a contender may use: the model, a directory of its own, its free ports."""

    case: Case
    home: Path
    ports: tuple[int, int, int]

    @property
    def port(self) -> int:
        return self.ports[0]


@dataclass(frozen=True)
class Plan:
    """How to start a contender once it is prepared. `grpc_port`: where it speaks gRPC, if it does."""

    command: list[str]
    environment: dict[str, str] = field(default_factory=dict)
    key: str | None = None
    grpc_port: int = 0


@dataclass(frozen=True)
class Dialect:
    """In which words a server is asked, and how its answer is read.

    `numbers` takes the headers (names in lower case) and the body of an answer; raises ValueError,
    KeyError and the like for anything that is none.
    """

    path: Callable[[Case], str]
    body: Callable[[Case], bytes]
    numbers: Callable[[Case, dict[str, str], bytes], Any]
    headers: Callable[[Case], dict[str, str]]


@dataclass(frozen=True)
class Contender:
    """One server under test.

    `prepares`: its first start ever does what later ones need not, so it is not measured.
    `needs`: the environment of its own below .bench/, if it has one.
    """

    name: str
    short: str  # for --only
    plan: Callable[[Place], Plan]
    dialect: Dialect | None = None  # None: it is only asked over gRPC
    prepares: bool = False
    needs: str = ""
