"""Release files as people write them, right and nearly right: what `validate` takes, `plan` and `apply` take.

The files go through the same reader as the command's; the store is the one in memory.
"""

from __future__ import annotations

import copy
import functools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import xxhash
import yaml
from hypothesis import HealthCheck, given, strategies as st

from fairlead.adapters.memory.artifacts import MemoryArtifacts
from fairlead.adapters.memory.store import MemoryObjectStore
from fairlead.adapters.store.catalogs import StoredCatalogs
from fairlead.control import releases
from fairlead.control.releases import SourcedRelease
from fairlead.domain.catalog import with_key
from fairlead.domain.errors import FairleadError, InvalidInput
from fairlead.domain.keys import EVERYTHING, KeyRecord
from fairlead.domain.routing import Ask, Forward, route
from fairlead.domain.table import RoutingTable, table_from
from fairlead.kits.clock import FakeClock
from fairlead.wiring.homes import read_releases
from support.effort import effort

pytestmark = pytest.mark.timeout(60)  # generating is slow on a busy machine

LINES = st.sampled_from(["v1", "v9", "v10", "beta-2", "0"])
VERSIONS = ["1", "2", "10", "a", "2-1"]
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(["latest", "", "1", "A", "-", "a" * 64, "speech/1", "/x", "\ud800", "\0", 10**70])
)  # fmt: skip
KEYS = st.text(max_size=4) | st.sampled_from(["tag", "percent", "paths", "requests", "minScale"])
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(KEYS, inner, max_size=2),
    max_leaves=5,
)
QUANTITIES = st.integers(0, 64) | st.sampled_from(["500m", "1Gi", "0.5", "2", 1.5])
RESOURCES = st.dictionaries(
    st.sampled_from(["requests", "limits"]),
    st.dictionaries(st.sampled_from(["cpu", "memory", "nvidia.com/gpu"]), QUANTITIES),
)


@st.composite
def endpoints(draw: st.DrawFn, service: str) -> dict[str, Any]:
    """A release's endpoints; every path is its own, as (path, line) pairs belong to one service."""
    found = {}
    for name in draw(st.lists(st.sampled_from(["predict", "stream", "x-1"]), unique=True)):
        least = draw(st.integers(0, 3))
        one: dict[str, Any] = {
            "minScale": least,
            "maxScale": draw(st.sampled_from([0, max(least, 1), 9])),
            "concurrency": draw(st.integers(0, 1000)),
            "paths": [f"/{service}/{name}/{tail}" for tail in draw(st.sets(st.sampled_from("ab~")))],
            "resources": draw(RESOURCES),
        }  # fmt: skip
        found[name] = {key: one[key] for key in draw(st.sets(st.sampled_from(sorted(one))))}
    return found


@st.composite
def line_of_files(draw: st.DrawFn, service: str, line: str) -> list[dict[str, Any]]:
    """Files for some revisions of one line, oldest first; a split names only what stands before it."""
    found: list[dict[str, Any]] = []
    tags: list[str] = []
    for version in VERSIONS[: draw(st.integers(1, 4))]:
        document: dict[str, Any] = {
            "service": service,
            "model": line,
            "version": version,
            "artifact": f"{service}/{draw(st.integers(1, 10**18 - 1))}",
        }
        tags.append(version)
        if draw(st.booleans()):
            document["endpoints"] = draw(endpoints(service))
        if draw(st.booleans()):
            cut = draw(st.integers(0, 100))
            named = dict(zip(tags[-2:], (cut, 100 - cut), strict=False))
            if len(tags) == 1:
                named = {version: 100}
            document["traffic"] = [{"tag": tag, "percent": p} for tag, p in named.items()]
        if draw(st.booleans()):
            document["provideApiKeyAuthForLegacyContainerSupport"] = "true"
        found.append(document)
    return found


@st.composite
def right(draw: st.DrawFn) -> list[dict[str, Any]]:
    services = draw(st.lists(st.sampled_from(["speech", "s", "0-0"]), min_size=1, unique=True))
    files = [
        document
        for service in services
        for line in draw(st.lists(LINES, min_size=1, max_size=2, unique=True))
        for document in draw(line_of_files(service, line))
    ]
    return list(draw(st.permutations(files)))


def places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Every (container, key) in a document."""
    keys = (
        value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    )
    for key in list(keys):
        yield value, key
        yield from places(value[key])


@st.composite
def nearly_right(draw: st.DrawFn) -> list[dict[str, Any]]:
    files = copy.deepcopy(draw(right()))
    for _ in range(draw(st.integers(1, 3))):
        container, key = draw(st.sampled_from(list(places(files))))
        match draw(st.integers(0, 3)):
            case 0 if isinstance(container, dict):
                container[draw(KEYS)] = draw(VALUES)
            case 1 if len(container) > 1:
                del container[key]
            case 2 if isinstance(container, list):
                container.append(copy.deepcopy(container[key]))
            case _:
                container[key] = draw(VALUES)
    return files


@st.composite
def written(draw: st.DrawFn, documents: st.SearchStrategy[list[Any]]) -> list[tuple[str, bytes]]:
    """The documents as files, JSON or YAML."""
    found = []
    for number, document in enumerate(draw(documents)):
        if draw(st.booleans()):
            found.append((f"{number}.json", json.dumps(document).encode()))
        else:
            style = draw(st.sampled_from([None, True, False]))
            text = yaml.safe_dump(document, default_flow_style=style, allow_unicode=True)
            found.append((f"{number}.yaml", text.encode(errors="surrogatepass")))
    return found


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("files")


def accepted(directory: Path, files: list[tuple[str, bytes]]) -> list[SourcedRelease]:
    """What `validate` takes; of the others, that they are refused by name and place."""
    found = []
    for name, data in files:
        path = directory / name
        path.write_bytes(data)
        try:
            found += read_releases([path])
        except InvalidInput as error:
            lines = str(error).splitlines()
            assert lines
            assert all(line.startswith(f"{path}: ") for line in lines)
            assert all(problem.wrong for problem in error.problems)
            str(error).encode()  # it can be printed, and kept in a status
    return found


def check_applied(catalogs: StoredCatalogs, wanted: list[SourcedRelease]) -> None:
    """Nothing is left to do, and every revision with a share or a name is found by the resolver."""
    catalog = catalogs.read()
    again = releases.plan(catalog, wanted, releases.manifests_of(MemoryArtifacts(), wanted), 1.0)
    assert again.changes == ()
    catalog = with_key(catalog, KeyRecord("me", (EVERYTHING,), 0.0, ""))
    table = table_from(catalog, catalog.live(), {}, RoutingTable())
    for one in wanted:
        identity = one.release.revision_id
        if identity not in catalog.live():
            continue  # a newer file's traffic does not name it
        for endpoint in one.release.endpoints:
            predict = f"/v1/model/{identity.service}/predict"
            paths = [predict] if endpoint.name == "predict" else []
            for path in (*paths, *endpoint.paths):
                ask = Ask("POST", path, "me", identity.served_version, None)
                found = route(table, ask, xxhash.xxh64_intdigest)
                assert isinstance(found, Forward)
                assert found.endpoint.revision_id == identity
                assert found.endpoint.endpoint == endpoint.name


def new_catalogs() -> StoredCatalogs:
    return StoredCatalogs(MemoryObjectStore(), FakeClock())


checks = functools.partial(effort, suppress_health_check=[HealthCheck.too_slow])


@checks(30)
@given(files=written(right()))
def test_right_files_are_taken_by_validate_plan_and_apply(
    directory: Path, files: list[tuple[str, bytes]]
) -> None:
    wanted = accepted(directory, files)
    assert len(wanted) == len(files)
    catalogs = new_catalogs()
    plan, after = releases.apply(catalogs, MemoryArtifacts(), FakeClock(), wanted)
    assert plan.changes
    assert plan.catalog.services == after.services
    check_applied(catalogs, wanted)


@checks(40)
@given(files=written(nearly_right()))
def test_nearly_right_files_are_refused_in_words_or_applied_whole(
    directory: Path, files: list[tuple[str, bytes]]
) -> None:
    wanted = accepted(directory, files)
    catalogs = new_catalogs()
    before = catalogs.read()
    try:
        releases.apply(catalogs, MemoryArtifacts(), FakeClock(), wanted)
    except InvalidInput as error:
        # What only the whole of it shows: a revision that is not there, that is there already, a path taken.
        assert all(
            problem.where.split(".")[0]
            in ("service", "artifact", "traffic", "version", "endpoints")
            for problem in error.problems
        )
        assert error.source
        assert catalogs.read() == before
    else:
        if len({one.release.revision_id for one in wanted}) == len(wanted):
            check_applied(catalogs, wanted)


@checks(40)
@given(data=st.binary(max_size=60), name=st.sampled_from(["a.json", "a.yaml", "a.yml", "a.txt"]))
def test_any_bytes_are_a_release_file_or_refused_by_name(
    directory: Path, data: bytes, name: str
) -> None:
    assert accepted(directory, [(name, data)]) == []


@pytest.mark.parametrize(
    ("name", "text", "told"),
    [
        ("a.json", '{"model": "v1", "version": %s}' % ("9" * 5000), "a number of 5000 digits"),
        ("a.json", '{"model": "v1", "version": NaN}', "NaN, which is no number"),
        ("a.json", '{"env": "\\ud800"}', "half a character"),
        ("a.yaml", "version: 2001-13-45", "line 1: timestamp is no kind of value here"),
        ("a.yaml", "version: !!int x", "line 1: 'x' is no int"),
        ("a.yaml", "version: !!bool x", "line 1: 'x' is no bool"),
        ("a.yaml", "version: !!binary x", "line 1: binary is no kind of value"),
        ("a.yaml", "version: 0x" + "f" * 5000, "a number of very many digits"),
        ("a.yaml", "on: 1", "key true is not text; put it in quotes"),
        ("a.yaml", "{resources: {requests: {cpu: .nan}}}", "unknown key"),
        ("a.yaml", "stream: {resources: {requests: {cpu: .nan}}}", "stream.resources.requests.cpu: is nan"),
        ("a.yaml", "stream: {resources: {requests: {cpu: [1]}}}", "stream.resources.requests.cpu: is a list"),
        ("a.yaml", "stream: {resources: {requests: {'': 1}}}", "is no resource's name"),
        ("a.yaml", "stream: {resources: {limits: 3}}", "stream.resources.limits: is 3; write an object"),
        ("a.yaml", "stream: {resources: {limits: {cpu: 1.0e+300}}}", "write a quantity"),
        ("a.yaml", "stream: {paths: [/v2/models/x]}", "stream.paths: /v2/models/x is a path of Fairlead's own"),
        ("a.yaml", "stream: {paths: [/livez]}", "stream.paths: /livez is a path of Fairlead's own"),
    ],
)  # fmt: skip
def test_what_used_to_come_out_as_a_traceback_is_told(
    tmp_path: Path, name: str, text: str, told: str
) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(InvalidInput) as caught:
        read_releases([tmp_path / name])
    assert told in str(caught.value)


def test_a_file_of_very_many_keys_is_read_in_no_time(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text("\n".join(f"k{number}: 1" for number in range(8_000)))
    with pytest.raises(FairleadError, match="unknown key"):
        read_releases([path])
