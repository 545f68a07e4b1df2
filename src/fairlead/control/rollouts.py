"""Beginning a rollout, and moving its line's traffic so that nobody else's choice is ever overwritten."""

from __future__ import annotations

import secrets
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from fairlead.control import catalogs as changing, releases
from fairlead.control.releases import SourcedRelease, split_text
from fairlead.domain.catalog import Catalog, Line, ordered_traffic, with_traffic
from fairlead.domain.errors import FairleadError, InvalidInput, Kind, Problem, Refused
from fairlead.domain.ids import LineId, RevisionId
from fairlead.domain.judge import Policy
from fairlead.domain.ports import Artifacts, Catalogs
from fairlead.domain.release import WHOLE
from fairlead.domain.rollout import Entry, Event, Outcome, Record, Rollout, Traffic, rollout_to_json
from fairlead.domain.rollout_ports import Rollouts
from fairlead.kits.clock import Clock, iso


class Interfered(FairleadError):
    """Somebody else has moved the line's traffic, or leads the rollout now: what they chose stands."""

    kind = Kind.CONFLICT


@dataclass(frozen=True, slots=True)
class Desk:
    """Where a rollout is written down and carried out."""

    catalogs: Catalogs
    rollouts: Rollouts
    clock: Clock

    def move(self, rollout: Rollout, wanted: Traffic, allowed: Collection[Traffic]) -> Catalog:
        """Set the line's traffic if it is one of `allowed`; raises Interfered if it is not."""

        def moved(catalog: Catalog) -> Catalog:
            check_ours(rollout, catalog, (*allowed, wanted))
            return with_traffic(catalog, rollout.line, wanted)

        what = f"rollout {rollout.id}: traffic {rollout.line} {split_text(wanted)}"
        return changing.change(self.catalogs, self.clock, moved, what)

    def end(self, record: Record, outcome: Outcome, reasons: tuple[str, ...]) -> Record:
        """Write the last entry."""
        body = {"outcome": str(outcome), "reasons": list(reasons)}
        return self.write(record, Event.ENDED, body)

    def write(self, record: Record, event: Event, body: Mapping[str, object]) -> Record:
        """Write the next entry. Raises StoreConflict if somebody else has written it."""
        entry = Entry(record.next_number, self.clock.now(), event, body)
        self.rollouts.append(record.rollout.id, entry)
        return Record(record.rollout, (*record.entries, entry))

    def begin(
        self,
        artifacts: Artifacts,
        sourced: SourcedRelease,
        policy: Policy,
        process: dict[str, object],
    ) -> Record:
        """Create the file's revision at 0 % of its line's traffic, and the record of its rollout.

        The journal comes first: a rollout that is killed right here is found there. Raises InvalidInput or
        Refused, before anything has changed, if the file cannot be rolled out now.
        """

        def planned(catalog: Catalog) -> Catalog:
            manifests = releases.manifests_of(artifacts, [sourced])
            return releases.plan(catalog, [sourced], manifests, self.clock.now()).catalog

        before = self.catalogs.read()
        planned(before)  # before anything else of the file is used: it names what is wrong with it
        self._check_alone(sourced.release.revision_id.line_id)
        rollout = self._rollout(before, sourced, policy, planned(before))
        body = {**rollout_to_json(rollout), "process": process}
        entry = Entry(1, self.clock.now(), Event.STARTED, body)
        self.rollouts.append(rollout.id, entry)
        record = Record(rollout, (entry,))

        def begun(catalog: Catalog) -> Catalog:
            check_ours(rollout, catalog, (rollout.before,))
            return with_traffic(planned(catalog), rollout.line, rollout.traffic_at(0))

        try:
            changing.change(self.catalogs, self.clock, begun, f"rollout {rollout.id}: begin")
        except FairleadError as error:
            self.end(record, Outcome.STOPPED, (error.message,))
            raise
        return record

    def _rollout(
        self, catalog: Catalog, sourced: SourcedRelease, policy: Policy, planned: Catalog
    ) -> Rollout:
        candidate = sourced.release.revision_id
        goal = ordered_traffic(sourced.release.traffic)
        if not any(share.tag == candidate.revision and share.percent == WHOLE for share in goal):
            wrong = f"gives {candidate.served_version} less than all: {split_text(goal)}"
            right = "a rollout ends with all traffic on the new revision: leave `traffic` out, or use `fairlead apply`"
            raise InvalidInput(sourced.source, [Problem("traffic", wrong, right)])
        line = _line(catalog, candidate)
        stable = _stable(line, candidate)
        revisions = planned.line(candidate.line_id).revisions
        artifacts = {
            one.served_version: f"{revisions[one.revision].artifact} ({revisions[one.revision].digest})"
            for one in (candidate, stable)
        }
        moment = iso(self.clock.now())[:19].translate(str.maketrans("T", "-", ":-"))
        name = f"{moment[:8]}-{moment[8:]}-{secrets.token_hex(2)}".replace("--", "-")
        return Rollout(
            name, candidate, stable, line.traffic, goal, policy, sourced.source, artifacts
        )

    def _check_alone(self, line: LineId) -> None:
        for other in self.rollouts.unfinished():
            if other.rollout.line == line:
                name = other.rollout.id
                message = (
                    f"rollout {name} of {other.rollout.candidate} has not ended: wait for it, take it up with "
                    f"`fairlead rollout --resume {name}`, or end it with `fairlead rollout --abort {name}`"
                )
                raise Refused(Kind.CONFLICT, message)


def check_ours(rollout: Rollout, catalog: Catalog, ours: Collection[Traffic]) -> None:
    """Raise Interfered unless the line's traffic is one that this rollout has set."""
    found = catalog.line(rollout.line).traffic
    if found not in ours:
        message = (
            f"somebody else moved the traffic of {rollout.line} to {split_text(found)}; that stands, "
            f"and the rollout of {rollout.candidate.served_version} has stopped"
        )
        raise Interfered(message)


def _line(catalog: Catalog, candidate: RevisionId) -> Line:
    service = catalog.services.get(candidate.service)
    if service is not None and service.kill is not None:
        message = f"{service.name} is switched off, so there is nothing to judge by: `fairlead revive {service.name}`"
        raise Refused(Kind.CONFLICT, message)
    line = service.lines.get(candidate.line) if service else None
    if line is None or not line.traffic:
        message = (
            f"line {candidate.line_id} serves nothing yet, so there is nothing to compare {candidate.served_version} "
            "with: `fairlead apply` its first revision"
        )
        raise Refused(Kind.CONFLICT, message)
    return line


def _stable(line: Line, candidate: RevisionId) -> RevisionId:
    """The one revision that has all the traffic; raises Refused if there is none, or if it is the new one."""
    whole = [share.tag for share in line.traffic if share.percent == WHOLE]
    if not whole:
        message = (
            f"traffic of {line.id} is split already ({split_text(line.traffic)}): give all of it to the stable "
            f"revision first: fairlead traffic {line.id.service} {line.id.line} REVISION=100"
        )
        raise Refused(Kind.CONFLICT, message)
    if whole[0] == candidate.revision:
        raise Refused(Kind.CONFLICT, f"{candidate} has all traffic already: nothing to roll out")
    return RevisionId(line.id.service, line.id.line, whole[0])
