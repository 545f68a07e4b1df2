from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import yaml
from examples import build

from fairlead.control.publish import read_folder
from fairlead.domain.golden import difference, golden_from_bytes
from fairlead.engines.loading import load_model
from fairlead.engines.proof import prove

# Training and the first import of scikit-learn take longer than a unit test may.
pytestmark = pytest.mark.timeout(60)
ARTIFACTS = ("sentiment/1", "sentiment/2", "sentiment/3", "digits/1", "lsh/1")


def _times(out: Path) -> dict[str, int]:
    return {str(path): path.stat().st_mtime_ns for path in out.rglob("*") if path.is_file()}


@pytest.mark.parametrize("name", ARTIFACTS)
async def test_an_artifact_folder_loads_and_answers_its_golden_examples(
    built: Path, name: str
) -> None:
    folder = built / name
    manifest = read_folder(folder, yaml.safe_load((folder / "model.yaml").read_text()))
    assert str(manifest.ref) == name
    golden = golden_from_bytes((folder / "golden.json").read_bytes())
    assert len(golden.examples) >= 3
    model = load_model(folder, manifest, threads=1)
    try:
        await prove(model, golden)
    finally:
        model.close()


def test_golden_examples_differ_from_each_other_in_their_answers(built: Path) -> None:
    for name in ARTIFACTS:
        golden = golden_from_bytes((built / name / "golden.json").read_bytes())
        first, *others = (example.response for example in golden.examples)
        assert any(difference(first, other, golden.tolerance) for other in others), name


def test_a_second_build_touches_nothing(built: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = _times(built)
    build.build(built)
    assert _times(built) == before
    assert capsys.readouterr().out.count("up to date") == len(build.EXAMPLES)


def test_a_damaged_artifact_is_built_again_to_the_same_bytes(built: Path, tmp_path: Path) -> None:
    out = tmp_path / "models"
    shutil.copytree(built, out)
    model = out / "sentiment" / "1" / "model.onnx"
    model.write_bytes(b"damaged")
    (out / "digits" / "1" / "model_card").unlink()
    build.build(out)
    for name in ARTIFACTS:
        for path in (built / name).iterdir():
            assert (out / name / path.name).read_bytes() == path.read_bytes(), path


def test_a_changed_source_is_built_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    here = tmp_path / "examples"
    shutil.copytree(build.HERE / "lsh", here / "lsh")
    monkeypatch.setattr(build, "HERE", here)
    out = tmp_path / "models"
    build.build(out, ("lsh",))
    card = here / "lsh" / "model_card"
    card.write_text(json.dumps({"name": "another"}))
    build.build(out, ("lsh",))
    assert (out / "lsh" / "1" / "model_card").read_bytes() == card.read_bytes()
    assert "up to date" not in capsys.readouterr().out


def test_model_cards_say_what_the_model_is_and_how_good(built: Path) -> None:
    for name in ARTIFACTS:
        card = json.loads((built / name / "model_card").read_bytes())
        assert f"{card['name']}/{card['version']}" == name
        assert card["description"]
        assert card["model_type"] in ("trained", "code")
        if card["model_type"] == "trained":
            assert 0.5 < card["held_out"]["accuracy"] <= 1
