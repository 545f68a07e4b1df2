"""What can be set of an agent. Wiring fills it; everything is checked before anything starts."""

from __future__ import annotations

from dataclasses import dataclass, field

from fairlead.api.worker import ServingSettings
from fairlead.domain.scaling import TICK_SECONDS, Rules


@dataclass(frozen=True, slots=True)
class AgentSettings:
    """One agent's settings; times in seconds."""

    node: str = "local"
    pod_name: str = "unknown_pod"  # what its workers say in their logs and answers (S3-7)
    cores: int = 1  # workers that are brought up at the same time
    threads: int = (
        0  # threads a worker may use for one run of its model; 0 is as many as turn out best
    )
    # A stand-alone agent that is told to stop leaves its workers to the next one. Under an owner
    # (a life pipe is given) it always takes them along.
    keep_workers: bool = True
    serving: ServingSettings = field(default_factory=ServingSettings)  # every worker's
    allow_pickle: bool = False  # may this node's models load pickles?

    catalog_poll_seconds: float = 0.2
    heartbeat_seconds: float = 0.5
    report_seconds: float = 5.0
    scrape_seconds: float = 5.0
    ready_poll_seconds: float = 0.02

    startup_seconds: float = 120.0  # from a worker's start until it is loaded
    proof_seconds: float = 60.0  # for all golden examples together
    golden_examples: int = 20
    adoption_seconds: float = 3.0  # a living worker that is busy gets this long to say who it is

    health_seconds: float = 2.0  # between two looks whether a ready worker still answers
    # Long, because a worker that is only busy must not be taken for one that hangs.
    hung_seconds: float = 15.0
    # A worker that answers while runs of its model which do not end hold it is replaced when they have gone on for so
    # long after nobody waited for them any more, and beyond the time a request may take (its drain time). Long,
    # because code that is only slow ends by itself.
    held_seconds: float = 30.0

    retire_pause_seconds: float = 1.0  # without a gateway to ask: after a replacement is ready
    # A worker's own limit for what it still has in hand, where the endpoint has no `timeoutSeconds`: longer than
    # the gateway lets such a request take, so that no release cuts one.
    drain_seconds: float = 35.0
    deadline_seconds: float = 300.0  # of a request where the endpoint has none, whoever sends it
    stop_grace_seconds: float = 2.0  # on top of it, then SIGKILL
    shutdown_seconds: float = 10.0  # for all workers together, when the agent takes them along

    # Small tensor graphs share a process; what is larger, or is code, has one of its own.
    pool_size: int = 256  # replicas in one process; 1: nobody shares
    pool_artifact_bytes: int = 16 * 1024 * 1024
    compact_seconds: float = 10.0  # nothing has changed for so long: time to tidy up
    # After two deaths in company everybody stays alone for so long, and after a compaction that failed
    # there is no other.
    quiet_seconds: float = 600.0
    gather_seconds: float = 0.5  # how long a small artifact that is here waits for the next one
    most_gather_seconds: float = 30.0  # and all of them together

    load_seconds: float = TICK_SECONDS  # between two looks at how much everybody is asked
    scaling: Rules = field(default_factory=Rules)
    # How long a process waits ready for the next start, after an endpoint has gone cold or come up; 0: none ever does.
    spare_seconds: float = 60.0
    patience_seconds: float = 5.0  # whoever waits for a cold unit says so every second
    # Of all workers together; 0 is no limit. What does not fit waits on the disk until somebody asks.
    memory_budget_bytes: int = 0
    loaded_seconds: float = 5.0  # what has just come up does not go for somebody else's sake

    pulls_at_once: int = 2
    pulls_ahead: int = (
        30  # that wait for their turn: a thousand small ones need not be planned two by two
    )
    max_replicas: int = 16
    clean_up_seconds: float = 600.0  # an artifact nobody uses stays this long: for a quick way back
    forgotten_seconds: float = 1.0  # and one that no revision of the catalog names any more
    kept_logs: int = 50  # of workers that have ended, the newest
    log_bytes: int = 32 * 1024 * 1024  # of one worker; as much again lies in the file before it
    log_seconds: float = 1.0  # between two looks at how long the logs have become
    settled_seconds: float = 10.0  # a worker that was ready this long had no bad start

    def __post_init__(self) -> None:
        """Refuse what could never work."""
        for name in (
            "cores",
            "golden_examples",
            "pulls_at_once",
            "max_replicas",
            "pool_size",
        ):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; write a whole number from 1 up")
        for name in ("threads", "memory_budget_bytes"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} is {getattr(self, name)}; write a whole number from 0 up")
