"""How a request ended, in words: who answered, who refused and why, or why nobody could."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from fairlead.domain.catalog import Catalog
from fairlead.domain.errors import Kind
from fairlead.domain.requests import LoggedRequest

FRONT = "front"
_OK = 200
_CLIENT_ERROR = 400
_SERVER_ERROR = 500
_UNAUTHENTICATED = 401
_TOO_MANY = 429
_CANCELLED = 499  # the worker saw the client go

# Envoy's response flags: the client closed the connection, or reset the stream.
_LEFT = frozenset({"DC", "DR"})
# The others. One that matters more comes first; a request can have several.
_FLAGS: Mapping[str, tuple[str, str]] = {
    "UT": ("deadline", "the gateway's deadline was over"),
    "SI": ("deadline", "nothing moved on the stream for too long"),
    "DT": ("deadline", "it took longer than a request may"),
    "UMSDR": ("deadline", "it took longer than a request may"),
    "UO": ("overloaded", "the gateway's limit of requests to this revision was reached"),
    "OM": ("overloaded", "the gateway itself was overloaded"),
    "RL": ("quota", "a quota was used up"),
    "UH": ("no_worker", "every worker of the revision was shut out after failures, or gone"),
    "NC": ("no_worker", "the revision's workers were not known to the gateway any more"),
    "UF": ("no_worker", "no worker of the revision took a connection"),
    "UC": ("worker_gone", "the worker closed the connection before it had answered"),
    "UR": ("worker_gone", "the worker reset the request"),
    "URX": ("no_worker", "every retry failed too"),
    "LR": ("gateway_reset", "the gateway gave the connection up"),
    "UPE": ("worker_wrong", "the worker's answer was no HTTP"),
    "DPE": ("malformed", "the request was no HTTP that we take"),
    "NR": ("no_route", "there was no route, not even to the front desk: the gateway had just started"),
    "UAEX": ("unauthenticated", "the key was not accepted"),
    "IH": ("malformed", "a header was wrong"),
}  # fmt: skip

_WORKERS: Mapping[str, str] = {
    Kind.DEADLINE: "its deadline was over",
    Kind.OVERLOADED: "the worker's queue was full",
    Kind.UNAVAILABLE: "the worker was ending or not ready",
    Kind.MODEL: "the model's own code failed",
    Kind.INTERNAL: "the worker failed",
    Kind.SCHEMA: "the request was not what the model's schema asks for",
    Kind.INVALID: "the request was malformed or contradicted itself",
    Kind.TOO_LARGE: "the body was too large",
    Kind.NOT_FOUND: "the worker has nothing under this path",
    Kind.METHOD: "the path does not take this method",
    Kind.ENCODING: "the body was compressed in a way that is not read",
    Kind.FORMAT: "the caller takes no form that the answer can have",
    Kind.UNAUTHENTICATED: "the key in the body was missing or wrong",
}
# Where a worker's answer does not name its kind of error.
_BY_STATUS: Mapping[int, Kind] = {
    400: Kind.INVALID,
    401: Kind.UNAUTHENTICATED,
    403: Kind.FORBIDDEN,
    404: Kind.NOT_FOUND,
    405: Kind.METHOD,
    406: Kind.FORMAT,
    413: Kind.TOO_LARGE,
    415: Kind.ENCODING,
    422: Kind.SCHEMA,
    500: Kind.INTERNAL,
    503: Kind.UNAVAILABLE,
    504: Kind.DEADLINE,
}


@dataclass(frozen=True, slots=True)
class Outcome:
    """`code` is a word for programs; `refused` says that no worker was asked."""

    code: str
    text: str
    refused: bool = False


def outcome_of(request: LoggedRequest, catalog: Catalog) -> Outcome:
    """How it ended. The catalog is the one of that time: it knows what was switched off."""
    others = tuple(flag for flag in request.flags if flag not in _LEFT)
    if len(others) == len(request.flags):
        return _ended(request, catalog)
    if request.status < _CLIENT_ERROR or request.status == _CANCELLED:
        return _left(request)
    # It was refused: who is told that a body is too large need not send it, and hangs up. The refusal is the outcome.
    refused = _ended(replace(request, flags=others), catalog)
    return replace(refused, text=f"{refused.text}; then the client left")


def _ended(request: LoggedRequest, catalog: Catalog) -> Outcome:
    """How it ended, the client's leaving aside."""
    here = request.upstream == FRONT or request.timing.refusal is not None
    if here and not request.flags:
        return _front(request, catalog)
    for flag, (code, words) in _FLAGS.items():
        if flag in request.flags:
            return Outcome(
                code, f"{request.status}: {words}{_told(request)}", refused=not request.worker
            )
    if request.flags:
        return Outcome("flagged", f"{request.status}: {' '.join(request.flags)}{_told(request)}")
    return _worker(request) if request.worker else _gateway(request)


def _told(request: LoggedRequest) -> str:
    return f" ({request.details})" if request.details else ""


def _left(request: LoggedRequest) -> Outcome:
    if request.status >= _OK:
        when = f"while it was being sent the answer ({request.status})"
    elif request.revision is None:
        when = "before it was led anywhere"
    else:
        when = "before there was an answer"
    return Outcome("client_left", f"the client left after {request.total_ms} ms, {when}")


def _front(request: LoggedRequest, catalog: Catalog) -> Outcome:
    why = request.timing.refusal
    if why is None:
        return Outcome("page", f"{request.status}: one of the gateway's own pages")
    killed = [
        service.name
        for service in catalog.services.values()
        if service.kill is not None and service.kill.message == why
    ]
    if killed and request.status >= _SERVER_ERROR:
        text = f"{request.status}: {' or '.join(killed)} was switched off by hand, saying: {why}"
        return Outcome("killed", text, refused=True)
    code = request.error_code or _BY_STATUS.get(request.status, "refused")
    return Outcome(str(code), f"{request.status}, refused by the gateway: {why}", refused=True)


def _gateway(request: LoggedRequest) -> Outcome:
    """Envoy's own answers."""
    if request.status == _UNAUTHENTICATED:
        text = f"401: no key, or one that is not known{_told(request)}"
        return Outcome("unauthenticated", text, refused=True)
    if request.status == _TOO_MANY:
        return Outcome(
            "quota", f"429: a quota of the key was used up{_told(request)}", refused=True
        )
    text = f"{request.status}, answered by the gateway{_told(request)}"
    return Outcome("gateway", text, refused=True)


def _worker(request: LoggedRequest) -> Outcome:
    if request.status < _CLIENT_ERROR:
        return Outcome("answered", f"{request.status}: answered by the worker")
    kind = request.error_code or str(_BY_STATUS.get(request.status, ""))
    words = _WORKERS.get(kind, f"the worker said {kind}" if kind else "the worker refused it")
    if kind == Kind.DEADLINE:
        words += _where(request)
    return Outcome(str(kind) or "worker", f"{request.status}: {words}")


def _where(request: LoggedRequest) -> str:
    if request.timing.engine_ms is None:
        return " while it waited for its turn"
    return f" while the model ran (for {request.timing.engine_ms:g} ms)"
