from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pydantic
import pytest
from examples.lsh import model as lsh
from hypothesis import given, strategies as st

TEXT = " ".join(f"word{number}" for number in range(400))


def _signature(text: str, **configuration: object) -> list[str] | None:
    one = lsh.Model()
    one.load(Path())
    document = {"configuration": configuration, "inputs": {"content": text}}
    return one.predict(lsh.Request.model_validate(document)).signature


def _shared(one: str, other: str) -> int:
    return len(set(_signature(one) or ()) & set(_signature(other) or ()))


def test_near_duplicates_share_bands_and_different_texts_share_none() -> None:
    edited = TEXT.replace("word200", "changed").replace("word301", "another")
    different = " ".join(f"term{number}" for number in range(400))
    assert _shared(TEXT, edited) >= 6
    assert _shared(TEXT, different) == 0


def test_case_punctuation_and_articles_do_not_matter() -> None:
    assert _signature("The cat, a dog: an owl; THE horse. Sheep cow") == _signature(
        "cat DOG owl horse sheep the cow"
    )


@pytest.mark.parametrize("text", ["", "  \n", "four words are here", "the a an the a an"])
def test_a_text_shorter_than_a_shingle_has_no_signature(text: str) -> None:
    assert _signature(text) is None


def test_a_text_of_one_shingle_has_a_signature_of_one_string_a_band() -> None:
    bands, rows = lsh.best_bands(0.6, 128)
    found = _signature("exactly five words stand here") or []
    assert len(found) == bands
    assert bands * rows <= 128
    assert all(len(band) == 16 and int(band, 16) >= 0 for band in found)


def test_agreement_in_places_is_the_overlap_of_shingles() -> None:
    chosen = random.Random(7)
    everything = np.array([chosen.getrandbits(64) for _ in range(3000)], dtype=np.uint64)
    one, other = everything[:2000], everything[1000:]
    true_overlap = 1000 / 3000
    found = float(np.mean(lsh.min_hashes(one, 512) == lsh.min_hashes(other, 512)))
    assert found == pytest.approx(true_overlap, abs=0.08)  # four standard deviations


@given(st.floats(0.05, 0.95), st.sampled_from([2, 16, 64, 128]))
def test_a_higher_threshold_asks_for_more_agreement(threshold: float, count: int) -> None:
    bands, rows = lsh.best_bands(threshold, count)
    higher_bands, higher_rows = lsh.best_bands(min(threshold + 0.04, 0.99), count)
    assert 1 <= bands * rows <= count
    # Where the chance to share a band is one half moves up with the threshold.
    assert (1 - 0.5 ** (1 / higher_bands)) ** (1 / higher_rows) >= (1 - 0.5 ** (1 / bands)) ** (
        1 / rows
    ) - 0.05


def test_the_band_curve_turns_near_the_threshold() -> None:
    for threshold in (0.4, 0.6, 0.8):
        bands, rows = lsh.best_bands(threshold, 128)
        turn = (1 - 0.5 ** (1 / bands)) ** (1 / rows)
        assert turn == pytest.approx(threshold, abs=0.06)


@given(st.text(max_size=200))
def test_any_text_is_answered_and_always_the_same(text: str) -> None:
    assert _signature(text, shingle_list=1) == _signature(text, shingle_list=1)


@pytest.mark.parametrize(
    ("configuration", "place"),
    [
        ({"language": "tlh"}, "language"),
        ({"shingle_list": 0}, "shingle_list"),
        ({"threshold": 1}, "threshold"),
        ({"num_perm": 100_000}, "num_perm"),
        ({"bands": 3}, "bands"),
    ],
)
def test_a_configuration_that_makes_no_sense_is_refused_by_name(
    configuration: dict[str, object], place: str
) -> None:
    with pytest.raises(pydantic.ValidationError) as caught:
        _signature(TEXT, **configuration)
    assert [error["loc"] for error in caught.value.errors()] == [("configuration", place)]


def test_an_unknown_language_is_told_the_known_ones() -> None:
    with pytest.raises(pydantic.ValidationError, match="'en', 'de', 'fr' or 'es'"):
        _signature(TEXT, language="klingon")
