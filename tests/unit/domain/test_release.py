"""The release file."""

from typing import Any

import pytest
from hypothesis import given, strategies as st

from fairlead.domain.errors import InvalidInput
from fairlead.domain.ids import ArtifactRef
from fairlead.domain.release import (
    EndpointSpec,
    Release,
    TrafficShare,
    json_schema,
    release_from_document,
    release_to_json,
)

WHOLE: dict[str, Any] = {
    "service": "speech",
    "model": "v9",
    "version": "2",
    "artifact": "speech/7",
    "traffic": [{"tag": "1", "percent": 90}, {"tag": "2", "percent": 10}],
}

# A file of S0-A, key for key, without any of ours.
SOURCE_FILE = {
    "env": "staging",
    "model": "v9",
    "version": "4",
    "image": "registry.example.com/tts@sha256:" + "0" * 64,
    "imageEntrypoint": "run.deploy.worker:app",
    "provideApiKeyAuthForLegacyContainerSupport": "true",
    "stream": {
        "minScale": 3,
        "maxScale": 32,
        "concurrency": 1,
        "paths": ["/api/text_to_speech/stream"],
    },
    "validate": {
        "minScale": 1,
        "maxScale": 8,
        "concurrency": 4,
        "paths": ["/api/text_to_speech/input_validated"],
        "resources": {"requests": {"cpu": "1"}},
    },
    "traffic": [{"tag": "4", "percent": 100}],
}


def problems(document: Any) -> list[str]:
    with pytest.raises(InvalidInput) as caught:
        release_from_document(document, "file.yaml")
    return [str(problem) for problem in caught.value.problems]


def test_a_file_is_read_as_it_is_written() -> None:
    release = release_from_document(WHOLE, "file.yaml")
    assert release == Release(
        service="speech",
        line="v9",
        version="2",
        artifact=ArtifactRef("speech", 7),
        endpoints=(EndpointSpec("predict"),),
        traffic=(TrafficShare("1", 90), TrafficShare("2", 10)),
    )


def test_a_file_of_the_source_system_is_valid_as_it_stands() -> None:
    release = release_from_document(SOURCE_FILE, "v9.config.json")
    assert [endpoint.name for endpoint in release.endpoints] == ["stream", "validate"]
    assert release.endpoints[0] == EndpointSpec("stream", 3, 32, 1, ("/api/text_to_speech/stream",))
    assert release.legacy_api_key


def test_a_file_that_does_not_say_how_long_keeps_its_digest() -> None:
    (said,) = release_to_json(release_from_document(WHOLE, ""))["endpoints"].values()
    assert sorted(said) == ["concurrency", "maxScale", "minScale", "paths", "resources"]


def test_an_endpoint_says_how_long_a_request_may_take_and_when_replicas_go() -> None:
    endpoint = {"scaleDownDelaySeconds": 300, "timeoutSeconds": 3600}
    (spec,) = release_from_document({**WHOLE, "endpoints": {"stream": endpoint}}, "").endpoints
    assert (spec.scale_down_delay_seconds, spec.timeout_seconds) == (300, 3600)
    too_long = {"scaleDownDelaySeconds": 3601, "timeoutSeconds": 0}
    with pytest.raises(InvalidInput) as caught:
        release_from_document({**WHOLE, "endpoints": {"stream": too_long}}, "")
    assert [problem.where for problem in caught.value.problems] == [
        "endpoints.stream.scaleDownDelaySeconds",
        "endpoints.stream.timeoutSeconds",
    ]


def test_traffic_goes_to_the_files_own_version_by_default() -> None:
    document = {key: value for key, value in WHOLE.items() if key != "traffic"}
    assert release_from_document(document, "").traffic == (TrafficShare("2", 100),)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"trafic": []}, ["trafic: unknown key; did you mean 'traffic'?"]),
        ({"version": 2}, ['version: is the number 2; write it as text: "2"']),
        (
            {"version": "2.1"},
            [
                "version: is '2.1'; write lower-case letters, digits and dashes, at most 63, "
                'no dash at either end, as text: "2"'
            ],
        ),
        (
            {"model": "latest"},
            ["model: is 'latest'; that word is the pin's; give the line a name of its own"],
        ),
        (
            {"service": "stats"},
            [
                "service: is 'stats'; write lower-case letters, digits and dashes, at most 63, no dash "
                "at either end; not 'stats': /v2/models/stats is everybody's statistics"
            ],
        ),
        ({"model": None}, ["model: is missing; 'model' must be there"]),
        (
            {"artifact": "speech"},
            [
                "artifact: is 'speech'; write <name>/<version>, the version a whole number "
                "from 1: sentiment/1"
            ],
        ),
        (
            {"artifact": None},
            ["artifact: is missing; say what to run: artifact: <name>/<version> (or image)"],
        ),
        (
            {"traffic": [{"tag": "1", "percent": 90}]},
            ["traffic: percents sum to 90 (90); make them sum to 100"],
        ),
        ({"traffic": []}, ["traffic: percents sum to 0 (nothing); make them sum to 100"]),
        (
            {"traffic": [{"tag": "1", "percent": 50}, {"tag": "1", "percent": 50}]},
            ["traffic: names the tag '1' 2 times; each tag once"],
        ),
        (
            {"traffic": [{"tag": "1", "percent": "90"}, {"percent": 10}]},
            [
                "traffic[0].percent: is '90'; write a whole number from 0 to 100",
                "traffic[1].tag: is missing; 'tag' must be there",
            ],
        ),
        (
            {"traffic": [{"tag": "1", "percent": 101}]},
            ["traffic[0].percent: is 101; write a whole number from 0 to 100"],
        ),
        (
            {"traffic": [{"tag": "1", "percent": True}]},
            ["traffic[0].percent: is true; write a whole number from 0 to 100"],
        ),
        ({"traffic": {"1": 100}}, ["traffic: is an object; write a list"]),
        (
            {"endpoints": {"predict": {"minScale": 3, "maxScale": 2}}},
            [
                "endpoints.predict.maxScale: is 2, less than minScale 3; write 3 or more, or 0 for no limit"
            ],
        ),
        (
            {"endpoints": {"predict": {"concurency": 2}}},
            ["endpoints.predict.concurency: unknown key; did you mean 'concurrency'?"],
        ),
        (
            {"stream": {}, "endpoints": {"stream": {}}},
            [
                "endpoints.stream: is given twice; keep endpoints.stream or the shorthand 'stream', not both"
            ],
        ),
        (
            {"endpoints": {"a": {"paths": ["/x"]}, "b": {"paths": ["/x"]}}},
            ["endpoints.b.paths: /x leads to a too; one endpoint for each path"],
        ),
        (
            {"endpoints": {"a": {"paths": ["x"]}}},
            ["endpoints.a.paths[0]: is 'x'; write a path that starts with '/', without '?' or '%'"],
        ),
        (
            {"endpoints": {"B": {}}},
            [
                "endpoints.B: is not an endpoint's name; write lower-case letters, digits and "
                "dashes, at most 63, no dash at either end"
            ],
        ),
        (
            {"provideApiKeyAuthForLegacyContainerSupport": True},
            [
                'provideApiKeyAuthForLegacyContainerSupport: is true; write it as text: "true" or "false"'
            ],
        ),
    ],
)
def test_a_mistake_is_told_with_its_place_what_was_wrong_and_what_is_right(
    change: dict[str, Any], expected: list[str]
) -> None:
    assert problems({**WHOLE, **change}) == expected


@pytest.mark.parametrize("service", ["stat", "statss", "stats-1", "my-stats"])
def test_only_the_whole_name_of_everybodys_path_is_taken(service: str) -> None:
    assert release_from_document({**WHOLE, "service": service}, "").service == service


def test_an_unknown_key_hides_no_other_mistake() -> None:
    told = problems({**WHOLE, "trafic": [], "version": 1})
    assert [line.split(":")[0] for line in told] == ["trafic", "version"]


def test_all_mistakes_are_told_at_once() -> None:
    told = problems({"model": "v9", "version": 1, "service": "UP", "artifact": "x"})
    assert [line.split(":")[0] for line in told] == ["version", "service", "artifact"]


@pytest.mark.parametrize("document", [None, [], "text", 3, True])
def test_a_document_that_is_no_object_is_refused(document: Any) -> None:
    assert "write an object" in problems(document)[0]


NAMES = st.from_regex(r"[a-z0-9]([a-z0-9-]{0,8}[a-z0-9])?", fullmatch=True).filter(
    lambda name: name != "latest"
)
TAGS = st.lists(NAMES, min_size=1, max_size=4, unique=True)


@st.composite
def releases(draw: st.DrawFn) -> Release:
    tags = draw(TAGS)
    cuts = sorted(
        draw(st.lists(st.integers(0, 100), min_size=len(tags) - 1, max_size=len(tags) - 1))
    )
    bounds = [0, *cuts, 100]
    least = draw(st.integers(0, 5))
    endpoint = EndpointSpec(
        draw(NAMES),
        least,
        draw(st.sampled_from([0, max(least, 1), least + 3])),
        draw(st.integers(0, 1000)),
        tuple(
            draw(st.lists(st.from_regex(r"/[a-z/]{1,8}", fullmatch=True), unique=True, max_size=2))
        ),
        scale_down_delay_seconds=draw(st.integers(0, 3600)),
        timeout_seconds=draw(st.integers(0, 3600)),
    )
    return Release(
        service=draw(NAMES),
        line=draw(NAMES),
        version=draw(NAMES),
        artifact=ArtifactRef(draw(NAMES), draw(st.integers(1, 10**9))),
        endpoints=(endpoint,),
        traffic=tuple(
            TrafficShare(tag, high - low)
            for tag, low, high in zip(tags, bounds, bounds[1:], strict=False)
        ),
        legacy_api_key=draw(st.booleans()),
    )


@given(releases())
def test_a_release_reads_back_from_its_own_document(release: Release) -> None:
    again = release_from_document(release_to_json(release), "")
    assert again == release
    assert again.digest() == release.digest()


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda children: (
        st.lists(children, max_size=3) | st.dictionaries(st.text(max_size=5), children, max_size=3)
    ),
    max_leaves=10,
)


@given(st.dictionaries(st.sampled_from([*json_schema()["properties"], "other"]), JSON))
def test_any_document_is_a_release_or_a_list_of_problems(document: dict[str, Any]) -> None:
    try:
        release = release_from_document(document, "f")
    except InvalidInput as error:
        assert error.problems
    else:
        assert sum(share.percent for share in release.traffic) == 100


def test_a_path_between_agent_and_worker_cannot_be_given_to_an_endpoint() -> None:
    document = {"service": "s", "model": "v1", "version": "1", "artifact": "s/1"}
    document["endpoints"] = {"predict": {"paths": ["/internal/identity"]}}
    with pytest.raises(InvalidInput, match="between agent and worker"):
        release_from_document(document, "release.yaml")


def test_a_release_without_a_service_makes_no_revision() -> None:
    release = release_from_document(SOURCE_FILE, "v9.config.json")
    with pytest.raises(ValueError, match="without a service"):
        _ = release.revision_id


@pytest.mark.parametrize(
    ("endpoint", "told"),
    [
        ({"paths": ["/say", "/say"]}, "endpoints.predict.paths: names /say twice; each path once"),
        ({"resources": "1 GiB"}, "endpoints.predict.resources: is '1 GiB'"),
        ({"resources": {"cpu": 1}}, "endpoints.predict.resources.cpu: unknown key"),
    ],
)
def test_an_endpoint_that_contradicts_itself_is_refused(
    endpoint: dict[str, object], told: str
) -> None:
    with pytest.raises(InvalidInput) as caught:
        release_from_document({**WHOLE, "endpoints": {"predict": endpoint}}, "file")
    assert told in str(caught.value)


def test_a_text_with_half_a_character_is_refused() -> None:
    with pytest.raises(InvalidInput, match="holds half a character; write it whole"):
        release_from_document({**WHOLE, "artifact": "speech\ud800/1"}, "file")


def _numbers(schema: dict[str, Any]) -> dict[str, dict[str, int]]:
    """The schemas of an endpoint's whole numbers, by key."""
    endpoint = schema["properties"]["endpoints"]["additionalProperties"]["properties"]
    return {name: one for name, one in endpoint.items() if one.get("type") == "integer"}


@pytest.mark.parametrize("key", _numbers(json_schema()))
def test_both_ends_of_a_number_are_told_and_are_what_is_read(key: str) -> None:
    bounds = _numbers(json_schema())[key]
    least, most = bounds["minimum"], bounds["maximum"]
    for wrong in (least - 1, most + 1):
        with pytest.raises(InvalidInput, match=f"{key}: is {wrong}; write a whole number from "):
            release_from_document(WHOLE | {"endpoints": {"predict": {key: wrong}}}, "f")
    for right in (least, most):
        ends = {"maxScale": 0, key: right}
        release_from_document(WHOLE | {"endpoints": {"predict": ends}}, "f")
