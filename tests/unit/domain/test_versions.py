"""Version words and names."""

import pytest
from hypothesis import given, strategies as st

from fairlead.domain.ids import ARTIFACT_NAME, NAME, ArtifactRef, EndpointId
from fairlead.domain.versions import natural_key, split_version, version_key

WORDS = st.text("v0123456789.-ab", max_size=12)


@pytest.mark.parametrize(
    ("smaller", "larger"),
    [("v9", "v10"), ("2", "10"), ("v9", "v9a"), ("1", "v1"), ("v1-9", "v1-10"), ("v09", "v10")],
)
def test_numbers_inside_words_compare_as_numbers(smaller: str, larger: str) -> None:
    assert natural_key(smaller) < natural_key(larger)


def test_a_revision_sorts_after_its_line_and_by_number() -> None:
    shuffled = ["v10", "v9.10", "v9", "v9.2", "v10.1"]
    assert sorted(shuffled, key=version_key) == ["v9", "v9.2", "v9.10", "v10", "v10.1"]


@given(st.lists(WORDS, unique=True))
def test_the_order_is_total_and_tells_every_two_words_apart(words: list[str]) -> None:
    keys = [natural_key(word) for word in words]
    assert len(set(keys)) == len(words)
    assert sorted(words, key=natural_key) == sorted(words, key=natural_key)


@given(WORDS)
def test_only_the_first_dot_splits_a_version(word: str) -> None:
    line, revision = split_version(word)
    assert word == (line if revision is None else f"{line}.{revision}")
    assert "." not in line


@pytest.mark.parametrize("text", ["sentiment/1", "A_b.c-d/999999999999999999"])
def test_an_artifact_name_reads_back(text: str) -> None:
    assert str(ArtifactRef.parse(text)) == text


@pytest.mark.parametrize(
    "text", ["", "x", "x/", "/1", "x/0", "x/01", "x/-1", "x/1/2", "../x/1", "x y/1", "x/1\n"]
)
def test_a_wrong_artifact_name_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="<name>/<version>"):
        ArtifactRef.parse(text)


@pytest.mark.parametrize("name", ["", "-a", "a-", "A", "a_b", "a.b", "a" * 64, "a\n"])
def test_a_name_that_dns_would_refuse_is_no_name(name: str) -> None:
    assert NAME.fullmatch(name) is None


def test_an_artifact_name_never_climbs_out_of_a_directory() -> None:
    assert all(ARTIFACT_NAME.fullmatch(name) is None for name in ["..", ".", "a/b", ".hidden"])


def test_every_identity_has_the_words_it_is_known_by() -> None:
    assert str(EndpointId("speech", "v9", "2", "stream")) == "speech/v9.2/stream"
