"""What is served, by name and version: for the routes that tell about it."""

from __future__ import annotations

from collections.abc import Sequence

from fairlead.domain.errors import Kind, Refused
from fairlead.server.http.handlers import Headers
from fairlead.server.http.routes import ByVersion, ServedRevision, in_order


class Shelf:
    """The revisions that are loaded here."""

    def __init__(self, served: Sequence[ServedRevision], *, versioned: bool) -> None:
        self.all = in_order(served)
        self._by_name: dict[str, ByVersion[ServedRevision]] = {}
        self._by_artifact: dict[tuple[str, str], ServedRevision] = {}
        self._artifact_versions: dict[str, set[int]] = {}
        for one in self.all:
            name, version = one.revision.service, one.artifact.manifest.ref.version
            self._by_name.setdefault(name, ByVersion()).put(one, one, versioned=versioned)
            self._by_artifact[name, str(version)] = one
            self._artifact_versions.setdefault(name, set()).add(version)

    def find(self, headers: Headers, name: str, version: str | None = None) -> ServedRevision:
        """Raises Refused (NOT_FOUND) with what there is."""
        if name not in self._by_name:
            known = ", ".join(self._by_name) or "none is loaded"
            # Clients of this protocol look for these words.
            message = f"Request for unknown model: {name!r:.80} is not found; models: {known}"
            raise Refused(Kind.NOT_FOUND, message)
        if version is None:
            return self._by_name[name].choose(headers)
        found = self._by_artifact.get((name, version))
        if found is None:
            known = ", ".join(map(str, self.versions(name)))
            raise Refused(
                Kind.NOT_FOUND, f"{name} has no version {version!r:.80} here; versions: {known}"
            )
        return found

    def named(self, name: str) -> list[ServedRevision]:
        """Every revision of a service; raises Refused (NOT_FOUND) if there is none."""
        if name not in self._by_name:
            self.find({}, name)
        return [one for one in self.all if one.revision.service == name]

    def versions(self, name: str) -> list[int]:
        return sorted(self._artifact_versions[name])
