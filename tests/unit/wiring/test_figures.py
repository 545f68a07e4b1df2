"""The workers' counters are read as the server writes them and the agent hands them on."""

from __future__ import annotations

from pathlib import Path

import pytest

from fairlead.domain.errors import Kind
from fairlead.domain.ids import EndpointId, RevisionId
from fairlead.domain.samples import FAILURES
from fairlead.server.dataplane import DataPlane
from fairlead.server.http.metrics import exposition
from fairlead.server.stats import BUCKETS
from fairlead.wiring.figures import read_figures, reading_from

REVISION = RevisionId("speech", "v9", "2")
OF = 'service="speech",line="v9",revision="2"'


def said(worker: str, *, wrong: tuple[Kind, ...] = ()) -> str:
    """What a worker with two endpoints says, as the agent labels it."""
    plane = DataPlane()
    stats = plane.stats
    for name, path in (("predict", "/v1/model/{m}/predict"), ("stream", "/stream")):
        route = stats.route(path, "POST", EndpointId("speech", "v9", "2", name))
        for seconds in (0.0004, 0.003, 0.003, 70.0):
            route.count(200, seconds)
    route = stats.route("/stream", "POST", EndpointId("speech", "v9", "2", "stream"))
    for kind in wrong:
        route.error(kind)
    text = exposition(plane.counted(), "app", "pod").decode().removesuffix("# EOF\n")
    return text.replace('revision="2"', f'revision="2",worker="{worker}"')


def agent(*, deaths: int) -> str:
    return (
        "# TYPE fairlead_agent_revision_deaths counter\n"
        f"fairlead_agent_revision_deaths_total{{{OF}}} {deaths}\n"
        "# TYPE fairlead_agent_worker_resident_bytes gauge\n"
        f'fairlead_agent_worker_resident_bytes{{{OF},worker="a"}} 4.5e+07\n'
        "# TYPE fairlead_agent_worker_starts counter\n"
        "fairlead_agent_worker_starts_total 3\n"
        "# EOF\n"
    )


def test_a_revisions_endpoints_are_one_workers_figures() -> None:
    reading = reading_from(said("a") + agent(deaths=2))
    assert reading.deaths == {REVISION: 2}
    figures = reading.workers[REVISION]["a"]
    assert figures.requests == 8
    assert figures.seconds == pytest.approx(2 * 70.0064)
    assert figures.resident == 45_000_000
    assert figures.latency.bounds == BUCKETS
    assert figures.latency.total == 8
    assert figures.latency.above(BUCKETS[-1]) == 2
    assert figures.latency.counts[0] == 2


def test_what_ended_workers_counted_is_no_workers() -> None:
    reading = reading_from(said("ended") + "# EOF\n")
    assert reading.workers == {}


@pytest.mark.parametrize("kind", list(Kind))
def test_every_kind_of_error_is_somebodys(kind: Kind) -> None:
    figures = reading_from(said("a", wrong=(kind, kind)) + "# EOF\n").workers[REVISION]["a"]
    counts = (figures.failed, figures.refused, figures.cancelled)
    if kind in FAILURES:
        assert counts == (2, 0, 0)
    elif kind is Kind.CANCELLED:
        assert counts == (0, 0, 2)
    else:
        assert counts == (0, 2, 0)


def test_nobody_there_is_no_reading(tmp_path: Path) -> None:
    assert read_figures(tmp_path / "agent.sock") is None
