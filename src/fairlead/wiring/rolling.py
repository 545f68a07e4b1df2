"""Rollouts from the command line: what can be seen of this machine, Ctrl-C, and taking up what was left."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

from fairlead.adapters.store.rollouts import StoredRollouts
from fairlead.agent.prove import prove
from fairlead.agent.settings import AgentSettings
from fairlead.api.worker import ServingSettings, WorkerSpec
from fairlead.control.leading import Leader
from fairlead.control.rollouts import Desk
from fairlead.domain.errors import FairleadError, Kind, Refused, StoreConflict
from fairlead.domain.ids import LineId, RevisionId
from fairlead.domain.judge import Policy
from fairlead.domain.rollout import Event, Exam, Record, Standing, Traffic
from fairlead.domain.samples import Reading
from fairlead.domain.status import NodeStatus, Replica, State
from fairlead.kits import processes
from fairlead.wiring.figures import read_figures, wake
from fairlead.wiring.homes import Control, read_releases
from fairlead.wiring.journals import is_led, journals_in
from fairlead.wiring.observe import gateway_status, node_status, running

_PROOF_SECONDS = 30.0  # for a worker's golden examples, among its callers' requests
_LOOK_SECONDS = 0.05
_TRIES = 5  # to write an entry while somebody else writes too

Tell = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class LocalScene:
    """This machine, as its agent and gateway show it."""

    control: Control
    api_root: str  # what the project API's paths start with

    def standing(self, revision: RevisionId) -> Standing:
        node = node_status(self.control)
        if node is None:
            return Standing(ready=False, reason="the agent does not run")
        if node.stands(revision):
            return Standing(ready=True)
        failed = [
            replica
            for replica in node.replicas
            if replica.revision == revision and replica.state is State.FAILED
        ]
        reason = node.reasons().get(revision, "not started")
        return Standing(ready=False, failed=bool(failed), reason=reason)

    def flowing(self, line: LineId) -> Traffic | None:
        gateway = gateway_status(self.control)
        return None if gateway is None else gateway.effective.get(line, ())

    def reading(self) -> Reading | None:
        return read_figures(self.control.home.agent_socket)

    def golden(self, revision: RevisionId, stop: Callable[[], str]) -> Exam:
        node: NodeStatus | None = node_status(self.control)
        replicas = node.ready().get(revision, ()) if node else ()
        cold = [one for one in node.cold if one.revision_id == revision] if node else []
        if cold:
            wake(self.control.home.agent_socket, cold)
            return Exam(missed="it was cold and is coming up")
        if not replicas:
            return Exam(missed=self.standing(revision).reason or "no worker is ready")
        version = self.api_root.strip("/")
        settings = AgentSettings(
            proof_seconds=_PROOF_SECONDS, serving=ServingSettings(api_version=version)
        )
        try:
            asked = asyncio.run(self._ask_all(replicas, settings, stop))
        except FairleadError as error:
            if error.kind in (Kind.UNAVAILABLE, Kind.DEADLINE, Kind.CONFLICT):
                return Exam(missed=error.message)
            return Exam(wrong=error.message)
        return Exam(asked)

    async def _ask_all(
        self, replicas: tuple[Replica, ...], settings: AgentSettings, stop: Callable[[], str]
    ) -> int:
        async def ask() -> int:
            asked = 0
            for replica in replicas:
                asked += await prove(
                    self._spec(replica), settings, examples=settings.golden_examples
                )
            return asked

        async with asyncio.TaskGroup() as group:
            asking = group.create_task(_result(ask()))
            while not asking.done() and not stop():
                await asyncio.wait({asking}, timeout=_LOOK_SECONDS)
            asking.cancel()
        result = asking.result() if not asking.cancelled() else 0
        if isinstance(result, FairleadError):
            raise result
        return result

    def _spec(self, replica: Replica) -> WorkerSpec:
        return WorkerSpec(
            worker=replica.worker,
            revision=replica.revision,
            artifact=self.control.home.artifact(replica.digest),
            digest=replica.digest,
            socket=Path(replica.socket),
        )


async def _result(work: Awaitable[int]) -> int | FairleadError:
    try:
        return await work
    except FairleadError as error:
        return error


@dataclass(slots=True)
class Interruption:
    """Ctrl-C, SIGTERM and a closed terminal ask for an end; a second one ends the command as it stands."""

    reason: str = ""

    def __call__(self) -> str:
        return self.reason

    @contextlib.contextmanager
    def watching(self, tell: Tell) -> Iterator[None]:
        """Meanwhile the first who asks for an end is noted as the `reason`; the second raises KeyboardInterrupt."""

        def asked(number: int, frame: FrameType | None) -> None:
            del frame
            if self.reason:
                raise KeyboardInterrupt
            self.reason = f"interrupted ({signal.Signals(number).name})"
            tell("interrupted: rolling back (once more: leave everything as it is now)")

        numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
        before = {number: signal.signal(number, asked) for number in numbers}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


@dataclass(slots=True)
class Rolling:
    """The rollouts of one home. `tell` gets lines that stay, `show` one that the next replaces."""

    control: Control
    tell: Tell
    show: Tell
    interruption: Interruption = field(default_factory=Interruption)

    @property
    def rollouts(self) -> StoredRollouts:
        return journals_in(self.control)

    @property
    def desk(self) -> Desk:
        return Desk(self.control.catalogs, self.rollouts, self.control.clock)

    def start(self, path: Path, policy: Policy) -> Record:
        """Roll out one release file; returns the record with its end."""
        (sourced,) = read_releases([path])
        root = self._root()
        with self.interruption.watching(self.tell):
            record = self.desk.begin(self.control.artifacts, sourced, policy, _me())
            rollout = record.rollout
            self.tell(
                f"rollout {rollout.id}: {rollout.candidate} against {rollout.stable.served_version}, "
                f"{' % → '.join(map(str, policy.steps))} %"
            )
            return self._lead(record, root)

    def resume(self, name: str) -> Record:
        """Take up a rollout whose command is gone."""
        record = self._unfinished(name)
        if is_led(record):
            pid = record.leader.get("pid")
            message = f"rollout {record.rollout.id} is led by process {pid}: nothing to take up"
            raise Refused(Kind.CONFLICT, message)
        root = self._root()
        with self.interruption.watching(self.tell):
            record = self.desk.write(record, Event.RESUMED, {"process": _me()})
            self.tell(f"rollout {record.rollout.id}: resumed at {record.percent} %")
            return self._lead(record, root)

    def abort(self, name: str) -> Record:
        """End an unfinished rollout: its line gets back the traffic it had."""
        for _ in range(_TRIES):
            record = self._unfinished(name)
            try:
                # Whoever leads it finds this entry in its way and stops.
                record = self.desk.write(record, Event.ABORTED, {"process": _me()})
            except StoreConflict:
                continue
            leader = self._leader(record, "")
            leader.undo("aborted by hand")
            return leader.record
        raise Refused(Kind.CONFLICT, f"rollout {name} goes on too fast to be ended; try again")

    def _lead(self, record: Record, root: str) -> Record:
        leader = self._leader(record, root)
        name = record.rollout.id
        try:
            leader.lead()
        except (FairleadError, KeyboardInterrupt):
            if self.rollouts.read(name).outcome is None:
                self.tell(
                    f"rollout {name} has not ended: `fairlead rollout --resume {name}` takes it up, "
                    f"`fairlead rollout --abort {name}` gives {record.rollout.stable.served_version} all traffic again"
                )
            raise
        return leader.record

    def _leader(self, record: Record, root: str) -> Leader:
        return Leader(
            self.desk,
            LocalScene(self.control, root),
            record,
            self.tell,
            self.show,
            self.interruption,
        )

    def _unfinished(self, name: str) -> Record:
        record = self.rollouts.find(name)
        if record.outcome is not None:
            message = f"rollout {record.rollout.id} has ended already: {record.outcome}"
            raise Refused(Kind.CONFLICT, message)
        return record

    def _root(self) -> str:
        here = running(self.control)
        if here is None and gateway_status(self.control) is None:
            message = f"nothing runs in {self.control.home.root}, so there is no traffic to judge by: start it with `fairlead up`, or use `fairlead apply`"
            raise FairleadError(message, kind=Kind.UNAVAILABLE)
        return str(here["root"]) if here else "/v1"


def _me() -> dict[str, object]:
    identity = processes.identify(os.getpid())
    assert identity is not None
    return dict(processes.to_record(identity))
