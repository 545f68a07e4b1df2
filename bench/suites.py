"""The suites: who is measured on what, how it is loaded, and which bars stand."""

from collections.abc import Callable
from dataclasses import dataclass

from bench import models, ours, speech, theirs
from bench.bars import Bar, Bounded, Capped, Compared
from bench.subject import Case, Contender, Load

_PYTHON_PEERS = (theirs.BENTOML, theirs.LITSERVE, theirs.FASTAPI, theirs.MLSERVER)


@dataclass(frozen=True)
class Group:
    """Servers that are loaded in turn with the same model in the same way.

    Neighbours are asked within seconds of each other, so those with the narrowest bar between them stand
    together.
    `barred`: the numbers of connections that a bar is about; they get the most turns.
    """

    case: Callable[[], Case]
    load: Load
    contenders: tuple[Contender, ...]
    connections: tuple[int, ...]
    barred: tuple[int, ...]
    floors: tuple[tuple[int, int, int], ...] = ()  # processes, threads, rows
    watches_memory: bool = False


@dataclass(frozen=True)
class Suite:
    """What `--suites` names."""

    name: str
    title: str
    groups: tuple[Group, ...] = ()
    bars: tuple[Bar, ...] = ()


_TRITONS = (theirs.TRITON.name, theirs.TRITON_1.name)
_SMALL_FLOORS = ((1, 1, 1), (2, 1, 1))
_MID_FLOORS = ((1, 1, 1), (2, 1, 1), (1, 2, 1), (1, 2, 32))


def _rate(suite: str, our: Contender, times: float, *peers: str, at: int = 32) -> Compared:
    return Compared(suite, "digits", "wrk", at, our.name, times, peers)


def _over_grpc(load: str, times: float, peer: Contender) -> Compared:
    return Compared("grpc", "digits", load, 32, ours.GATEWAY.name, times, (peer.name,))


def _batch(at: int, times: float, peer: Contender) -> Compared:
    return Compared("batch", "mlp", "wrk", at, ours.BATCHED.name, times, (peer.name,))


def _tensors(mebibytes: int) -> tuple[Bar, ...]:
    case = f"tensors-{mebibytes}"
    return (
        Compared("tensors", case, "wrk", 8, ours.TENSORS.name, 0.8, (theirs.BARE.name,)),
        Capped(
            "tensors",
            case,
            "wrk",
            8,
            ours.TENSORS.name,
            "peak_bodies",
            "peak memory",
            3.0,
            "x the bodies in flight",
        ),
    )


SMALL = Suite(
    "small",
    "The small model over HTTP JSON",
    (
        Group(
            models.digits,
            "wrk",
            (
                theirs.BENTOML,
                theirs.LITSERVE,
                theirs.MLSERVER,
                ours.DIRECT_1,
                ours.DIRECT,
                ours.DIRECT_OIP,
                theirs.TRITON_1,
                theirs.FASTAPI,
                theirs.TRITON,
            ),
            (1, 8, 32),
            (32,),
            floors=_SMALL_FLOORS,
        ),
    ),
    (
        _rate("small", ours.DIRECT, 2.2, theirs.FASTAPI.name),
        _rate("small", ours.DIRECT_OIP, 5, theirs.MLSERVER.name),
        _rate("small", ours.DIRECT_OIP, 3, *_TRITONS),
        _rate("small", ours.DIRECT, 4, theirs.FASTAPI.name),
        _rate("small", ours.DIRECT_OIP, 12, theirs.MLSERVER.name),
        _rate("small", ours.DIRECT, 20, theirs.LITSERVE.name),
        _rate("small", ours.DIRECT, 40, theirs.BENTOML.name),
        Compared("small", "digits", "wrk", 32, ours.DIRECT_OIP.name, 1.0, _TRITONS, "p99_ms"),
        Capped(
            "small", "digits", "wrk", 32, ours.DIRECT_1.name, "cpu_us", "CPU per request", 25, "µs"
        ),
    ),
)
GATEWAY = Suite(
    "gateway",
    "The small model through the gateway: a key, a version and a 90/10 split",
    (
        Group(
            models.digits,
            "wrk",
            (theirs.TRITON_1, theirs.FASTAPI, theirs.TRITON, ours.GATEWAY),
            (1, 8, 32),
            (32,),
            floors=_SMALL_FLOORS,
        ),
    ),
    (
        _rate("gateway", ours.GATEWAY, 1.3, theirs.FASTAPI.name),
        _rate("gateway", ours.GATEWAY, 1.6, *_TRITONS),
    ),
)
_OVER_GRPC = (theirs.MLSERVER, ours.DIRECT_GRPC, theirs.TRITON_1, theirs.TRITON, ours.GATEWAY)
GRPC = Suite(
    "grpc",
    "The small model over gRPC, unary",
    (
        Group(models.digits, "h2load", _OVER_GRPC, (1, 32), (32,), floors=_SMALL_FLOORS),
        Group(models.digits, "grpcio", _OVER_GRPC, (1, 32), (32,)),
    ),
    tuple(
        bar
        for load in ("h2load", "grpcio")
        for bar in (
            Compared("grpc", "digits", load, 32, ours.GATEWAY.name, 2, _TRITONS),
            _over_grpc(load, 6, theirs.MLSERVER),
        )
    ),
)
BATCH = Suite(
    "batch",
    "Bigger models: an MLP that batching helps, a convolution that it does not",
    (
        Group(
            models.mlp,
            "wrk",
            (*_PYTHON_PEERS, theirs.TRITON, ours.BATCHED),
            (1, 32, 64),
            (32, 64),
            floors=_MID_FLOORS,
        ),
        Group(
            models.conv,
            "wrk",
            (theirs.TRITON, ours.BATCHED, ours.UNBATCHED),
            (1, 32),
            (32,),
            floors=_MID_FLOORS,
        ),
    ),
    (
        *(
            bar
            for at in (32, 64)
            for bar in (
                _batch(at, 1.1, theirs.TRITON),
                *(_batch(at, 2, peer) for peer in _PYTHON_PEERS),
                Compared(
                    "batch",
                    "mlp",
                    "wrk",
                    at,
                    ours.BATCHED.name,
                    1.0,
                    tuple(one.name for one in (theirs.TRITON, *_PYTHON_PEERS)),
                    "p99_ms",
                ),
            )
        ),
        # "No worse": what two runs of one server differ by on a quiet machine is not worse.
        Compared("batch", "conv", "wrk", 32, ours.BATCHED.name, 0.95, (ours.UNBATCHED.name,)),
    ),
)
TENSORS = Suite(
    "tensors",
    "Binary tensors there and back",
    tuple(
        Group(
            case,
            "wrk",
            (theirs.BARE, ours.TENSORS),
            (1, 8),
            (8,),
            watches_memory=True,
        )
        for case in (models.one_mebibyte, models.sixteen_mebibytes)
    ),
    (*_tensors(1), *_tensors(16)),
)
SCALE = Suite(
    "scale",
    "Many services on one node",
    bars=(
        Bounded("scale", "worker, 100 services", "CPU per request against 1 service", 1.15),
        Bounded("scale", "worker, 1000 services", "CPU per request against 1 service", 1.15),
        Bounded("scale", "gateway, 100 services", "CPU per request against 1 service", 1.15),
        Bounded("scale", "gateway, 1000 services", "CPU per request against 1 service", 1.15),
        Bounded("scale", "1000 services", "memory", 4096, "MiB"),
        Bounded("scale", "1000 services", "release of one ready", 2.0, "s"),
    ),
)
COLD = Suite(
    "cold",
    "Cold starts",
    bars=(
        Bounded("cold", "fairlead serve, one small model", "start to first answer", 0.6, "s"),
        Bounded("cold", "fairlead up, ten small models", "start to first answer of all", 3.0, "s"),
    ),
)
SPEECH = Suite(
    "speech",
    "Streams of sound",
    bars=(
        Bounded("speech", speech.FIRST, "first byte", 100, "ms"),
        Bounded("speech", speech.FIRST, "first byte, p99", 100, "ms"),
        Bounded("speech", speech.PACED, "first byte, p99", 100, "ms"),
        Bounded(
            "speech", speech.PACED, "share of the sound's time at the first byte, p99", 25, "%"
        ),
        Bounded("speech", speech.GAPS, "added by the gateway, p99", 5, "ms"),
        Bounded("speech", speech.GAPS, "added by the gateway and its activator, p99", 5, "ms"),
        Bounded("speech", speech.AT_ONCE, "lost, with one replica", 0),
        Bounded("speech", speech.AT_ONCE, "lost, with all replicas", 0),
        Bounded("speech", speech.AT_ONCE, "mixed, with one replica", 0),
        Bounded("speech", speech.AT_ONCE, "mixed, with all replicas", 0),
        Bounded("speech", speech.AT_ONCE, "validate meanwhile, p99", 50, "ms"),
        Bounded("speech", speech.ZERO, "first byte, slowest", 1, "s"),
        Bounded("speech", speech.BURST, "lost", 0),
        Bounded("speech", speech.BURST, "workers and voices left", 0),
        Bounded("speech", speech.RELEASES, "cut or mixed", 0),
    ),
)
SUITES = (SMALL, GATEWAY, GRPC, BATCH, TENSORS, COLD, SCALE, SPEECH)
