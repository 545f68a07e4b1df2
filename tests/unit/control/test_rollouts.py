"""Leading rollouts over a store in memory and a machine that behaves as told."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from hypothesis import given, strategies as st

from fairlead.adapters.memory.artifacts import MemoryArtifacts
from fairlead.adapters.memory.scene import Manner, MemoryScene
from fairlead.adapters.memory.store import MemoryObjectStore
from fairlead.adapters.store.catalogs import StoredCatalogs
from fairlead.adapters.store.rollouts import StoredRollouts
from fairlead.control import catalogs as changing, releases
from fairlead.control.leading import Leader
from fairlead.control.releases import SourcedRelease
from fairlead.control.rollouts import Desk, Interfered
from fairlead.domain.catalog import Kill, with_kill, with_traffic
from fairlead.domain.errors import FairleadError, InvalidInput, Refused, StoreConflict
from fairlead.domain.ids import LineId
from fairlead.domain.judge import Decision, Policy
from fairlead.domain.release import TrafficShare, release_from_document
from fairlead.domain.rollout import (
    Event,
    Outcome,
    Record,
    record_from_json,
    record_to_json,
)
from fairlead.kits.clock import FakeClock
from support.effort import effort

LINE = LineId("speech", "v9")
POLICY = Policy(step_seconds=10, min_requests=20, timeout_seconds=120)
MIB = 1 << 20


def release(version: str, **more: Any) -> SourcedRelease:
    document = {
        "service": "speech",
        "model": "v9",
        "version": version,
        "artifact": f"speech/{version}",
    }
    return SourcedRelease(f"{version}.yaml", release_from_document(document | more, "file"))


def shares(**percents: int) -> tuple[TrafficShare, ...]:
    return tuple(TrafficShare(tag[1:], percent) for tag, percent in percents.items())


@dataclass
class Stage:
    """One line with all its traffic on v9.1, and everything to roll v9.2 out."""

    clock: FakeClock = field(default_factory=FakeClock)
    store: MemoryObjectStore = field(default_factory=MemoryObjectStore)
    told: list[str] = field(default_factory=list)
    on_show: Callable[[str], None] = lambda line: None
    stop: Callable[[], str] = lambda: ""

    def __post_init__(self) -> None:
        self.catalogs = StoredCatalogs(self.store, self.clock)
        self.rollouts = StoredRollouts(self.store)
        self.desk = Desk(self.catalogs, self.rollouts, self.clock)
        self.scene = MemoryScene(self.catalogs, self.clock)
        releases.apply(self.catalogs, MemoryArtifacts(), self.clock, [release("1")])

    def begin(self, sourced: SourcedRelease | None = None, policy: Policy = POLICY) -> Record:
        process = {"pid": 1, "started": 1, "boot": "b"}
        return self.desk.begin(MemoryArtifacts(), sourced or release("2"), policy, process)

    def leader(self, record: Record) -> Leader:
        return Leader(self.desk, self.scene, record, self.told.append, self.on_show, self.stop)

    def lead(self, **options: Any) -> tuple[Outcome, Record]:
        record = self.begin(**options)
        outcome = self.leader(record).lead()
        return outcome, self.rollouts.read(record.rollout.id)

    @property
    def traffic(self) -> tuple[TrafficShare, ...]:
        return self.catalogs.read().line(LINE).traffic

    def set_traffic(self, traffic: tuple[TrafficShare, ...]) -> None:
        changing.change(
            self.catalogs, self.clock, lambda catalog: with_traffic(catalog, LINE, traffic), "hand"
        )


@pytest.fixture
def stage() -> Stage:
    return Stage()


def events(record: Record) -> list[str]:
    return [f"{entry.event} {entry.body.get('percent', '')}".strip() for entry in record.entries]


def test_a_good_revision_climbs_every_step_and_the_files_traffic_stands(stage: Stage) -> None:
    outcome, record = stage.lead()
    assert outcome is Outcome.PROMOTED
    assert stage.traffic == shares(_2=100)
    steps = [f"{event} {step}" for step in (1, 10, 50, 100) for event in ("moved", "judged")]
    assert events(record) == ["started", "judged 0", *steps, "ended"]
    sourced, catalog = [release("2")], stage.catalogs.read()
    manifests = releases.manifests_of(MemoryArtifacts(), sourced)
    plan = releases.plan(catalog, sourced, manifests, 0.0)
    assert (plan.changes, plan.drift, plan.catalog) == ((), (), catalog)


def test_each_window_has_enough_of_both_and_the_last_one_the_yardstick_of_the_first(
    stage: Stage,
) -> None:
    _, record = stage.lead()
    windows = [entry.body["window"] for entry in record.entries if "window" in entry.body]
    for window in windows:
        assert min(window["candidate"]["requests"], window["stable"]["requests"]) >= 20
        assert window["seconds"] >= 10
    assert [window["earlier"] for window in windows] == [False, False, False, True]
    assert windows[3]["stable"] == windows[0]["stable"]


BAD = {
    "slow": (Manner(seconds=0.05), "p95 95.5 ms (stable: 0.95 ms)"),
    "wrong": (Manner(requests=5, wrong=True), "fails its golden examples: example 1 of 1"),
    "crashing": (Manner(requests=5, deaths=1), "1 worker died (stable: 0)"),
    "leaking": (Manner(grows_bytes=4 * MIB), "goes on growing"),
    "failing": (Manner(failing=0.5), "of requests failed"),
    "mute": (Manner(requests=5, mute=True), "v9.2 did not answer its golden examples: the worker"),
    "dying": (Manner(requests=5, mute=True, deaths=1), "died"),
    "late": (Manner(requests=300, seconds=0.05), "of requests over 10 ms"),
}


@pytest.mark.parametrize("kind", BAD)
def test_a_bad_revision_goes_back_and_the_record_says_why(stage: Stage, kind: str) -> None:
    stage.scene.manners["2"], reason = BAD[kind]
    outcome, record = stage.lead()
    assert outcome is Outcome.ROLLED_BACK
    assert stage.traffic == shares(_1=100)
    assert record.outcome is Outcome.ROLLED_BACK
    assert any(reason in one for one in record.reasons), record.reasons
    assert "2" in stage.catalogs.read().line(LINE).revisions  # what was seen under a name keeps it
    # The file counts as applied: a restart with it does not bring back what was rolled back.
    again, _ = releases.apply(stage.catalogs, MemoryArtifacts(), stage.clock, [release("2")])
    assert again.changes == ()
    assert stage.traffic == shares(_1=100)


def test_a_revision_that_never_starts_gets_no_traffic(stage: Stage) -> None:
    stage.scene.manners["2"] = Manner(starts=False)
    outcome, record = stage.lead()
    assert outcome is Outcome.ROLLED_BACK
    assert events(record) == ["started", "ended"]
    assert "never started, 3 times" in record.reasons[0]
    assert stage.traffic == shares(_1=100)


def test_a_revision_that_takes_too_long_to_start_gets_no_traffic(stage: Stage) -> None:
    stage.scene.manners["2"] = Manner(hangs=True)
    outcome, record = stage.lead()
    assert outcome is Outcome.ROLLED_BACK
    assert record.reasons == ("v9.2 was not ready in 120 s: starting",)


def test_a_model_that_is_wrong_from_the_beginning_gets_no_traffic(stage: Stage) -> None:
    stage.scene.manners["2"] = Manner(wrong=True)
    outcome, record = stage.lead()
    assert outcome is Outcome.ROLLED_BACK
    assert events(record) == ["started", "ended"]


def test_without_traffic_nothing_is_promoted(stage: Stage) -> None:
    stage.scene.rate = 0.0
    outcome, record = stage.lead()
    assert outcome is Outcome.ROLLED_BACK
    assert any("had 0 of at least 20 requests" in reason for reason in record.reasons)
    assert stage.clock.monotonic() - 1_000_000 == pytest.approx(120, abs=10)


def test_a_machine_that_says_nothing_is_no_proof(stage: Stage) -> None:
    record = stage.begin()
    stage.scene.silent = True
    assert stage.leader(record).lead() is Outcome.ROLLED_BACK
    assert stage.traffic == shares(_1=100)
    assert any("did not route" in one for one in stage.rollouts.read(record.rollout.id).reasons)


def at(stage: Stage, percent: int, do: Callable[[], None]) -> None:
    """Do something once the rollout shows a window of that percent."""
    done: list[bool] = []

    def show(line: str) -> None:
        if line.strip().startswith(f"{percent} %") and not done:
            done.append(True)
            do()

    stage.on_show = show


@pytest.mark.parametrize("choice", [shares(_1=100), shares(_1=100, _2=0), shares(_1=30, _2=70)])
def test_somebody_elses_choice_stops_the_rollout_and_stands(
    stage: Stage, choice: tuple[TrafficShare, ...]
) -> None:
    at(stage, 10, lambda: stage.set_traffic(choice))
    outcome, record = stage.lead()
    assert outcome is Outcome.STOPPED
    assert stage.traffic == choice
    assert "somebody else moved the traffic of speech/v9" in record.reasons[0]
    assert events(record)[-2:] == [
        "moved 10",
        "ended",
    ]  # seen at the next look, not at the next step


def test_a_choice_made_between_a_verdict_and_the_next_move_stands_too(stage: Stage) -> None:
    record = stage.begin()
    leader = stage.leader(record)

    def tell(line: str) -> None:
        if "10 %: go on" in line:
            stage.set_traffic(shares(_1=95, _2=5))

    leader.tell = tell
    assert leader.lead() is Outcome.STOPPED
    assert stage.traffic == shares(_1=95, _2=5)


def test_a_service_that_is_switched_off_is_no_place_for_a_rollout(stage: Stage) -> None:
    def kill() -> None:
        changing.change(
            stage.catalogs,
            stage.clock,
            lambda catalog: with_kill(catalog, "speech", Kill("off", 0.0)),
            "kill",
        )

    at(stage, 10, kill)
    outcome, record = stage.lead()
    assert outcome is Outcome.ROLLED_BACK
    assert record.reasons == ("speech was switched off by hand",)
    assert stage.traffic == shares(_1=100)


def test_an_interruption_rolls_back(stage: Stage) -> None:
    asked: list[str] = []
    at(stage, 10, lambda: asked.append("interrupted (SIGINT)"))
    stage.stop = lambda: asked[0] if asked else ""
    outcome, record = stage.lead()
    assert outcome is Outcome.ROLLED_BACK
    assert record.reasons == ("interrupted (SIGINT)",)
    last = record.entries[-2].body  # what was seen until then is kept
    assert (last["decision"], last["reasons"]) == ("roll back", ["interrupted (SIGINT)"])
    assert last["window"]["candidate"]["requests"] > 0


class Killed(BaseException):
    """The leader dies, as by kill -9."""


def killed(stage: Stage, percent: int) -> Record:
    def die() -> None:
        raise Killed

    at(stage, percent, die)
    record = stage.begin()
    with pytest.raises(Killed):
        stage.leader(record).lead()
    return stage.rollouts.read(record.rollout.id)


def test_a_killed_rollout_is_taken_up_where_it_was(stage: Stage) -> None:
    record = killed(stage, 10)
    assert record.outcome is None
    assert record.percent == 10
    assert stage.rollouts.unfinished() == [record]
    with pytest.raises(Refused, match=f"--resume {record.rollout.id}"):
        stage.begin(release("3"))
    record = stage.desk.write(record, Event.RESUMED, {"process": {}})
    assert stage.leader(record).lead() is Outcome.PROMOTED
    found = stage.rollouts.read(record.rollout.id)
    assert events(found)[:7] == [
        "started",
        "judged 0",
        "moved 1",
        "judged 1",
        "moved 10",
        "resumed",
        "moved 10",
    ]
    assert stage.rollouts.unfinished() == []


@pytest.mark.parametrize("percent", [1, 50, 100])
def test_a_killed_rollout_is_undone_by_abort(stage: Stage, percent: int) -> None:
    record = killed(stage, percent)
    assert stage.leader(record).undo("aborted by hand") is Outcome.ROLLED_BACK
    assert stage.traffic == shares(_1=100)
    assert stage.rollouts.read(record.rollout.id).reasons == ("aborted by hand",)


def test_whoever_is_overtaken_stops_without_touching_anything(stage: Stage) -> None:
    def overtake() -> None:
        (found,) = stage.rollouts.unfinished()
        stage.leader(stage.desk.write(found, Event.ABORTED, {})).undo("aborted by hand")

    at(stage, 10, overtake)
    record = stage.begin()
    with pytest.raises(Interfered, match="taken over from elsewhere"):
        stage.leader(record).lead()
    assert stage.traffic == shares(_1=100)
    assert stage.rollouts.read(record.rollout.id).outcome is Outcome.ROLLED_BACK


def test_a_rollback_that_was_killed_half_way_goes_on_as_one(stage: Stage) -> None:
    stage.scene.manners["2"] = Manner(failing=1.0)

    def tell(line: str) -> None:
        if "roll back" in line:
            raise Killed

    record = stage.begin()
    leader = stage.leader(record)
    leader.tell = tell
    with pytest.raises(Killed):
        leader.lead()
    record = stage.rollouts.read(record.rollout.id)
    assert (record.outcome, record.decided) == (None, Decision.ROLL_BACK)
    stage.scene.manners.clear()  # even if it looks better by now
    assert stage.leader(record).lead() is Outcome.ROLLED_BACK
    assert stage.traffic == shares(_1=100)


def test_a_leader_that_was_killed_on_its_last_move_is_not_taken_for_somebody_else(
    stage: Stage,
) -> None:
    """It may have set the file's own traffic, which no step of the rollout ever is."""

    def tell(line: str) -> None:
        if line.startswith("100 %: go on"):
            raise Killed

    kept = [{"tag": "1", "percent": 0}, {"tag": "2", "percent": 100}]
    record = stage.begin(release("2", traffic=kept))
    leader = stage.leader(record)
    leader.tell = tell
    with pytest.raises(Killed):
        leader.lead()
    record = stage.rollouts.read(record.rollout.id)
    assert record.rollout.goal == shares(_1=0, _2=100)
    stage.set_traffic(record.rollout.goal)
    assert stage.leader(record).lead() is Outcome.PROMOTED
    assert stage.traffic == record.rollout.goal


def test_a_store_that_is_away_is_said_and_the_rollout_stays_open(stage: Stage) -> None:
    def away() -> None:
        stage.store.broken = True

    at(stage, 10, away)
    record = stage.begin()
    with pytest.raises(FairleadError, match="the store does not answer"):
        stage.leader(record).lead()
    stage.store.broken = False
    assert stage.rollouts.read(record.rollout.id).outcome is None


def test_what_was_kept_reachable_stays_so_meanwhile(stage: Stage) -> None:
    kept = [{"tag": "1", "percent": 0}, {"tag": "2", "percent": 100}]
    releases.apply(stage.catalogs, MemoryArtifacts(), stage.clock, [release("2", traffic=kept)])
    goal = [{"tag": "2", "percent": 0}, {"tag": "3", "percent": 100}]
    record = stage.begin(release("3", traffic=goal))
    assert stage.traffic == shares(_1=0, _2=100, _3=0)
    assert record.rollout.traffic_at(10) == shares(_1=0, _2=90, _3=10)
    assert stage.leader(record).lead() is Outcome.PROMOTED
    assert stage.traffic == shares(_2=0, _3=100)


def test_what_cannot_be_rolled_out_is_refused_before_anything_changes(stage: Stage) -> None:
    before = stage.catalogs.read()
    some = [{"tag": "1", "percent": 50}, {"tag": "2", "percent": 50}]
    with pytest.raises(InvalidInput, match=r"traffic: gives v9\.2 less than all: 1=50 2=50"):
        stage.begin(release("2", traffic=some))
    with pytest.raises(Refused, match=r"speech/v9\.1 has all traffic already"):
        stage.begin(release("1"))
    with pytest.raises(Refused, match="line speech/v10 serves nothing yet"):
        stage.begin(release("1", model="v10"))
    assert stage.catalogs.read() == before
    assert stage.rollouts.ids() == []
    killed = with_kill(before, "speech", Kill("off", 0.0))
    changing.change(stage.catalogs, stage.clock, lambda _: killed, "kill")
    with pytest.raises(Refused, match="speech is switched off"):
        stage.begin()
    changing.change(
        stage.catalogs, stage.clock, lambda now: with_kill(now, "speech", None), "revive"
    )
    releases.apply(stage.catalogs, MemoryArtifacts(), stage.clock, [release("2", traffic=some)])
    with pytest.raises(Refused, match=r"split already \(1=50 2=50\)"):
        stage.begin(release("3"))


def test_two_that_begin_at_once_do_not_both_begin(stage: Stage) -> None:
    begun: list[Record] = []
    append = stage.rollouts.append

    def overtaken(name: str, entry: Any) -> None:
        append(name, entry)
        if not begun:
            begun.append(stage.rollouts.read(name))
            stage.set_traffic(shares(_1=100, _2=0))

    releases.apply(stage.catalogs, MemoryArtifacts(), stage.clock, [release("2")])
    stage.set_traffic(shares(_1=100))
    stage.rollouts.append = overtaken  # type: ignore[method-assign]
    with pytest.raises(Interfered, match="somebody else moved"):
        stage.begin(release("3"))
    assert stage.rollouts.read(begun[0].rollout.id).outcome is Outcome.STOPPED
    assert "3" not in stage.catalogs.read().line(LINE).revisions


def test_a_record_reads_back_from_its_journal(stage: Stage) -> None:
    _, record = stage.lead()
    document = record_to_json(record)
    assert record_from_json(record.rollout.id, document["entries"]) == record


def test_rollouts_are_found_by_the_beginning_of_their_name(stage: Stage) -> None:
    _, record = stage.lead()
    name = record.rollout.id
    assert stage.rollouts.find(name[:-2]) == record
    stage.desk.clock.pause(1.0)  # the next name begins otherwise
    releases.apply(stage.catalogs, MemoryArtifacts(), stage.clock, [release("3")])
    _, other = stage.lead(sourced=release("4"))
    with pytest.raises(Refused, match=f"may mean {name}, {other.rollout.id}"):
        stage.rollouts.find(name[:4])
    for unknown in ("nothing", "..", "../catalog"):
        with pytest.raises(Refused, match="there is no rollout"):
            stage.rollouts.find(unknown)
    with pytest.raises(StoreConflict):
        stage.rollouts.append(name, record.entries[-1])


manners = st.builds(
    Manner,
    requests=st.integers(0, 3000),
    starts=st.integers(0, 9).map(bool),
    hangs=st.integers(0, 9).map(lambda number: number == 0),
    mute=st.integers(0, 9).map(lambda number: number == 0),
    seconds=st.sampled_from([0.0005, 0.0009, 0.005, 0.05]),
    failing=st.sampled_from([0.0, 0.0, 0.01, 0.3]),
    wrong=st.integers(0, 9).map(lambda number: number == 0),
    deaths=st.integers(0, 9).map(lambda number: int(number == 0)),
    grows_bytes=st.sampled_from([0, 0, 1000, 1 << 20]),
)


@given(
    manner=manners,
    rate=st.sampled_from([0.0, 50.0, 1000.0]),
    choice=st.integers(0, 100),
    chosen_at=st.sampled_from([None, 1, 10, 50, 100]),
    killed_at=st.sampled_from([None, 1, 10, 50, 100]),
)
@effort(40)
def test_whatever_happens_a_rollout_ends_with_all_nothing_or_somebody_elses_choice(
    manner: Manner, rate: float, choice: int, chosen_at: int | None, killed_at: int | None
) -> None:
    stage = Stage()
    stage.scene.manners["2"], stage.scene.rate = manner, rate
    wanted = shares(_1=100 - choice, _2=choice)
    happened: list[str] = []

    def show(line: str) -> None:
        shown = line.partition("%")[0].strip()
        if shown == str(killed_at) and "killed" not in happened:
            happened.append("killed")
            raise Killed
        if shown == str(chosen_at) and "chosen" not in happened:
            happened.append("chosen")
            stage.set_traffic(wanted)

    stage.on_show = show
    record = stage.begin()
    try:
        outcome = stage.leader(record).lead()
    except Killed:
        found = stage.rollouts.read(record.rollout.id)
        found = stage.desk.write(found, Event.RESUMED, {"process": {}})
        outcome = stage.leader(found).lead()
    ends = {Outcome.PROMOTED: shares(_2=100), Outcome.ROLLED_BACK: shares(_1=100)}
    assert stage.traffic == ends.get(outcome, wanted)
    end = stage.rollouts.read(record.rollout.id)
    assert end.outcome is outcome
    assert end.reasons
    harmful = manner.failing > 0.2 or manner.wrong or manner.deaths or manner.mute
    if outcome is Outcome.PROMOTED:
        assert rate
        assert not (harmful and manner.requests < 1000)


def test_the_leader_is_whoever_led_it_last_and_nobody_before_that(stage: Stage) -> None:
    record = stage.begin()
    assert record.leader == {"pid": 1, "started": 1, "boot": "b"}
    assert replace(record, entries=()).leader == {}
