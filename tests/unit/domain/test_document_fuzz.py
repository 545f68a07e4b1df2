"""Documents of the store, any that there may be: what is written reads back, what is read can be written again."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, strategies as st

from fairlead.domain.catalog import Catalog, Kill, Line, Pin, Revision, Service
from fairlead.domain.catalog_file import KeptServices, catalog_from_bytes, catalog_to_bytes
from fairlead.domain.errors import FairleadError, InvalidInput
from fairlead.domain.golden import difference, golden_from_bytes
from fairlead.domain.ids import ArtifactRef, LineId, RevisionId
from fairlead.domain.keys import EVERYTHING, KeyRecord, Scope, Verb
from fairlead.domain.manifest import Manifest, ManifestFile, manifest_from_bytes, manifest_to_bytes
from fairlead.domain.release import EndpointSpec, TrafficShare
from fairlead.domain.signature import (
    DataType,
    DocumentSignature,
    Signature,
    TensorSignature,
    TensorSpec,
    element_schema,
)
from fairlead.domain.status import gateway_status_from_bytes, node_status_from_bytes
from fairlead.domain.versions import natural_key, split_version, version_key
from support.effort import effort

TEXT = st.text(["a", "b", ".", "\\", '"', "\n", "\0", "é", "😀"], max_size=4)
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=8,
)
# What a store may hold once somebody else has written to it: half characters, NaN, numbers without end.
ODD = st.recursive(
    JSON | st.floats() | st.text(max_size=4) | st.sampled_from(["\ud800", 10**400, -(10**400)]),
    lambda inner: (
        st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=4), inner, max_size=2)
    ),
    max_leaves=4,
)
pytestmark = pytest.mark.timeout(60)  # generating is slow on a busy machine

NAMES = st.sampled_from(["a", "s-1", "v9", "v10", "0", "speech", "x" * 63])
HEX = st.binary(min_size=32, max_size=32).map(bytes.hex)
SCOPES = st.builds(Scope, NAMES, NAMES | st.just(""), st.sampled_from(["", *Verb])) | st.just(
    EVERYTHING
)
REFS = st.builds(
    ArtifactRef,
    st.sampled_from(["a", "A_b.c-d", "9", "x" * 128]),
    st.integers(1, 10**18 - 1),
)
SPECS = st.builds(
    TensorSpec,
    TEXT,
    st.sampled_from(DataType),
    st.lists(st.integers(-1, 2**40), max_size=4).map(tuple),
)
SIGNATURES: st.SearchStrategy[Signature] = st.builds(
    TensorSignature, st.lists(SPECS, max_size=3).map(tuple), st.lists(SPECS, max_size=3).map(tuple)
) | st.builds(
    DocumentSignature,
    st.dictionaries(TEXT, JSON, max_size=3),
    st.dictionaries(TEXT, JSON, max_size=3),
)


@st.composite
def manifests(draw: st.DrawFn) -> Manifest:
    paths = draw(
        st.lists(
            st.sampled_from(["model.py", "a/b.json", "é.onnx", "a/c", "golden.json"]),
            min_size=1,
            unique=True,
        )
    )
    golden = draw(st.sampled_from(paths))
    files = [
        ManifestFile(path, draw(st.integers(0, 2**26 if path == golden else 2**60)), draw(HEX))
        for path in paths
    ]
    return Manifest(
        draw(REFS),
        draw(st.sampled_from(["onnx", "python"])),
        draw(st.sampled_from(paths)),
        tuple(sorted(files, key=lambda file: file.path)),
        draw(SIGNATURES),
        golden,
        draw(st.dictionaries(TEXT, JSON, max_size=3)),
    )


@st.composite
def revisions(draw: st.DrawFn, line: LineId, tag: str) -> Revision:
    names = draw(st.lists(NAMES, min_size=1, max_size=3, unique=True))
    endpoints = (
        EndpointSpec(
            name,
            draw(st.integers(0, 9)),
            draw(st.sampled_from([0, 9])),
            draw(st.integers(0, 1000)),
            tuple(f"/{name}/{tail}" for tail in draw(st.sets(st.sampled_from("ab")))),
            {"limits": {"cpu": draw(st.integers(0, 9) | st.just("500m"))}},
        )
        for name in sorted(names)
    )
    identity = RevisionId(line.service, line.line, tag)
    digest = f"sha256:{draw(HEX)}"
    return Revision(
        identity,
        draw(REFS),
        digest,
        tuple(endpoints),
        draw(TEXT),
        draw(st.floats(0, 1e12)),
        legacy_key=draw(st.booleans()),
    )


@st.composite
def catalogs(draw: st.DrawFn) -> Catalog:
    services = {}
    for name in draw(st.lists(NAMES, max_size=3, unique=True)):
        lines = {}
        for line in draw(st.lists(NAMES, min_size=1, max_size=2, unique=True)):
            identity = LineId(name, line)
            tags = draw(st.lists(NAMES, min_size=1, max_size=2, unique=True))
            traffic = (TrafficShare(tags[0], 100),) if draw(st.booleans()) else ()
            those = {tag: draw(revisions(identity, tag)) for tag in tags}
            lines[line] = Line(identity, those, traffic)
        kill = draw(st.none() | st.builds(Kill, TEXT.filter(bool), st.floats(0, 1e12)))
        services[name] = Service(name, lines, Pin(next(iter(lines)), draw(st.booleans())), kill)
    keys = {
        client: KeyRecord(
            client, tuple(draw(st.lists(SCOPES, min_size=1, max_size=2))), 1.0, draw(TEXT)
        )
        for client in draw(st.lists(TEXT.filter(bool), max_size=2, unique=True))
    }
    return Catalog(draw(st.integers(0, 10**9)), services, keys)


@given(manifests())
def test_any_manifest_reads_back_with_its_digest(manifest: Manifest) -> None:
    again = manifest_from_bytes(manifest_to_bytes(manifest))
    assert again == manifest
    assert again.digest == manifest.digest


@effort(25)
@given(catalogs())
def test_any_catalog_reads_back(catalog: Catalog) -> None:
    data = catalog_to_bytes(catalog)
    assert catalog_from_bytes(data) == catalog
    assert catalog_to_bytes(catalog_from_bytes(data)) == data


@effort(15)
@given(st.data())
def test_catalog_after_catalog_is_read_as_if_each_were_the_first(data: st.DataObject) -> None:
    some, others = data.draw(catalogs()), data.draw(catalogs())
    mixed = replace(some, services={**others.services, **some.services})
    kept: KeptServices = {}
    last = Catalog()
    for catalog in data.draw(st.lists(st.sampled_from([some, others, mixed]), max_size=4)):
        found = catalog_from_bytes(catalog_to_bytes(catalog), kept=kept)
        assert found == catalog
        for name, service in found.services.items():
            before = last.services.get(name)
            assert service is before or service != before
        last = found


def test_what_was_damaged_is_refused_again_however_often_it_is_read() -> None:
    found = Catalog(1, {"s": Service("s", {}, Pin("v1", by_hand=False), None)})
    kept: KeptServices = {}
    good = catalog_to_bytes(found)
    bad = good.replace(b'"line": "v1"', b'"line": 5')
    for _ in range(2):
        assert catalog_from_bytes(good, kept=kept) == found
        with pytest.raises(FairleadError, match=r"services\.s\.pin\.line"):
            catalog_from_bytes(bad, kept=kept)


def changed(draw: st.DrawFn, value: Any) -> Any:
    """One value anywhere in a document, by any other."""
    keys = (
        list(value)
        if isinstance(value, dict)
        else list(range(len(value)))
        if isinstance(value, list)
        else []
    )
    if not keys or draw(st.integers(0, 3)) == 0:
        return draw(ODD)
    key = draw(st.sampled_from(keys))
    value[key] = changed(draw, value[key])
    return value


@st.composite
def odd_bytes(draw: st.DrawFn, documents: st.SearchStrategy[bytes]) -> bytes:
    document = changed(draw, json.loads(draw(documents)))
    return json.dumps(document, ensure_ascii=draw(st.booleans())).encode(errors="surrogatepass")


@effort(40)
@given(odd_bytes(manifests().map(manifest_to_bytes)) | st.binary(max_size=40))
def test_any_bytes_are_a_manifest_that_can_be_written_or_an_error_in_words(data: bytes) -> None:
    try:
        manifest = manifest_from_bytes(data)
    except FairleadError as error:
        assert str(error)
    else:
        assert manifest_from_bytes(manifest_to_bytes(manifest)) == manifest


@effort(40)
@given(odd_bytes(catalogs().map(catalog_to_bytes)) | st.binary(max_size=40))
def test_any_bytes_are_a_catalog_that_can_be_written_or_an_error_in_words(data: bytes) -> None:
    try:
        catalog = catalog_from_bytes(data)
    except FairleadError as error:
        assert str(error)
    else:
        assert catalog_from_bytes(catalog_to_bytes(catalog)) == catalog


@given(ODD.map(json.dumps).map(str.encode) | st.binary(max_size=40))
def test_any_bytes_are_a_status_or_golden_examples_or_an_error_in_words(data: bytes) -> None:
    for read in (node_status_from_bytes, gateway_status_from_bytes, golden_from_bytes):
        with pytest.raises(FairleadError):
            read(data)


@given(ODD, ODD)
def test_any_two_answers_are_compared(expected: Any, actual: Any) -> None:
    said = difference(expected, actual, {"": 0.5})
    assert said is None or said
    assert difference(expected, expected, {}) is None


@pytest.mark.parametrize(
    "data", [b'{"schema": 1, "services": {}, "keys": {}, "z": "\\ud800"}', b"[" * 10**5]
)
def test_what_could_not_be_written_again_is_refused(data: bytes) -> None:
    with pytest.raises(InvalidInput):
        catalog_from_bytes(data)


@given(
    st.text("v0123456789.-\u0663\u00b2", max_size=12)
    | st.integers(1, 6000).map(lambda size: "9" * size)
)
def test_any_word_has_a_place_among_versions(word: str) -> None:
    assert natural_key(word) == natural_key(word)
    assert version_key(word) == version_key(word)
    line, revision = split_version(word)
    assert word == (line if revision is None else f"{line}.{revision}")


@pytest.mark.parametrize("datatype", list(DataType))
def test_every_type_of_element_has_a_schema(datatype: DataType) -> None:
    schema = element_schema(datatype)
    assert schema["type"] in ("boolean", "integer", "number", "string")
    if schema["type"] == "integer":
        span = schema["maximum"] - schema["minimum"] + 1
        assert span == 2 ** int(datatype.lstrip("UINT"))
