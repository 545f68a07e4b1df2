"""What a run found must be told as it was: medians, missed bars, what was not measured and why."""

from __future__ import annotations

from dataclasses import replace

import pytest
from bench import bars, report
from bench.bars import Bounded, Capped, Compared
from bench.figures import Absent, Fact, Floor, Measurement, Results, Start

OURS, THEIRS, OTHER = "ours", "theirs", "another"
BAR = Compared("small", "digits", "wrk", 32, OURS, 2.0, (THEIRS,))
P99 = replace(BAR, times=1.0, what="p99_ms")
CAP = Capped("small", "digits", "wrk", 32, OURS, "cpu_us", "CPU per request", 25, "µs")
BOUND = Bounded("cold", "serve", "start", 0.6, "s")


def results(
    speeds: dict[str, float], *, bad: int = 0, others: float = 0.0, cores: float = 0.5
) -> Results:
    found = Results({"cores": 2})
    for name, speed in speeds.items():
        for number, factor in ((1, 1.0), (2, 0.5), (3, 4.0)):
            for connections in (1, 32):
                figures = (speed * factor, 1.0, 1000 / speed, 30.0, bad, others, cores)
                one = Measurement("digits", "wrk", name, number, connections, *figures)
                found.measurements.append(one)
            found.starts.append(Start("digits", "wrk", name, number, 0.5, 100.0, 120.0, 2))
    found.floors.append(Floor("digits", 2, 1, 1, 100_000.0))
    return found


def test_figures_are_medians_over_the_rounds() -> None:
    found = results({OURS: 2200.0})
    assert found.middle("digits", "wrk", OURS, 32, "requests_per_second") == 2200.0


@pytest.mark.parametrize(("speed", "state"), [(2000.0, "reached"), (1999.0, "MISSED")])
def test_a_rate_must_be_so_many_times_theirs(speed: float, state: str) -> None:
    verdict = BAR.judge(results({OURS: speed, THEIRS: 1000.0}))
    assert verdict.state == state
    assert f"{speed / 1000:.2f} x theirs" in verdict.text


def test_a_ratio_is_the_median_of_the_turns_each_for_itself_with_how_far_they_lie_apart() -> None:
    found = Results({})
    for turn, (mine, its) in enumerate([(20, 10), (90, 30), (8, 4), (100, 20), (66, 30)], start=1):
        for name, speed in ((OURS, mine), (THEIRS, its)):
            figures = (float(speed), 1.0, 1.0, 30.0, 0, 0.0)
            found.measurements.append(
                Measurement("digits", "wrk", name, 1, 32, *figures, turn=turn)
            )
    text = BAR.judge(found).text
    assert "2.20 x theirs" in text, "not 66 / 20, of the medians"
    assert text.endswith("2.00 to 3.00 in the middle half of 5 turns")
    found.measurements = [one for one in found.measurements if one.turn < 4]
    assert "middle half" not in BAR.judge(found).text


def test_two_that_were_never_asked_in_the_same_turn_are_not_compared() -> None:
    found = results({OURS: 2000.0, THEIRS: 1000.0})
    found.measurements = [
        replace(one, turn=2) if one.contender == OURS else one for one in found.measurements
    ]
    found.absents = [Absent(OURS, "digits", "wrk", "it ended")]
    verdict = BAR.judge(found)
    assert verdict.state == "not measured"
    assert verdict.text.endswith("it ended")


def test_servers_that_keep_the_machine_busy_while_nobody_asks_them_are_told() -> None:
    found = results({OURS: 1.0})
    assert "were not asked" not in report.page(found, [])
    found.measurements[0] = replace(found.measurements[0], waiting=0.34)
    assert "servers that were not asked used up to 0.3 cores" in report.page(found, [])


def test_of_several_of_theirs_the_best_counts() -> None:
    bar = replace(BAR, theirs=(THEIRS, OTHER))
    slow = {OURS: 2000.0, THEIRS: 900.0}
    assert bar.judge(results(slow | {OTHER: 1100.0})).state == "MISSED"
    assert bar.judge(results(slow | {OTHER: 100.0})).state == "reached"
    worse = replace(P99, theirs=(THEIRS, OTHER))
    assert worse.judge(results({OURS: 1000.0, THEIRS: 900.0, OTHER: 1100.0})).state == "MISSED"


def test_a_latency_must_be_no_more_than_theirs() -> None:
    assert P99.judge(results({OURS: 1000.0, THEIRS: 900.0})).state == "reached"
    assert P99.judge(results({OURS: 900.0, THEIRS: 1000.0})).state == "MISSED"


def test_a_figure_of_ours_alone_has_a_limit() -> None:
    assert CAP.judge(results({OURS: 1.0})).state == "MISSED"
    assert replace(CAP, limit=30).judge(results({OURS: 1.0})).state == "reached"


def test_a_fact_has_a_limit_and_its_median_counts() -> None:
    found = Results({}, facts=[Fact("cold", "serve", "start", value) for value in (9.0, 0.5, 0.4)])
    assert BOUND.judge(found).state == "reached"
    assert replace(BOUND, limit=0.4).judge(found).state == "MISSED"


@pytest.mark.parametrize("bar", [BAR, P99, CAP, BOUND])
def test_what_was_not_measured_is_neither_reached_nor_missed_and_says_why(bar: bars.Bar) -> None:
    found = results({THEIRS: 1000.0})
    assert bar.judge(found).state == "not measured"
    assert "it was not asked for" in bar.judge(found).text
    reason = "it ended: no such option\nand a long log"
    found.absents = [Absent(OURS, "digits", "wrk", reason), Absent("serve", "", "", reason)]
    assert bar.judge(found).text.endswith("it ended: no such option")


def test_a_peer_that_could_not_be_set_up_leaves_its_bar_unmeasured() -> None:
    found = results({OURS: 1000.0})
    found.absents.append(Absent(THEIRS, "digits", "wrk", "no wheel for this machine"))
    verdict = BAR.judge(found)
    assert verdict.state == "not measured"
    assert verdict.text.endswith("theirs: no wheel for this machine")


def test_a_single_wrong_answer_of_ours_makes_a_bar_invalid() -> None:
    verdict = BAR.judge(results({OURS: 9000.0, THEIRS: 1000.0}, bad=1))
    assert verdict.state == "INVALID"
    assert "3 answers were no right ones" in verdict.text


def test_a_load_generator_that_was_the_limit_is_said_in_verdict_and_table() -> None:
    found = results({OURS: 1000.0, THEIRS: 1000.0}, cores=0.99)
    assert "the load generator was the limit" in BAR.judge(found).text
    page = report.page(found, [])
    assert "1,000*" in page
    assert "*: the load generator's one thread was the limit" in page


def test_a_page_measured_on_a_busy_machine_says_so() -> None:
    assert "BUSY: others used up to 0.7 cores" in report.page(results({OURS: 1.0}, others=0.7), [])
    assert "BUSY" not in report.page(results({OURS: 1.0}, others=0.1), [])


def test_the_page_names_every_server_the_floor_and_the_share_of_it_in_one_table() -> None:
    page = report.page(results({OURS: 2200.0, THEIRS: 1000.0}), [])
    lines = [line for line in page.splitlines() if line.startswith("|")]
    assert len(lines) == 2 + 2 + 1
    assert len({line.count("|") for line in lines}) == 1
    assert lines[-1].startswith("| floor: 2 x 1 threads")
    assert "2.2%" in lines[2]


def test_a_server_that_failed_half_way_keeps_what_was_measured() -> None:
    found = results({OURS: 2200.0})
    found.starts.clear()
    found.absents.append(Absent(OURS, "digits", "wrk", "it ended\nlog"))
    page = report.page(found, [])
    lines = [line for line in page.splitlines() if line.startswith("|")]
    assert len({line.count("|") for line in lines}) == 1
    assert "- not measured: ours: it ended\n" in page


def test_a_group_of_which_nothing_was_measured_is_on_the_page_with_its_reasons() -> None:
    found = Results({}, absents=[Absent(OURS, "digits", "h2load", "h2load is not installed")])
    assert "Nothing was measured.\n\n- not measured: ours: h2load is not installed" in report.page(
        found, []
    )


def test_a_missed_bar_names_its_profile() -> None:
    found = results({OURS: 1.0, THEIRS: 1.0})
    judged = bars.verdicts(found, [BAR])
    found.profiles[report.profile_key(judged[0])] = "profiles/ours.txt"
    assert "(profile: profiles/ours.txt)" in report.page(found, judged)


def test_facts_are_a_table_with_how_often_each_was_taken() -> None:
    found = Results({}, facts=[Fact("scale", "1000 services", "memory", 4096.4, "MiB")] * 3)
    (line,) = [line for line in report.facts(found).splitlines() if "memory" in line]
    assert [cell.strip() for cell in line.strip("|").split("|")] == [
        "scale: 1000 services: memory",
        "4,096 MiB",
        "3",
    ]


def test_peak_memory_is_counted_in_bodies_in_flight() -> None:
    one = Measurement("t", "wrk", OURS, 1, 8, 1, 1, 1, 1, 0, 0, peak_mib=64, body_mib=4)
    assert one.peak_bodies == 2.0
    assert replace(one, body_mib=0).peak_bodies == 0.0
