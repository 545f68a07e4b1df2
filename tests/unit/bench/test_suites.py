"""The suites hold together: every bar can be judged by what its suite measures."""

from __future__ import annotations

import json
from pathlib import Path

import onnxruntime
import pytest
from bench import environment, models, ours, rounds, theirs
from bench.bars import Bounded
from bench.subject import BENCH, Case, Place
from bench.suites import SUITES, Suite

_LOCKS = BENCH / "locks"
CASE = Case(
    "digits", Path("/models/digits/1"), "pixels", "probabilities", [[0.0] * 64], [[0.1] * 10]
)


def keys(suite: Suite, *, barred: bool = False) -> set[tuple[str, str, int, str]]:
    return {
        (group.case.__name__, group.load, connections, contender.name)
        for group in suite.groups
        for contender in group.contenders
        for connections in (group.barred if barred else group.connections)
    }


@pytest.mark.parametrize("suite", SUITES, ids=lambda one: one.name)
def test_every_bar_is_about_servers_that_its_suite_measures_there(suite: Suite) -> None:
    assert suite.bars
    names = {"one_mebibyte": "tensors-1", "sixteen_mebibytes": "tensors-16"}
    measured = {(names.get(case, case), *rest) for case, *rest in keys(suite, barred=True)}
    assert keys(suite, barred=True) <= keys(suite)
    for bar in suite.bars:
        assert bar.suite == suite.name
        if not isinstance(bar, Bounded):
            for who in (bar.ours, *getattr(bar, "theirs", ())):
                assert (bar.case, bar.load, bar.connections, who) in measured


def test_servers_that_two_suites_load_alike_are_measured_once_in_the_same_rounds() -> None:
    groups = rounds.merged(SUITES)
    assert len({(group.case, group.load) for group in groups}) == len(groups)
    (small,) = (one for one in groups if one.case is models.digits and one.load == "wrk")
    assert {ours.GATEWAY, ours.DIRECT, theirs.TRITON, theirs.BENTOML} <= set(small.contenders)
    assert len(set(small.contenders)) == len(small.contenders)


def test_only_leaves_out_the_other_servers_and_groups_without_any() -> None:
    (one,) = rounds.merged(SUITES, ["litserve"])[:1]
    assert [contender.short for contender in one.contenders] == ["litserve"]
    assert {group.case for group in rounds.merged(SUITES, ["litserve"])} == {
        models.digits,
        models.mlp,
    }


def test_servers_have_names_of_their_own() -> None:
    contenders = {one for suite in SUITES for group in suite.groups for one in group.contenders}
    assert len({one.name for one in contenders}) == len(contenders)
    assert len({one.short for one in contenders}) == len(contenders)


def test_what_a_server_needs_has_a_lock_with_hashes_that_names_no_registry() -> None:
    needed = environment.needed(rounds.merged(SUITES))
    assert sorted(needed) == ["bentoml", "litserve", "mlserver", "tools", "triton"]
    for name in needed:
        lock = (_LOCKS / f"{name}.txt").read_text()
        assert "--hash=sha256:" in lock
        assert not [line for line in lock.splitlines() if "://" in line or "index-url" in line]


def test_what_is_missing_is_said_with_what_to_do(tmp_path: Path) -> None:
    assert "nobody is not set up" in environment.lacks("nobody", "grpcio")


def test_triton_gets_a_repository_with_dynamic_batching_only_where_batching_is_the_question(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(theirs, "triton_home", lambda: Path("/triton"))
    place = Place(CASE, tmp_path, (1, 2, 3))
    plan = theirs.TRITON.plan(place)
    settings = tmp_path / "repository" / "digits" / "config.pbtxt"
    assert plan.grpc_port == 2
    assert "dims: [ 64 ]" in settings.read_text()
    assert "dynamic_batching" not in settings.read_text()
    batches = Case(
        *(getattr(CASE, name) for name in ("name", "folder", "source", "target")),
        CASE.rows,
        CASE.expected,
        batches=True,
    )
    theirs.TRITON.plan(Place(batches, tmp_path, (1, 2, 3)))
    assert "dynamic_batching" in settings.read_text()


def test_a_model_made_here_is_the_same_bytes_each_time_and_another_for_each_seed(
    tmp_path: Path,
) -> None:
    one, again, other = (
        (models.small(tmp_path / place, "s1", seed) / "model.onnx").read_bytes()
        for place, seed in (("a", 1), ("b", 1), ("c", 2))
    )
    assert one == again
    assert one != other


def test_a_small_model_answers_what_its_case_expects(tmp_path: Path) -> None:
    case = models.as_case(models.small(tmp_path, "s1", 1))
    session = onnxruntime.InferenceSession(str(case.onnx))
    (found,) = session.run([case.target], {case.source: case.rows})
    assert found[0].tolist() == pytest.approx(case.expected[0], abs=1e-6)
    assert json.loads((case.folder / "golden.json").read_text())["tolerance"] == {
        "probabilities": 1e-4
    }
