"""The manifest: every file of an artifact with size and SHA-256, its signature and golden examples.

The manifest's own SHA-256, over its canonical JSON, is the artifact's digest: it fixes every byte.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from fairlead.domain.batching import Batching, batching_from_json, batching_to_json
from fairlead.domain.errors import FairleadError, InvalidInput, Kind, Problem
from fairlead.domain.ids import ARTIFACT_NAME, MOST_VERSIONS, ArtifactRef
from fairlead.domain.reading import Node, read_json, shown
from fairlead.domain.signature import Signature, signature_from_json, signature_to_json

SCHEMA = 2  # 2: batching; what says nothing of it is written as 1 and keeps its digest
_OLDEST = 1
ENGINES = ("onnx", "python", "speech")
MANIFEST = "manifest.json"  # what an artifact's own manifest is called, wherever the artifact lies
DESCRIPTION = "model.yaml"  # what its author wrote of a model
_SHA256 = re.compile(r"[0-9a-f]{64}")
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
_MAX_PART = 255  # bytes a file system takes for one name
_MAX_FILES = 20_000
_MAX_BYTES = 16 << 20  # of a manifest
_MAX_GOLDEN_BYTES = 64 << 20  # they are read as a whole, again and again
_MAX_PATH = 512  # characters: far below every file system's limit


@dataclass(frozen=True, slots=True)
class ManifestFile:
    """One file: its path inside the artifact (posix, relative), size in bytes and SHA-256 in hex."""

    path: str
    size: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Manifest:
    """What an artifact is. `entry` is the file the engine opens, `golden` the file of golden examples.

    `labels` are the names of an output's elements, by output: what the highest of them stands for.
    """

    ref: ArtifactRef
    engine: str
    entry: str
    files: tuple[ManifestFile, ...]
    signature: Signature
    golden: str
    bio: Mapping[str, Any] = field(default_factory=dict)
    batching: Batching = field(default_factory=Batching)
    labels: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    @property
    def size(self) -> int:
        """Bytes of all files together."""
        return sum(file.size for file in self.files)

    @property
    def digest(self) -> str:
        """`sha256:<hex>` of the canonical JSON."""
        return "sha256:" + hashlib.sha256(manifest_to_bytes(self)).hexdigest()


def path_problem(path: str) -> str | None:
    """Why this path may not be a file of an artifact; None if it may.

    Refuses whatever could leave the artifact's directory or mean different files on different systems.
    """
    if not path or len(path) > _MAX_PATH:
        return f"is empty or longer than {_MAX_PATH} characters"
    if "\\" in path or _CONTROL.search(path):
        return "holds a backslash or a control character"
    if any(len(part.encode(errors="replace")) > _MAX_PART for part in path.split("/")):
        return f"has a part of more than {_MAX_PART} bytes"
    if path.startswith("/"):
        return "is absolute"
    if any(part in ("", ".", "..") for part in path.split("/")):
        return "has an empty, '.' or '..' part"
    return None


def manifest_to_bytes(manifest: Manifest) -> bytes:
    """Canonical JSON: sorted keys, no spaces, UTF-8."""
    document = {
        "schema": SCHEMA if manifest.batching else _OLDEST,
        "name": manifest.ref.name,
        "version": manifest.ref.version,
        "engine": manifest.engine,
        "entry": manifest.entry,
        "golden": manifest.golden,
        "bio": dict(manifest.bio),
        "signature": signature_to_json(manifest.signature),
        "files": [
            {"path": file.path, "size": file.size, "sha256": file.sha256}
            for file in sorted(manifest.files, key=lambda file: file.path)
        ],
    }
    if manifest.batching:
        document["batching"] = batching_to_json(manifest.batching)
    if manifest.labels:  # only then: manifests without them are the same bytes as ever
        document["labels"] = {name: list(texts) for name, texts in manifest.labels.items()}
    return json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def manifest_from_bytes(data: bytes, source: str = MANIFEST) -> Manifest:
    """Read a manifest from a store that may be damaged or hostile; raises InvalidInput."""
    if len(data) > _MAX_BYTES:
        raise InvalidInput(source, [Problem("", f"has {len(data)} bytes", f"at most {_MAX_BYTES}")])
    document = read_json(data, source, "publish the artifact again")
    node = Node(document)
    required = ["name", "version", "engine", "entry", "golden", "signature", "files"]
    check_schema(document, SCHEMA, source, oldest=_OLDEST)
    node.mapping([*required, "schema", "bio", "batching", "labels"], required)
    files = tuple(_file(child) for child in node.child("files").elements())
    _check_files(node, files)
    bio = node.child("bio").value if node.has("bio") else {}
    manifest = Manifest(
        ref=ArtifactRef(
            node.child("name").text(ARTIFACT_NAME, "write the artifact's name"),
            node.child("version").integer(1, MOST_VERSIONS),
        ),
        engine=node.child("engine").one_of(ENGINES),
        entry=node.child("entry").text(),
        files=files,
        signature=signature_from_json(node.child("signature")),
        golden=node.child("golden").text(),
        bio=bio if isinstance(bio, Mapping) else {},
        batching=batching_from_json(node.child("batching")) if node.has("batching") else Batching(),
        labels={
            name: tuple(text.text() for text in texts.elements())
            for name, texts in node.child("labels").items()
        }
        if node.has("labels")
        else {},
    )
    node.done(source)
    return manifest


def check_schema(document: object, known: int, source: str, oldest: int | None = None) -> None:
    """Refuse a document that a newer Fairlead wrote, before reading anything else of it.

    `oldest` is the first schema that can still be read; without it, only the newest can.
    """
    schema = document.get("schema") if isinstance(document, Mapping) else None
    if isinstance(schema, int) and schema > known:
        raise FairleadError(
            f"{source} was written by a newer Fairlead (schema {schema}, this one reads up to {known}): "
            "use that version, or another directory",
            kind=Kind.CONFLICT,
        )
    if not isinstance(schema, int) or not (oldest or known) <= schema <= known:
        raise InvalidInput(source, [Problem("schema", f"is {schema!r}", f"write {known}")])


def _file(node: Node) -> ManifestFile:
    node.mapping(["path", "size", "sha256"], ["path", "size", "sha256"])
    path = node.child("path").text()
    problem = path_problem(path)
    if problem is not None:
        node.child("path").wrong(problem, "a path inside the artifact, with forward slashes")
    return ManifestFile(
        path, node.child("size").integer(0), node.child("sha256").text(_SHA256, "64 hex digits")
    )


def too_large(files: Sequence[ManifestFile], golden: str) -> list[Problem]:
    """What of an artifact is more than whoever reads it should have to bear."""
    problems = []
    if len(files) > _MAX_FILES:
        problems.append(Problem("files", f"are {len(files)}", f"at most {_MAX_FILES}"))
    size = next((file.size for file in files if file.path == golden), 0)
    if size > _MAX_GOLDEN_BYTES:
        right = f"at most {_MAX_GOLDEN_BYTES}: fewer or smaller examples"
        problems.append(Problem("golden", f"has {size} bytes", right))
    return problems


def _check_files(node: Node, files: tuple[ManifestFile, ...]) -> None:
    paths = [file.path for file in files]
    known = set(paths)
    if len(known) != len(paths):
        node.child("files").wrong("names a path twice", "each file once")
    node.problems.extend(too_large(files, str(node.child("golden").value)))
    if len(files) > _MAX_FILES:
        return
    for path in paths:
        parents = path.split("/")[:-1]
        if any("/".join(parents[: depth + 1]) in known for depth in range(len(parents))):
            node.child("files").wrong(
                f"{path!r} lies under another file", "a file cannot be a directory"
            )
    for key in ("entry", "golden"):
        if node.child(key).value not in paths:  # a value of any kind
            told = shown(node.child(key).value)
            node.child(key).wrong(f"{told} is not among the files", "name one of the files")
