"""A command waits for its own change: has somebody taken it back meanwhile?"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from fairlead.domain import catalog as catalogs
from fairlead.domain.catalog import Catalog, Kill, Revision
from fairlead.domain.ids import ArtifactRef, LineId, RevisionId
from fairlead.domain.keys import EVERYTHING, KeyRecord
from fairlead.domain.release import EndpointSpec, TrafficShare
from fairlead.domain.superseded import Made, superseded

V1, V2 = LineId("sl", "v1"), LineId("sl", "v2")
KEY = KeyRecord("phone", (EVERYTHING,), 5.0, "abcd")


def with_one(catalog: Catalog, line: LineId, tag: str, digest: str = "") -> Catalog:
    identity = RevisionId(line.service, line.line, tag)
    made = Revision(
        identity, ArtifactRef("m", 1), digest or f"sha256:{tag}", (EndpointSpec("p"),), "x", 5.0
    )
    return catalogs.with_revision(catalog, made)


def moved(catalog: Catalog, line: LineId, **shares: int) -> Catalog:
    split = tuple(TrafficShare(tag[1:], percent) for tag, percent in shares.items())
    return catalogs.with_traffic(catalog, line, split)


def sl() -> Catalog:
    catalog = with_one(with_one(Catalog(), V1, "1"), V1, "2")
    catalog = moved(with_one(catalog, V2, "1"), V2, r1=100)
    return catalogs.with_key(moved(catalog, V1, r2=100), KEY)


def without(catalog: Catalog, line: LineId) -> Catalog:
    service = catalog.services["sl"]
    lines = {name: one for name, one in service.lines.items() if name != line.line}
    return replace(catalog, services={"sl": replace(service, lines=lines)})


def anew(catalog: Catalog) -> Catalog:
    return moved(with_one(catalog, V1, "2", "sha256:other"), V1, r2=100)


def killed(catalog: Catalog) -> Catalog:
    return catalogs.with_kill(catalog, "sl", Kill("later", 1.0))


APPLIED = Made(sl(), lines=frozenset({V1}))
PINNED = Made(sl(), pins=frozenset({"sl"}))
KILLED = Made(killed(sl()), switches=frozenset({"sl"}))


@pytest.mark.parametrize(
    ("made", "change", "told"),
    [
        (APPLIED, lambda one: replace(one, services={}), "service sl was deleted"),
        (APPLIED, lambda one: without(one, V1), "line sl/v1 was deleted"),
        (
            APPLIED,
            lambda one: moved(one, V1, r1=90, r2=10),
            "traffic of sl/v1 was moved to 1=90 2=10",
        ),
        (APPLIED, lambda one: moved(one, V1), "traffic of sl/v1 was moved to none"),
        (APPLIED, anew, "line sl/v1 was deleted and made anew"),
        (APPLIED, killed, "service sl was switched off"),
        (PINNED, lambda one: catalogs.with_pin(one, V2), "the pin of sl was moved to v2"),
        (KILLED, lambda _: sl(), "service sl was switched on again"),
    ],
)
def test_what_somebody_has_taken_back_is_told(
    made: Made, change: Callable[[Catalog], Catalog], told: str
) -> None:
    assert superseded(made, made.catalog) == []
    assert superseded(made, change(made.catalog)) == [told]


def test_a_key_that_was_made_and_is_another_or_gone_is_told() -> None:
    made = Made(sl(), keys=frozenset({"phone"}))
    gone = catalogs.without_key(sl(), "phone")
    assert superseded(made, catalogs.with_key(sl(), replace(KEY, killed="x"))) == [
        "key phone was changed"
    ]
    assert superseded(made, gone) == ["key phone was revoked"]
    revoked = Made(gone, keys=frozenset({"phone"}))
    assert superseded(revoked, gone) == []
    assert superseded(revoked, sl()) == ["key phone was made anew"]


def test_what_others_change_beside_it_takes_nothing_back() -> None:
    other = with_one(Catalog(), LineId("other", "v1"), "1")
    beside = replace(sl(), generation=9, services={**sl().services, **other.services})
    beside = catalogs.with_pin(moved(beside, V2), V2)
    assert superseded(APPLIED, beside) == []
    assert superseded(Made(sl(), pins=frozenset({"sl"})), moved(sl(), V1, r1=100)) == []
    assert superseded(Made(killed(sl()), lines=frozenset({V1})), sl()) == []
    assert superseded(Made(Catalog(), lines=frozenset({V1})), sl()) == []
    assert Made(sl(), frozenset({V1}), frozenset({"b"}), frozenset({"c"})).services == {
        "sl",
        "b",
        "c",
    }
