from __future__ import annotations

import json

import pytest
from bench import contenders, report
from bench.contenders import DIRECT, DIRECT_OIP, FASTAPI, GATEWAY, MLSERVER


def _results(speeds: dict[str, float], bad: int = 0, others: float = 0.0) -> report.Results:
    measurements = [
        report.Measurement(name, number, connections, speed * factor, 1.0, 2.0, 30.0, bad, others)
        for name, speed in speeds.items()
        for number, factor in ((1, 1.0), (2, 0.5), (3, 4.0))
        for connections in (1, 32)
    ]
    starts = [report.Start(name, 1, 0.5, 100.0, 120.0, 2) for name in speeds]
    return report.Results({"cores": 2}, 100_000.0, measurements, starts)


SPEEDS = {FASTAPI: 1000.0, MLSERVER: 400.0, DIRECT: 2200.0, DIRECT_OIP: 2000.0, GATEWAY: 1299.0}


def test_figures_are_medians_over_the_rounds() -> None:
    assert _results(SPEEDS).middle(DIRECT, 32, "requests_per_second") == 2200.0


def test_bars_are_judged_at_32_connections_and_a_missed_one_is_said() -> None:
    judged = report.verdicts(_results(SPEEDS))
    assert [reached for _, reached in judged] == [True, True, False]
    assert judged[2][0].startswith("MISSED: Fairlead gateway")
    assert "1.30 x" in judged[2][0]


def test_a_bar_whose_servers_were_not_measured_is_not_judged() -> None:
    assert report.verdicts(_results({FASTAPI: 1.0})) == []


def test_a_single_bad_answer_makes_a_run_invalid() -> None:
    sentence, reached = report.verdicts(_results({FASTAPI: 1.0}, bad=1))[-1]
    assert sentence.startswith("INVALID: 6 answers")
    assert not reached


def test_a_page_measured_on_a_busy_machine_says_so() -> None:
    assert "BUSY: others used up to 0.7 cores" in report.page(_results(SPEEDS, others=0.7))
    assert "BUSY" not in report.page(_results(SPEEDS, others=0.1))


def test_the_page_names_every_server_and_the_floor_in_one_table() -> None:
    lines = [line for line in report.page(_results(SPEEDS)).splitlines() if line.startswith("|")]
    assert len(lines) == 2 + len(SPEEDS) + 1
    assert len({line.count("|") for line in lines}) == 1
    assert lines[-1].startswith("| floor")
    assert "100,000" in lines[-1]


@pytest.mark.parametrize("contender", contenders.CONTENDERS, ids=lambda one: one.short)
def test_each_dialect_is_asked_and_read_in_its_own_words(contender: contenders.Contender) -> None:
    body = json.loads(contender.body([0.5] * 64))
    if contender.oip:
        assert body["inputs"][0]["shape"] == [1, 64]
        answer: object = {"outputs": [{"data": [1.0, 2]}]}
    else:
        assert body == {"instances": [[0.5] * 64]}
        answer = {"predictions": [[1.0, 2]]}
    assert contender.probabilities(json.dumps(answer).encode()) == [1.0, 2.0]
    with pytest.raises((KeyError, IndexError)):
        contender.probabilities(b'{"predictions": [], "outputs": []}')


def test_the_peers_lock_names_no_registry() -> None:
    lock = (contenders.ROOT / "bench" / "requirements.txt").read_text()
    assert "--hash=sha256:" in lock
    assert not [line for line in lock.splitlines() if "://" in line or "index-url" in line]
