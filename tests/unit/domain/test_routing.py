"""The resolver and the routing table: the reference for every data plane."""

from __future__ import annotations

from dataclasses import replace

import pytest
import xxhash
from hypothesis import given, strategies as st

from fairlead.domain.catalog import (
    Catalog,
    Kill,
    Revision,
    with_key,
    with_kill,
    with_pin,
    with_revision,
    with_traffic,
)
from fairlead.domain.errors import Kind
from fairlead.domain.ids import ArtifactRef, EndpointId, LineId, RevisionId
from fairlead.domain.keys import EVERYTHING, KeyRecord, Scope
from fairlead.domain.paths import STATIC_PREFIX
from fairlead.domain.release import EndpointSpec, TrafficShare
from fairlead.domain.routing import (
    BUCKETS,
    Ask,
    Forward,
    Open,
    Refusal,
    authenticate,
    bucket_of,
    route,
)
from fairlead.domain.table import RoutingTable, table_from
from support.effort import effort

PREDICT = "/v1/model/speech/predict"
INFER = "/v2/models/speech/infer"


def hash64(data: bytes) -> int:
    return xxhash.xxh64(data).intdigest()


def revision(
    service: str, line: str, tag: str, artifact: int, *endpoints: EndpointSpec
) -> Revision:
    return Revision(
        RevisionId(service, line, tag),
        ArtifactRef(service, artifact),
        f"sha256:{artifact:064x}",
        endpoints or (EndpointSpec("predict"),),
        "applied",
        0.0,
    )


def shares(**percents: int) -> tuple[TrafficShare, ...]:
    return tuple(TrafficShare(tag.removeprefix("r"), percent) for tag, percent in percents.items())


def catalog() -> Catalog:
    """speech: v9 (1=90 2=10, 3 by exact version only), v10 (1); pinned to v9. other: v1."""
    found = Catalog()
    for one in [
        revision("speech", "v9", "1", 1),
        revision("speech", "v9", "2", 2),
        revision("speech", "v9", "3", 3),
        revision("speech", "v10", "1", 2),
        revision(
            "other",
            "v1",
            "1",
            1,
            EndpointSpec("predict"),
            EndpointSpec("stream", paths=("/api/stream",)),
        ),
    ]:
        found = with_revision(found, one)
    found = with_traffic(found, LineId("speech", "v9"), shares(r1=90, r2=10, r3=0))
    found = with_traffic(found, LineId("speech", "v10"), shares(r1=100))
    found = with_traffic(found, LineId("other", "v1"), shares(r1=100))
    found = with_key(found, KeyRecord("all", (EVERYTHING,), 0.0, ""))
    return with_key(found, KeyRecord("narrow", (Scope("other"),), 0.0, ""))


def table(desired: Catalog | None = None, before: RoutingTable | None = None) -> RoutingTable:
    desired = desired or catalog()
    return table_from(desired, desired.live(), {}, before or RoutingTable())


def ask(
    path: str = PREDICT, version: str | None = None, **changes: str
) -> Forward | Open | Refusal:
    request = replace(Ask("POST", path, "all", version), **changes)  # type: ignore[arg-type]
    return route(table(), request, hash64)


def served(outcome: Forward | Open | Refusal) -> str:
    assert isinstance(outcome, Forward), outcome
    return outcome.endpoint.revision_id.served_version


def refused(outcome: Forward | Open | Refusal) -> tuple[Kind, str]:
    assert isinstance(outcome, Refusal), outcome
    return outcome.kind, outcome.message


def test_a_line_follows_its_split_and_a_revision_is_exact() -> None:
    counts = {"v9.1": 0, "v9.2": 0}
    for number in range(3000):
        counts[served(ask(version="v9", sticky_key=f"user-{number}"))] += 1
    assert 2600 < counts["v9.1"] < 2800
    assert served(ask(version="v9.3")) == "v9.3"
    assert served(ask(version="v10")) == "v10.1"


@pytest.mark.parametrize("version", [None, "latest"])
def test_latest_and_no_version_follow_the_pin(version: str | None) -> None:
    outcome = route(table(), Ask("POST", PREDICT, "all", version, "someone"), hash64)
    assert served(outcome) in ("v9.1", "v9.2")
    pinned = table(with_pin(catalog(), LineId("speech", "v10")))
    assert served(route(pinned, Ask("POST", PREDICT, "all", version), hash64)) == "v10.1"


@pytest.mark.parametrize(
    "version", ["v8", "v9.4", "v9.", "v9.1.1", "9", "", "V9", "latest.1", "*", "v9,v10"]
)
def test_an_unknown_version_is_refused_with_the_versions_there_are(version: str) -> None:
    kind, message = refused(ask(version=version))
    assert kind is Kind.NOT_FOUND
    assert message == f"no version {version!r} here; versions: v9, v9.1, v9.2, v9.3, v10, v10.1"


def test_the_key_is_checked_before_anything_else() -> None:
    secrets = {"good": "all"}
    assert authenticate(secrets, ["good"]) == "all"
    for keys, text in [
        ([], "No API key found in request"),
        (["bad"], "Invalid authentication credentials"),
        (["good", "good"], "Duplicate API key found"),
        (["good,good"], "Duplicate API key found"),
    ]:
        assert authenticate(secrets, keys) == Refusal(Kind.UNAUTHENTICATED, text)


@pytest.mark.parametrize(
    "path",
    [
        "/v1/model/nobody/predict",
        "/v1/model/speech/predict/",
        "/v1/model//predict",
        "//v1/model/speech/predict",
        "/v1/model/spe%65ch/predict",
        "/v1/model/speech",
        "/v2/models/",
        "/v2/models/speech/versions",
        "/v2/models/speech/versions//infer",
        "/v2/models/nobody",
        "/api/other",
    ],
)
def test_a_path_nobody_owns_is_refused_whatever_the_method(path: str) -> None:
    for method in ("GET", "POST", "DELETE"):
        assert refused(ask(path, method=method))[0] is Kind.NOT_FOUND


@pytest.mark.parametrize("end", ["", "/infer", "/ready", "/config", "/stats", "/versions/1/infer"])
def test_an_unknown_model_is_refused_in_the_words_clients_look_for(end: str) -> None:
    for client in ("all", "narrow"):
        outcome = ask(f"/v2/models/nobody{end}?a=b", client=client)
        words = "Request for unknown model: 'nobody' is not found; the repository index lists what is here"
        assert refused(outcome) == (Kind.NOT_FOUND, words)
    words = "nothing answers /v1/model/nobody/predict; GET / tells what is here"
    assert refused(ask("/v1/model/nobody/predict?a=b")) == (Kind.NOT_FOUND, words)


def test_the_query_is_no_part_of_the_path() -> None:
    assert served(ask(PREDICT + "?a=/v1/model/other/predict", "v9.1")) == "v9.1"


def test_a_wrong_method_is_told_with_the_right_one() -> None:
    assert refused(ask(method="GET")) == (Kind.METHOD, "GET is not for this path; use POST")
    assert refused(ask("/healthz", method="POST"))[0] is Kind.METHOD
    assert ask("/healthz", method="GET") == Open("healthz")


def test_a_narrow_key_reaches_its_own_service_only_and_learns_nothing_of_others() -> None:
    assert served(ask("/v1/model/other/predict", client="narrow")) == "v1.1"
    for version in (None, "v9", "v77"):
        outcome = ask(version=version, client="narrow") if version else ask(client="narrow")
        assert refused(outcome) == (Kind.FORBIDDEN, "You cannot consume this service")
    message = refused(ask("/v1/model/other/predict", "v9", client="narrow"))[1]
    assert message == "no version 'v9' here; versions: v1, v1.1"


def test_a_client_without_a_record_may_nothing() -> None:
    assert refused(ask(client="ghost"))[0] is Kind.FORBIDDEN


def test_a_killed_service_answers_its_message_and_others_go_on() -> None:
    killed = table(with_kill(catalog(), "speech", Kill("back at noon", 1.0)))
    for version in (None, "v9", "v9.1", "v77"):
        outcome = route(killed, Ask("POST", PREDICT, "all", version), hash64)
        assert refused(outcome) == (Kind.UNAVAILABLE, "back at noon")
    assert served(route(killed, Ask("POST", "/v1/model/other/predict", "all"), hash64)) == "v1.1"


def test_an_artifact_version_in_the_path_is_answered_by_a_live_revision_that_runs_it() -> None:
    assert served(ask("/v2/models/speech/versions/1/infer")) == "v9.1"
    assert (
        served(ask("/v2/models/speech/versions/2/infer")) == "v9.2"
    )  # the pinned line before a newer one
    assert served(ask("/v2/models/speech/versions/2/infer", "v10")) == "v10.1"
    assert served(ask("/v2/models/speech/versions/2/infer", "v9.2")) == "v9.2"
    kind, message = refused(ask("/v2/models/speech/versions/7/infer"))
    assert kind is Kind.NOT_FOUND
    assert (
        message == "no live revision of speech runs artifact version 7; artifact versions: 1, 2, 3"
    )


@pytest.mark.parametrize("version", ["v9.1", "v10.1", "v10"])
def test_path_and_header_in_conflict_are_refused(version: str) -> None:
    path = "/v2/models/speech/versions/3/infer"
    assert refused(ask(path, version))[0] is Kind.INVALID
    assert refused(ask(path, "v77"))[0] is Kind.NOT_FOUND


def test_a_path_of_an_endpoint_leads_to_it() -> None:
    outcome = ask("/api/stream")
    assert isinstance(outcome, Forward)
    assert outcome.endpoint == EndpointId("other", "v1", "1", "stream")
    assert refused(ask("/api/stream", "v9"))[0] is Kind.NOT_FOUND


def test_the_bucket_is_the_sticky_keys_or_else_the_clients() -> None:
    request = Ask("POST", PREDICT, "all", "v9")
    assert bucket_of(request, hash64) == xxhash.xxh64(b"all").intdigest() % BUCKETS
    assert (
        bucket_of(replace(request, sticky_key="u1"), hash64)
        == xxhash.xxh64(b"u1").intdigest() % BUCKETS
    )
    assert (
        bucket_of(replace(request, sticky_key=""), hash64)
        == xxhash.xxh64(b"").intdigest() % BUCKETS
    )


@effort(40)
@given(st.integers(0, 100), st.integers(0, 100), st.lists(st.text(max_size=8), max_size=40))
def test_raising_a_canary_moves_nobody_out_of_it(first: int, second: int, users: list[str]) -> None:
    low, high = sorted((first, second))
    before = table(with_traffic(catalog(), LineId("speech", "v9"), shares(r1=100 - low, r2=low)))
    after = table(with_traffic(catalog(), LineId("speech", "v9"), shares(r1=100 - high, r2=high)))
    for user in users:
        request = Ask("POST", PREDICT, "all", "v9", user)
        if served(route(before, request, hash64)) == "v9.2":
            assert served(route(after, request, hash64)) == "v9.2"


@given(
    st.sampled_from(["POST", "GET", "HEAD", "PUT"]),
    st.sampled_from(
        [
            PREDICT,
            INFER,
            "/v2/models/speech/versions/2/infer",
            "/api/stream",
            "/x",
            "/",
            "/v1/model/other/bio",
        ]
    ),
    st.one_of(
        st.none(),
        st.sampled_from(["latest", "v9", "v9.1", "v9.2", "v10", "v1.1", "v1", "zz"]),
        st.text(max_size=4),
    ),
    st.sampled_from(["all", "narrow", "ghost"]),
    st.one_of(st.none(), st.text(max_size=5)),
)
def test_no_request_is_ever_answered_by_another_version_than_it_asked_for(
    method: str, path: str, version: str | None, client: str, sticky: str | None
) -> None:
    outcome = route(table(), Ask(method, path, client, version, sticky), hash64)
    if isinstance(outcome, Forward) and version not in (None, "latest"):
        name = outcome.endpoint.revision_id.served_version
        assert name == version or name.split(".")[0] == version
    if isinstance(outcome, Forward):
        assert client != "ghost"
        assert client == "all" or outcome.endpoint.service == "other"


class TestTable:
    """Traffic moves only to what is proved."""

    def test_a_line_waits_for_every_revision_that_has_a_share(self) -> None:
        ready = [one for one in catalog().live() if one != RevisionId("speech", "v9", "2")]
        found = table_from(
            catalog(), ready, {RevisionId("speech", "v9", "2"): "starting"}, RoutingTable()
        )
        outcome = route(found, Ask("POST", PREDICT, "all", "v9"), hash64)
        assert refused(outcome) == (Kind.UNAVAILABLE, "speech/v9 is not ready: v9.2 is starting")
        assert served(route(found, Ask("POST", PREDICT, "all", "v9.1"), hash64)) == "v9.1"
        assert (
            refused(route(found, Ask("POST", PREDICT, "all", "v9.2"), hash64))[0]
            is Kind.UNAVAILABLE
        )

    def test_the_old_traffic_flows_until_the_new_revision_is_ready(self) -> None:
        first = with_traffic(catalog(), LineId("speech", "v9"), shares(r1=100))
        before = table(first)
        moved = with_traffic(first, LineId("speech", "v9"), shares(r2=100))
        ready = [one for one in moved.live() if one.revision != "2"]
        waiting = table_from(moved, ready, {}, before)
        assert served(route(waiting, Ask("POST", PREDICT, "all", "v9"), hash64)) == "v9.1"
        done = table_from(moved, moved.live(), {}, waiting)
        assert served(route(done, Ask("POST", PREDICT, "all", "v9"), hash64)) == "v9.2"
        assert (
            refused(route(done, Ask("POST", PREDICT, "all", "v9.1"), hash64))[0] is Kind.NOT_FOUND
        )

    def test_a_revision_whose_workers_died_keeps_its_share(self) -> None:
        before = table()
        after = table_from(catalog(), [], {}, before)
        for user in map(str, range(200)):
            request = Ask("POST", PREDICT, "all", "v9", user)
            assert route(after, request, hash64) == route(before, request, hash64)

    def test_the_pin_moves_only_to_a_line_that_serves(self) -> None:
        before = table()
        moved = with_pin(catalog(), LineId("speech", "v10"))
        first = with_revision(moved, revision("speech", "v11", "1", 9))
        first = with_pin(
            with_traffic(first, LineId("speech", "v11"), shares(r1=100)), LineId("speech", "v11")
        )
        waiting = table_from(
            first, before.services["speech"].lines and catalog().live(), {}, before
        )
        assert waiting.services["speech"].pin == "v9"
        done = table_from(first, first.live(), {}, waiting)
        assert served(route(done, Ask("POST", PREDICT, "all"), hash64)) == "v11.1"


def test_a_path_the_pinned_line_lacks_names_latest_not_none() -> None:
    speech = EndpointSpec("stream", paths=("/api/stream",))
    catalog = with_revision(Catalog(), revision("speech", "v1", "1", 1))
    catalog = with_revision(catalog, revision("speech", "v2", "1", 2, speech))
    catalog = with_traffic(catalog, LineId("speech", "v1"), shares(r1=100))
    catalog = with_traffic(catalog, LineId("speech", "v2"), shares(r1=100))
    catalog = with_key(catalog, KeyRecord("demo", (EVERYTHING,), 0.0, ""))
    table = table_from(catalog, catalog.live(), {}, RoutingTable())
    outcome = route(table, Ask("POST", "/api/stream", "demo"), hash64)
    assert outcome == Refusal(
        Kind.NOT_FOUND, "no version 'latest' here; versions: v1, v1.1, v2, v2.1"
    )


class TestScopes:
    """What a key may ask, by line and verb; speech is pinned to v9 and has v10 too."""

    def asked(self, scopes: str, path: str = PREDICT, version: str | None = None) -> object:
        key = KeyRecord("k", tuple(Scope.parse(one) for one in scopes.split()), 0.0, "")
        method = "POST" if path.endswith(("predict", "infer")) else "GET"
        asking = Ask(method, path, "k", version)
        outcome = route(table(with_key(catalog(), key)), asking, hash64)
        return (
            (outcome.kind.value, outcome.message)
            if isinstance(outcome, Refusal)
            else served(outcome).partition(".")[0]
        )

    NO = ("forbidden", "You cannot consume this service")

    def test_a_line_is_allowed_and_the_others_are_not(self) -> None:
        assert self.asked("speech/v9") == "v9"
        assert self.asked("speech/v10", version="v10") == "v10"
        assert self.asked("speech/v10") == self.NO
        assert self.asked("speech/v10", version="v9.1") == self.NO
        assert self.asked("speech/v9", version="v10") == self.NO

    def test_what_is_not_there_lists_only_what_is_allowed(self) -> None:
        wrong = ("not_found", "no version 'v11' here; versions: v10, v10.1")
        assert self.asked("speech/v10", version="v11") == wrong
        wrong = ("not_found", "no version 'v9.7' here; versions: v9, v9.1, v9.2, v9.3")
        assert self.asked("speech/v9 speech/v10:read", version="v9.7") == wrong

    def test_a_verb_is_allowed_for_its_paths(self) -> None:
        assert self.asked("speech:read", "/v2/models/speech") == "v9"
        assert self.asked("speech:read") == self.NO
        assert self.asked("*:infer", "/v1/model/speech/bio") == self.NO
        assert self.asked("speech/v10:infer speech:read", "/v1/model/speech/bio") == "v9"
        assert self.asked("speech/v10:infer speech:read") == self.NO

    def test_an_artifacts_version_is_looked_for_in_the_allowed_lines(self) -> None:
        two = "/v2/models/speech/versions/2/infer"
        assert self.asked("speech", two) == "v9"
        assert self.asked("speech/v10", two) == "v10"
        assert self.asked("speech/v10", "/v2/models/speech/versions/1/infer") == self.NO
        kind, message = self.asked("speech/v10", "/v2/models/speech/versions/9/infer")  # type: ignore[misc]
        assert (kind, message.rpartition("; ")[2]) == ("not_found", "artifact versions: 2")

    def test_a_killed_key_hears_why_after_path_and_method(self) -> None:
        key = KeyRecord("k", (EVERYTHING,), 0.0, "", killed="call us")
        killed = table(with_key(catalog(), key))
        for asking, wanted in [
            (Ask("POST", PREDICT, "k"), (Kind.FORBIDDEN, "call us")),
            (Ask("GET", "/api/stream", "k", "v99"), (Kind.FORBIDDEN, "call us")),
            (Ask("GET", PREDICT, "k"), (Kind.METHOD, "GET is not for this path; use POST")),
        ]:
            assert refused(route(killed, asking, hash64)) == wanted
        assert isinstance(route(killed, Ask("GET", "/livez", "k"), hash64), Open)

    @given(
        st.lists(st.sampled_from(["speech", "speech/v9", "speech/v10:infer", "*:read", "other"])),
        st.sampled_from([PREDICT, "/v2/models/speech", "/v2/models/speech/versions/2"]),
        st.sampled_from([None, "latest", "v9", "v10", "v9.3", "v10.1", "v11"]),
    )
    def test_a_narrower_key_gets_the_same_answer_or_none(
        self, scopes: list[str], path: str, version: str | None
    ) -> None:
        """Unless an artifact's version is asked for, which the newest allowed line answers."""
        whole, mine = self.asked("*", path, version), self.asked(" ".join(scopes), path, version)
        if isinstance(mine, str):
            assert isinstance(whole, str)
            assert mine == whole or "/versions/" in path
        elif isinstance(whole, str):
            assert mine == self.NO


def test_two_services_behind_one_path_are_told_apart_by_version_only() -> None:
    path = EndpointSpec("stream", paths=("/api/stream",))
    desired = with_revision(catalog(), revision("third", "v7", "1", 1, path))
    desired = with_traffic(desired, LineId("third", "v7"), shares(r1=100))
    both = table(desired)
    kind, message = refused(route(both, Ask("POST", "/api/stream", "all"), hash64))
    assert kind is Kind.NOT_FOUND
    assert message.startswith("several services answer here: send Accept-Version; versions:")
    assert served(route(both, Ask("POST", "/api/stream", "all", "v7"), hash64)) == "v7.1"


def test_what_the_pages_load_is_open_to_everybody() -> None:
    assert route(table(), Ask("GET", f"{STATIC_PREFIX}x.css", ""), hash64) == Open("static")
