from __future__ import annotations

from collections.abc import Iterable

from prometheus_client.core import Metric
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from fairlead.agent.metrics import KEPT_REVISIONS, Ended, name_of
from fairlead.domain.ids import RevisionId


def said(revision: int, requests: int) -> Iterable[Metric]:
    labels = f'{{service="digits",line="v1",revision="{revision}"}}'
    lines = [
        "# TYPE requests counter",
        f"requests_total{labels} {requests}",
        "# TYPE route counter",
        'route_total{path="/v1"} 1',
        "# TYPE busy gauge",
        f"busy{labels} 1",
        "# EOF",
    ]
    return list(text_string_to_metric_families("\n".join(lines) + "\n"))


def revision(number: int) -> RevisionId:
    return RevisionId("digits", "v1", str(number))


def requests(ended: Ended) -> dict[str, float]:
    return {
        dict(labels)["revision"]: value
        for (_, labels), value in ended.families["requests"].samples.items()
    }


def test_series_of_ended_revisions_are_bounded_and_no_total_goes_back() -> None:
    ended = Ended()
    for number in range(1, 501):
        ended.add(said(number, number), [revision(number)], ())
        assert sum(requests(ended).values()) == number * (number + 1) / 2
    found = requests(ended)
    assert len(found) == KEPT_REVISIONS + 1
    assert set(found) == {"ended", *(str(number) for number in range(481, 501))}
    assert list(ended.families["route"].samples.values()) == [500.0]
    assert "busy" not in ended.families


def test_a_revision_that_others_still_serve_keeps_its_series() -> None:
    ended = Ended()
    for number in range(1, 101):
        ended.add(said(number, 1), [revision(number)], {revision(3)})
    assert requests(ended)["3"] == 1.0
    assert len(requests(ended)) == KEPT_REVISIONS + 1


def test_a_series_of_a_shared_process_is_its_revisions_replicas() -> None:
    names = {revision(1): "w1", revision(2): "w2"}
    labels = {"service": "digits", "line": "v1", "revision": "2", "endpoint": "predict"}
    assert name_of(names, "w1", labels) == "w2"
    assert name_of(names, "w1", {**labels, "revision": "3"}) == "w1", "nobody's: the process's"
    assert name_of(names, "w1", {"path": "/livez"}) == "w1"
