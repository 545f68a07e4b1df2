"""What the clients of a soak write down: every answer checked, then only counted."""

import json
import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from soak import models

Kind = Literal["kept", "new", "pipelined", "worker", "http2", "slow", "leaving"]
KINDS: Mapping[Kind, str] = {
    "kept": "keep-alive, one request after another",
    "new": "a new connection for each request",
    "pipelined": "pipelined through the gateway, 8 at a time",
    "worker": "pipelined straight into a worker's socket, 8 at a time",
    "http2": "HTTP/2, 8 streams at a time",
    "slow": "slow readers of large answers",
    "leaving": "clients that leave before, during or after their request",
}
# "status": another one than 200; "lost": no answer, or half of one; "wrong": an answer that lies.
Fault = Literal["status", "lost", "wrong"]

_OK = 200
_STEP = 1.1  # between the bounds of the latency counts: 10 % is all the report needs
_MOST_FAILURES = 1000  # kept in detail; beyond that they are only counted


@dataclass(frozen=True, slots=True)
class Asked:
    """One request: what was asked, by whom, when (steady seconds)."""

    kind: Kind
    identity: str
    line: str  # what Accept-Version said; "" if it was not sent
    rows: range
    sent: float


@dataclass(frozen=True, slots=True)
class Failure:
    """A request that was not answered, or not rightly."""

    kind: Kind
    fault: Fault
    sent: float
    done: float
    text: str


@dataclass(slots=True)
class Served:
    """Answers of one revision with one artifact, asked for in one way: how many, sent from when to when."""

    count: int
    first: float
    last: float

    def add(self, count: int, first: float, last: float) -> None:
        self.count += count
        self.first, self.last = min(self.first, first), max(self.last, last)


# (gateway or worker, Accept-Version, served version, artifact version)
ServedKey = tuple[Literal["gateway", "worker"], str, str, int]


@dataclass(slots=True)
class Book:
    """One page: what happened since the last one was handed in."""

    seed: int
    answers: Counter[str] = field(default_factory=Counter)  # right ones, by kind
    moved: int = 0  # pipelined into a worker that was closing: to be sent again elsewhere
    left: int = 0  # requests whose client left
    failures: list[Failure] = field(default_factory=list)
    more_failures: int = 0
    served: dict[ServedKey, Served] = field(default_factory=dict)
    latencies: dict[str, Counter[int]] = field(default_factory=dict)

    def answered(
        self, asked: Asked, answer: tuple[int, Mapping[str, str], bytes], now: float
    ) -> bool:
        """Check an answer and count it; was it right?"""
        status, headers, body = answer
        if status != _OK:
            self.failed(asked, "status", f"{status} {body[:200].decode(errors='replace')}", now)
            return False
        artifact, wrong = _checked(self.seed, asked, headers, body)
        if wrong:
            self.failed(asked, "wrong", wrong, now)
            return False
        self.answers[asked.kind] += 1
        exponent = math.ceil(math.log(max(now - asked.sent, 1e-5), _STEP))
        self.latencies.setdefault(asked.kind, Counter())[exponent] += 1
        way: Literal["gateway", "worker"] = "worker" if asked.kind == "worker" else "gateway"
        key = (way, asked.line, headers["x-served-version"], artifact)
        self._serve(key, 1, asked.sent, asked.sent)
        return True

    def failed(self, asked: Asked, fault: Fault, text: str, now: float) -> None:
        """Note a request that failed."""
        if len(self.failures) < _MOST_FAILURES:
            self.failures.append(Failure(asked.kind, fault, asked.sent, now, text))
        else:
            self.more_failures += 1

    def add(self, other: "Book") -> None:
        """Take in another page."""
        self.answers += other.answers
        self.moved += other.moved
        self.left += other.left
        self.failures += other.failures
        self.more_failures += other.more_failures
        for key, one in other.served.items():
            self._serve(key, one.count, one.first, one.last)
        for kind, counts in other.latencies.items():
            self.latencies.setdefault(kind, Counter()).update(counts)

    def latency_ms(self, kind: str, share: float) -> float:
        """The latency that this share of a kind's answers did not exceed, to 10 %."""
        counts = self.latencies.get(kind, Counter())
        missing = share * counts.total()
        for exponent in sorted(counts):
            missing -= counts[exponent]
            if missing <= 0:
                return float(1000 * _STEP**exponent)
        return 0.0

    def _serve(self, key: ServedKey, count: int, first: float, last: float) -> None:
        there = self.served.get(key)
        if there is None:
            self.served[key] = Served(count, first, last)
        else:
            there.add(count, first, last)


def _checked(seed: int, asked: Asked, headers: Mapping[str, str], body: bytes) -> tuple[int, str]:
    """The artifact that answered, and what is wrong with the answer; empty if nothing is."""
    if headers.get("x-request-id") != asked.identity:
        return 0, f"asked as {asked.identity}, answered as {headers.get('x-request-id')}"
    if not headers.get("x-served-version"):
        return 0, "no X-Served-Version"
    try:
        document = json.loads(body)
        artifact = int(document["model_version"])
        data = document["outputs"][0]["data"]
    except (ValueError, KeyError, IndexError, TypeError) as error:
        return 0, f"no answer to an inference: {error!r}"
    if not models.is_right(seed, artifact, asked.rows, data):
        return artifact, f"not what artifact {artifact} answers to rows {asked.rows}"
    return artifact, ""
