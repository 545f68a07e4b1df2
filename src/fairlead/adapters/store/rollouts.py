"""Rollouts in an object store: `rollouts/<id>/<number>.json`, one immutable object for each entry of the journal."""

from __future__ import annotations

import json

from fairlead.domain.errors import InvalidInput, Kind, Problem, Refused
from fairlead.domain.ports import ObjectStore
from fairlead.domain.rollout import Entry, Record, entry_to_json, is_end, record_from_json

_PREFIX = "rollouts/"


class StoredRollouts:
    """The rollouts of one store."""

    def __init__(self, store: ObjectStore) -> None:
        self._store = store

    def append(self, rollout: str, entry: Entry) -> None:
        data = json.dumps(entry_to_json(entry), indent=1, ensure_ascii=False).encode()
        self._store.put(f"{_PREFIX}{rollout}/{entry.number:04d}.json", data, if_absent=True)

    def ids(self) -> list[str]:
        found = (meta.key.split("/") for meta in self._store.list(_PREFIX))
        return sorted({parts[1] for parts in found if len(parts) == 3})  # noqa: PLR2004 - prefix, id, entry

    def read(self, rollout: str) -> Record:
        sane = rollout.strip(".") and "/" not in rollout
        listed = self._store.list(f"{_PREFIX}{rollout}/") if sane else ()
        documents = [self._document(meta.key) for meta in listed]
        return record_from_json(rollout, documents)

    def unfinished(self) -> list[Record]:
        # Only the last entry tells; those of rollouts that have ended are not read.
        last = {meta.key.split("/")[1]: meta.key for meta in self._store.list(_PREFIX)}
        documents = {name: self._document(key) for name, key in last.items()}
        return [self.read(name) for name, found in documents.items() if not is_end(found)]

    def find(self, text: str) -> Record:
        found = [one for one in self.ids() if one.startswith(text)]
        if len(found) > 1 and text not in found:
            raise Refused(Kind.INVALID, f"{text!r} may mean {', '.join(found)}; write more of it")
        return self.read(found[0] if len(found) == 1 else text)

    def _document(self, key: str) -> object:
        try:
            return json.loads(self._store.get(key)[0])
        except (ValueError, RecursionError) as error:
            problem = Problem("", "is not JSON", f"restore it from a backup ({error})")
            raise InvalidInput(key, [problem]) from None
