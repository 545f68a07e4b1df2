"""A rollout: one revision led from no traffic to all of it, and the record of how that was decided.

The record is a journal of entries, numbered from 1 and never changed. Whoever leads a rollout writes each entry
before it acts, under the next number and only if that is free: so of two who lead the same rollout one
stops, and one that was killed leaves behind what it was about to do.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from enum import StrEnum
from typing import Any

from fairlead.domain.catalog import ordered_traffic
from fairlead.domain.errors import Kind, Refused
from fairlead.domain.ids import LineId, RevisionId
from fairlead.domain.judge import Decision, Policy, Verdict, Window
from fairlead.domain.manifest import check_schema
from fairlead.domain.reading import Node
from fairlead.domain.release import WHOLE, TrafficShare
from fairlead.domain.samples import Sample, sample_from_json, sample_to_json

SCHEMA = 1
Traffic = tuple[TrafficShare, ...]


class Event(StrEnum):
    """What an entry tells."""

    STARTED = "started"
    MOVED = "moved"  # traffic is about to be at this percent
    JUDGED = "judged"
    RESUMED = "resumed"
    ABORTED = "aborted"  # somebody ends it from elsewhere
    ENDED = "ended"


class Outcome(StrEnum):
    """How a rollout ended."""

    PROMOTED = "promoted"
    ROLLED_BACK = "rolled back"
    STOPPED = "stopped"  # somebody else moved the traffic: their choice stands


@dataclass(frozen=True, slots=True)
class Rollout:
    """What was decided when it started. `before` is the line's traffic then, `goal` what it shall be."""

    id: str
    candidate: RevisionId
    stable: RevisionId
    before: Traffic
    goal: Traffic
    policy: Policy
    source: str  # the release file
    artifacts: Mapping[str, str]  # revision -> artifact and digest, for people

    @property
    def line(self) -> LineId:
        return self.candidate.line_id

    def traffic_at(self, percent: int) -> Traffic:
        """The line's traffic while the new revision has `percent`: the stable one has the rest.

        What was kept reachable at 0 % stays so. At 100 % the stable one is still there, for a quick way back.
        """
        kept = [share for share in self.before if share.tag != self.stable.revision]
        led = [
            TrafficShare(self.stable.revision, WHOLE - percent),
            TrafficShare(self.candidate.revision, percent),
        ]
        names = {share.tag for share in led}
        return ordered_traffic((*(share for share in kept if share.tag not in names), *led))


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry of the journal. `at` is seconds since the epoch; `body` depends on the event."""

    number: int
    at: float
    event: Event
    body: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Record:
    """A rollout and everything that happened, oldest first."""

    rollout: Rollout
    entries: tuple[Entry, ...]

    @property
    def next_number(self) -> int:
        return self.entries[-1].number + 1

    @property
    def outcome(self) -> Outcome | None:
        """How it ended; None if nobody has ended it."""
        last = self.entries[-1]
        return Outcome(last.body["outcome"]) if last.event is Event.ENDED else None

    @property
    def reasons(self) -> tuple[str, ...]:
        """Why it stands as it stands: those of the last entry that has any."""
        return next(
            (
                tuple(entry.body["reasons"])
                for entry in self.entries[::-1]
                if entry.body.get("reasons")
            ),
            (),
        )

    @property
    def percent(self) -> int:
        """What the new revision was last given."""
        moves = [entry.body["percent"] for entry in self.entries if entry.event is Event.MOVED]
        return int(moves[-1]) if moves else 0

    @property
    def decided(self) -> Decision | None:
        """What was decided of the last move; None if nothing yet."""
        for entry in self.entries[::-1]:
            if entry.event is Event.JUDGED:
                return Decision(entry.body["decision"])
            if entry.event is Event.MOVED:
                return None
        return None

    @property
    def leader(self) -> Mapping[str, Any]:
        """The process that leads it or did so last."""
        led = [entry.body["process"] for entry in self.entries if "process" in entry.body]
        return led[-1] if led else {}

    @property
    def yardstick(self) -> Sample | None:
        """The stable revision's sample of the first window, in which it had most of the traffic.

        A worker that carries everything is slower than one that carries half, so the last step is
        measured by when the stable one carried nearly everything.
        """
        for entry in self.entries:
            window = entry.body.get("window")
            if window and not window["earlier"]:
                node = Node(window["stable"])
                sample = sample_from_json(node)
                node.done(f"rollout {self.rollout.id}")
                return sample
        return None

    def traffics(self) -> set[Traffic]:
        """What a leader that was killed may have left the line with; anything else is somebody else's choice."""
        moves = [entry.body["percent"] for entry in self.entries if entry.event is Event.MOVED]
        found = {self.rollout.traffic_at(percent) for percent in [0, *moves][-2:]}
        if self.percent == WHOLE and self.decided is Decision.GO_ON:
            found.add(self.rollout.goal)
        return found


@dataclass(frozen=True, slots=True)
class Standing:
    """How far a revision's workers are. `failed`: `reason` is why its last start failed."""

    ready: bool
    failed: bool = False
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Exam:
    """How the golden examples were answered. `wrong` says which was not, `missed` that nobody answered."""

    asked: int = 0
    wrong: str = ""
    missed: str = ""


def judged(percent: int, window: Window | None, verdict: Verdict) -> dict[str, Any]:
    """The body of a JUDGED entry."""
    body: dict[str, Any] = {
        "percent": percent,
        "decision": str(verdict.decision),
        "reasons": list(verdict.reasons),
    }
    if window is not None:
        body["window"] = {
            "seconds": round(window.seconds, 3),
            "earlier": window.earlier,
            "candidate": sample_to_json(window.candidate),
            "stable": sample_to_json(window.stable),
        }
    return body


def rollout_to_json(rollout: Rollout) -> dict[str, Any]:
    """What a STARTED entry says of the rollout."""
    return {
        "candidate": asdict(rollout.candidate),
        "stable": asdict(rollout.stable),
        "before": [asdict(share) for share in rollout.before],
        "goal": [asdict(share) for share in rollout.goal],
        "policy": asdict(rollout.policy),
        "source": rollout.source,
        "artifacts": dict(rollout.artifacts),
    }


def entry_to_json(entry: Entry) -> dict[str, Any]:
    """An entry as the store holds it."""
    return {
        "schema": SCHEMA,
        "number": entry.number,
        "at": entry.at,
        "event": str(entry.event),
        **entry.body,
    }


def is_end(document: Any) -> bool:  # noqa: ANN401 - untrusted
    """Is this the entry that ends a rollout?"""
    return isinstance(document, Mapping) and document.get("event") == Event.ENDED


def record_to_json(record: Record) -> dict[str, Any]:
    """The whole record for programs."""
    return {
        "id": record.rollout.id,
        "revision": str(record.rollout.candidate),
        "outcome": str(record.outcome) if record.outcome else None,
        "reasons": list(record.reasons),
        "entries": [entry_to_json(entry) for entry in record.entries],
    }


def record_from_json(rollout: str, documents: Sequence[Any]) -> Record:
    """Put a journal's documents together. Raises InvalidInput or FairleadError if they are no rollout's."""
    source = f"rollout {rollout}"
    if not documents:
        raise Refused(Kind.NOT_FOUND, f"there is no rollout {rollout!r}; see `fairlead rollouts`")
    entries = []
    for document in documents:
        check_schema(document, SCHEMA, source)
        node = Node(document)
        node.mapping(None, ["number", "event"])
        number, at = node.child("number").integer(1), node.child("at").number()
        event = Event(node.child("event").one_of([str(event) for event in Event]))
        node.done(source)
        known = ("schema", "number", "at", "event")
        body = {key: value for key, value in document.items() if key not in known}
        entries.append(Entry(number, at, event, body))
    node = Node(entries[0].body)
    found = _rollout(rollout, node)
    node.done(source)
    return Record(found, tuple(entries))


def _rollout(name: str, node: Node) -> Rollout:
    node.mapping(None, ["candidate", "stable", "before", "goal", "policy"])
    artifacts = node.child("artifacts")
    return Rollout(
        id=name,
        candidate=_revision(node.child("candidate")),
        stable=_revision(node.child("stable")),
        before=_traffic(node.child("before")),
        goal=_traffic(node.child("goal")),
        policy=_policy(node.child("policy")),
        source=str(node.child("source").value or ""),
        artifacts={revision: child.text() for revision, child in artifacts.items()},
    )


def _revision(node: Node) -> RevisionId:
    return RevisionId(*(node.child(key).text() for key in ("service", "line", "revision")))


def _traffic(node: Node) -> Traffic:
    return tuple(
        TrafficShare(child.child("tag").text(), child.child("percent").integer(0, WHOLE))
        for child in node.elements()
    )


def _policy(node: Node) -> Policy:
    values: dict[str, Any] = {
        one.name: node.child(one.name).number() for one in fields(Policy) if one.name != "steps"
    }
    for name in ("min_requests", "max_growth_bytes"):
        values[name] = int(values[name])
    steps = tuple(child.integer(1, WHOLE) for child in node.child("steps").elements())
    return Policy() if node.problems else Policy(steps=steps, **values)
