"""What Envoy is told as protobuf is what protobuf itself reads out of the same JSON; and the two files of a kind."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any

import pytest
from google.protobuf.json_format import ParseDict
from hypothesis import given, strategies as st

from fairlead.adapters.envoy import encoding
from fairlead.adapters.envoy.encoding import Encoder, Unwritable, version_of
from fairlead.adapters.envoy.files import XdsFile, xds_file
from fairlead.adapters.envoy.texts import Texts
from fairlead.domain.ids import EndpointId, RevisionId
from fairlead.domain.keys import EVERYTHING, KeyRecord, Quota, Rate
from fairlead.domain.layout import Home
from fairlead.domain.status import Replica, State
from fairlead.domain.table import RoutingTable, table_from
from fairlead.gateway.behind import Behind
from fairlead.gateway.memo import Memo
from fairlead.gateway.settings import GatewaySettings
from fairlead.gateway.snapshot import Snapshot, snapshot
from support.effort import effort
from support.gateway import DIGEST, catalog, revision

HOME: Home[PurePosixPath] = Home(PurePosixPath("/home"), PurePosixPath("/run/f"))
SETTINGS = GatewaySettings()


def told(services: int, held: set[int], keys: set[str], memo: Memo | None = None) -> Snapshot:
    """`services` with two revisions each, `held` of them behind the activator; each of `keys` limited, or to one."""
    made = [
        revision(f"s{number}/v1.{tag}", 1, {"predict": (f"/own/{number}",), "ask": ()})
        for number in range(services)
        for tag in (1, 2)
    ]
    wanted = catalog(
        *made,
        traffic={f"s{number}/v1": {"1": 90, "2": 10} for number in range(services)},
        pins={f"s{number}": "v1" for number in range(services)},
        keys={"all": ("*",), **dict.fromkeys(keys, ("s0",))},
    )
    table = table_from(wanted, wanted.live(), {}, RoutingTable())
    if "limited" in keys:
        quota = Quota(Rate(6, 60, 20), 8)
        limited = KeyRecord("limited", (EVERYTHING,), 0.0, "", quota)
        table = replace(table, keys={**table.keys, "limited": limited})
    there = {one: (replica(one),) for one in wanted.live()}
    cold = frozenset(EndpointId(f"s{number}", "v1", "1") for number in held)
    credentials = {f"secret of {key}": key for key in table.keys}
    return snapshot(table, Behind(there, cold), credentials, SETTINGS, HOME, memo)


def replica(one: RevisionId) -> Replica:
    return Replica(f"w-{one.service}", one, DIGEST, State.READY, socket="/run/f/w.sock")


def read(data: bytes) -> list[Any]:
    """The resources, unwrapped."""
    response = encoding._message(encoding._RESPONSE).FromString(data)  # noqa: SLF001 - the reader of what it writes
    return [
        encoding._message(one.type_url.rpartition("/")[2]).FromString(one.value)  # noqa: SLF001 - see above
        for one in response.resources
    ]


def by_protobuf(resources: list[Any]) -> list[Any]:
    document = {"resources": resources}
    pool = encoding._pool()  # noqa: SLF001 - see above
    made = ParseDict(document, encoding._message(encoding._RESPONSE)(), descriptor_pool=pool)  # noqa: SLF001 - see above
    return read(made.SerializeToString())


MOVES = st.lists(
    st.tuples(
        st.integers(1, 3), st.sets(st.integers(0, 2)), st.sets(st.sampled_from(["one", "limited"]))
    ),
    min_size=1,
    max_size=4,
)


@effort(15)
@given(MOVES)
def test_move_after_move_the_messages_are_those_protobuf_reads_from_the_json_which_is_kept(
    moves: list[tuple[int, set[int], set[str]]],
) -> None:
    memo, routes, clusters, texts = Memo(), Encoder(), Encoder(), Texts()
    for services, held, keys in moves:
        taken = told(services, held, keys, memo)
        assert read(routes.encode("1", [taken.routes])) == by_protobuf([taken.routes])
        kept = json.loads(texts.encode("1", [taken.routes, *taken.clusters.values()]))
        assert kept["resources"] == [taken.routes, *taken.clusters.values()]
        of_all = list(taken.clusters.values())
        assert read(clusters.encode("1", of_all)) == by_protobuf(of_all)


def test_every_field_of_protobufs_own_types_is_what_protobuf_reads() -> None:
    taken = told(2, {1}, {"limited"})
    cluster = {
        **taken.clusters["front"],
        "connect_timeout": "0.000000001s",
        "per_connection_buffer_limit_bytes": 0,
        "dns_refresh_rate": "90061.5s",
        "metadata": {"filter_metadata": {"x": {"a": [1, "b", None, {"c": True}]}}},
    }
    assert read(Encoder().encode("1", [cluster])) == by_protobuf([cluster])


@pytest.mark.parametrize(
    "wrong",
    [
        {"name": 5},
        {"no_such_field": "very-secret"},
        {"connect_timeout": "soon"},
        {"load_assignment": "very-secret"},
        {"load_assignment": {"endpoints": {"very-secret": 1}}},
        {"@type": "type.googleapis.com/no.such.Message"},
        {"lb_policy": "BY_WHIM"},
    ],
)
def test_what_is_no_such_message_is_refused_and_nothing_is_said_of_it(wrong: Any) -> None:
    encoder = Encoder()
    front = told(1, set(), set()).clusters["front"]
    before = encoder.encode("1", [front])
    with pytest.raises(Unwritable) as caught:
        encoder.encode("2", [{**front, **wrong}])
    assert str(caught.value) == ""
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__
    assert encoder.encode("1", [front]) == before


def test_a_file_is_read_back_by_the_next_gateway(tmp_path: Path) -> None:
    taken = told(2, set(), {"one"})
    file = xds_file(tmp_path, "rds")
    file.write([taken.routes])
    again = xds_file(tmp_path, "rds")
    assert (again.version, again.resources, again.torn) == (1, [taken.routes], False)
    assert version_of(again.path.read_bytes()) == "1"


def test_of_two_versions_nobody_knows_which_one_runs(tmp_path: Path) -> None:
    file = xds_file(tmp_path, "cds")
    file.write([])
    older = file.path.read_bytes()
    file.write([told(1, set(), set()).clusters["front"]])
    file.path.write_bytes(older)
    again = xds_file(tmp_path, "cds")
    assert (again.version, again.torn) == (2, True)
    file.write([])
    kept = json.loads((tmp_path / "cds.json").read_text())
    (tmp_path / "cds.json").write_text(json.dumps({**kept, "version_info": "1"}))
    assert (again := xds_file(tmp_path, "cds")).torn
    assert again.version == 3, "the next one is new to Envoy whichever it has"


@pytest.mark.parametrize("left", [b"", b"no protobuf", None])
def test_what_a_power_cut_left_is_written_anew_before_envoy_starts(
    tmp_path: Path, left: bytes | None
) -> None:
    front = told(1, set(), set()).clusters["front"]
    file = xds_file(tmp_path, "cds")
    file.write([front])
    file.path.unlink() if left is None else file.path.write_bytes(left)
    again = xds_file(tmp_path, "cds")
    again.ensure()
    data = again.path.read_bytes()
    assert (version_of(data), again.torn) == (str(again.version), False)
    assert read(data) == by_protobuf([front])


def test_what_an_older_version_wrote_with_keys_in_it_goes(tmp_path: Path) -> None:
    old = XdsFile(tmp_path / "rds" / "rds.json")
    old.write([])
    xds_file(tmp_path, "rds").ensure()
    assert [path.name for path in (tmp_path / "rds").iterdir()] == ["rds.pb"]
