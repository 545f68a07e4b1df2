"""Scopes, rates and verbs as they are written and what they mean."""

from __future__ import annotations

import pytest
from hypothesis import given, strategies as st

from fairlead.domain.keys import EVERYTHING, KeyRecord, Quota, Rate, Scope, Verb
from fairlead.domain.paths import CustomPath, ModelPath, parse_path

NAMES = st.from_regex(r"[a-z0-9]([a-z0-9-]{0,8}[a-z0-9])?", fullmatch=True)
VERBS = st.sampled_from(["", *Verb])
SCOPES = st.one_of(
    st.builds(Scope, NAMES, st.one_of(st.just(""), NAMES), VERBS),
    st.builds(Scope, st.just("*"), st.just(""), VERBS),
)


@given(SCOPES)
def test_a_scope_reads_back_as_it_is_written(scope: Scope) -> None:
    assert Scope.parse(str(scope)) == scope


@given(st.text(alphabet="az9*/:-. infer", max_size=12))
def test_any_text_is_a_scope_that_reads_back_or_an_error_in_words(text: str) -> None:
    try:
        scope = Scope.parse(text)
    except ValueError as error:
        assert repr(text) in str(error)
    else:
        assert str(scope) == text


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "is no scope: write SERVICE"),
        ("speech/", "is no scope"),
        ("/v9", "is no scope"),
        ("speech:", "write infer or read"),
        ("speech:Infer", "write infer or read"),
        ("*/v9", "lines belong to one service"),
        ("Speech", "is no scope"),
        ("speech/v9.2", "is no scope"),
        ("speech/v9/x", "is no scope"),
    ],
)
def test_a_wrong_scope_is_told(text: str, told: str) -> None:
    with pytest.raises(ValueError, match=r".+") as caught:
        Scope.parse(text)
    assert told in str(caught.value)


@pytest.mark.parametrize(
    ("text", "wait"), [("100/s", 1), ("1/s", 1), ("6/min", 10), ("7/min", 9), ("1/h", 3600)]
)
def test_a_rate_says_when_there_is_a_token_again(text: str, wait: int) -> None:
    rate = Rate.parse(text)
    assert str(rate) == text
    assert rate.burst == rate.requests
    assert rate.wait_seconds == wait


@pytest.mark.parametrize(
    "text", ["", "0/s", "1", "1/d", "-1/s", "1.5/s", "1/S", "1 /s", "9" * 10 + "/s"]
)
def test_a_wrong_rate_is_told(text: str) -> None:
    with pytest.raises(ValueError, match=r"100/s, 600/min or 5000/h"):
        Rate.parse(text)


def test_a_quota_of_nothing_is_none() -> None:
    assert not Quota()
    assert Quota(concurrency=1)
    assert Quota(Rate.parse("1/h"))


def test_only_a_living_key_for_everything_is_free() -> None:
    key = KeyRecord("a", (EVERYTHING,), 0.0, "")
    assert key.free
    assert KeyRecord("a", (EVERYTHING, Scope("x")), 0.0, "").free
    assert not KeyRecord("a", (EVERYTHING,), 0.0, "", killed="off").free
    assert not KeyRecord("a", (Scope("*", verb="read"),), 0.0, "").free


def test_lines_are_those_of_the_scopes_with_the_verb() -> None:
    key = KeyRecord(
        "a", (Scope("s", "v1", "infer"), Scope("s", "v2"), Scope("*", verb="read")), 0.0, ""
    )
    assert key.lines("s", Verb.INFER, ["v1", "v2", "v3"]) == {"v1", "v2"}
    assert key.lines("s", Verb.READ, ["v1", "v2", "v3"]) == {"v1", "v2", "v3"}
    assert key.lines("t", Verb.INFER, ["v1"]) == frozenset()
    assert key.lines("s", Verb.INFER, ["v3"]) == frozenset()
    assert (key.allows("t"), key.allows("t", Verb.INFER)) == (True, False)


@pytest.mark.parametrize(
    ("path", "verb"),
    [
        ("/v1/model/s/predict", Verb.INFER),
        ("/v1/model/s/bio", Verb.READ),
        ("/v2/models/s", Verb.READ),
        ("/v2/models/s/ready", Verb.READ),
        ("/v2/models/s/infer", Verb.INFER),
        ("/v2/models/s/versions/3", Verb.READ),
        ("/v2/models/s/versions/3/infer", Verb.INFER),
        ("/api/stream", Verb.INFER),
    ],
)
def test_every_path_of_a_model_has_one_verb(path: str, verb: Verb) -> None:
    found = parse_path(path, "v1")
    assert isinstance(found, ModelPath | CustomPath)
    assert found.verb == verb
