"""Identities. A name that has been checked is a type; a bare string is not a name yet.

service -> line -> revision -> endpoint, as a client's call narrows down; an artifact is known
by name and version to people and by digest to machines.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

# A line is a Kubernetes namespace and a DNS component (S0-A), so names are DNS-1123 labels.
NAME = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")
NAME_RULE = "lower-case letters, digits and dashes, at most 63, no dash at either end"
# An artifact may carry the name other registries gave it.
ARTIFACT_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9_.-]{0,127})")
ARTIFACT_NAME_RULE = "letters, digits, '-', '_' and '.', a letter or digit first, at most 128"
MOST_VERSIONS = 10**18 - 1  # of an artifact: what `parse` reads
DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
DEFAULT_ENDPOINT = "predict"
LATEST = "latest"
BUCKETS = 10_000  # that callers are hashed into; a split gives each revision its share of them
PER_PERCENT = BUCKETS // 100


@dataclass(frozen=True, slots=True, order=True)
class LineId:
    """One line of a service: `speech/v9`."""

    service: str
    line: str

    def __str__(self) -> str:
        return f"{self.service}/{self.line}"


@dataclass(frozen=True, slots=True, order=True)
class RevisionId:
    """One immutable revision of a line: `speech/v9.2`."""

    service: str
    line: str
    revision: str

    @property
    def line_id(self) -> LineId:
        return LineId(self.service, self.line)

    @property
    def served_version(self) -> str:
        """What `Accept-Version` takes and `X-Served-Version` says: `v9.2`."""
        return f"{self.line}.{self.revision}"

    def endpoint(self, name: str) -> EndpointId:
        return EndpointId(self.service, self.line, self.revision, name)

    def __str__(self) -> str:
        return f"{self.service}/{self.line}.{self.revision}"


@dataclass(frozen=True, slots=True, order=True)
class EndpointId:
    """One separately scaled way into a revision: `speech/v9.2/stream`."""

    service: str
    line: str
    revision: str
    endpoint: str = DEFAULT_ENDPOINT

    @property
    def revision_id(self) -> RevisionId:
        return RevisionId(self.service, self.line, self.revision)

    def __str__(self) -> str:
        return f"{self.revision_id}/{self.endpoint}"


@dataclass(frozen=True, slots=True, order=True)
class ArtifactRef:
    """An artifact as people name it: `<name>/<int>`."""

    name: str
    version: int

    @classmethod
    def parse(cls, text: str) -> ArtifactRef:
        """Read `<name>/<int>`; raises ValueError with what would be right."""
        name, slash, version = text.partition("/")
        if (
            not slash
            or not ARTIFACT_NAME.fullmatch(name)
            or not re.fullmatch(r"[1-9][0-9]{0,17}", version)
        ):
            raise ValueError(
                "write <name>/<version>, the version a whole number from 1: sentiment/1"
            )
        return cls(name, int(version))

    def __str__(self) -> str:
        return f"{self.name}/{self.version}"
