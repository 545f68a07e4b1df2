"""The catalog in an object store: `catalog/<generation>-<writer>.json`, never changed, and a tiny `catalog/head`.

A commit writes the next generation under a name of its own, then moves the head by compare-and-swap. Two
writers of the same generation therefore never touch each other's bytes; the one that loses removes its file.
"""

from __future__ import annotations

import bisect
import contextlib
import json
import re
import secrets
from dataclasses import replace

from fairlead.domain.catalog import Catalog
from fairlead.domain.catalog_file import KeptServices, catalog_from_bytes, catalog_to_bytes
from fairlead.domain.errors import FairleadError, InvalidInput, Kind, Problem, StoreConflict
from fairlead.domain.manifest import check_schema
from fairlead.domain.ports import ObjectStore
from fairlead.domain.reading import read_json
from fairlead.kits.clock import Clock, iso

HEAD = "catalog/head"
_FIRST_ENTRY = "audit/00000001.json"  # of the audit, which stays whole
_GENERATION = re.compile(r"catalog/([0-9]{8,})-[0-9a-f]+\.json")
_SCHEMA = 1
KEPT_GENERATIONS = 100  # before the newest: to look back at, and for readers that are slow
_TIDY_EVERY = 16  # commits: a listing costs more than the few generations that wait for it


def _named_by(data: bytes) -> str:
    """The catalog that a head names; raises FairleadError if the head is damaged or of a newer version."""
    try:
        head = read_json(data, HEAD, "restore it: it names the newest catalog/ file")
        check_schema(head, _SCHEMA, HEAD)
        return str(head["catalog"])
    except (KeyError, TypeError) as error:
        problem = Problem(
            "", f"is damaged ({error!r})", "restore it: it names the newest catalog/ file"
        )
        raise InvalidInput(HEAD, [problem]) from None


class StoredCatalogs:
    """The catalog of one store. Keeps the last one read, so that asking again costs one tiny read."""

    def __init__(self, store: ObjectStore, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self._cached: tuple[str, Catalog] | None = None
        self._kept: KeptServices = {}

    def read(self) -> Catalog:
        return self._read()[1]

    def commit(self, catalog: Catalog, message: str) -> Catalog:
        etag, newest = self._read()
        if newest.generation != catalog.generation:
            raise StoreConflict(
                f"the catalog is at generation {newest.generation}, not {catalog.generation}"
            )
        following = replace(catalog, generation=catalog.generation + 1)
        name = f"catalog/{following.generation:08d}-{secrets.token_hex(4)}.json"
        self._store.put(name, catalog_to_bytes(following), if_absent=True)
        head = json.dumps(
            {"schema": _SCHEMA, "generation": following.generation, "catalog": name}
        ).encode()
        try:
            if etag:
                etag = self._store.put(HEAD, head, if_match=etag)
            else:
                etag = self._store.put(HEAD, head, if_absent=True)
        except StoreConflict:
            self._store.delete(name)
            raise
        self._cached = (etag, following)
        entry = {
            "schema": _SCHEMA,
            "generation": following.generation,
            "at": iso(self._clock.now()),
            "what": message,
        }
        self._store.put(
            f"audit/{following.generation:08d}.json", json.dumps(entry, ensure_ascii=False).encode()
        )
        if following.generation % _TIDY_EVERY == 0:
            self._tidy(following.generation)
        return following

    def at(self, moment: str) -> Catalog | None:
        """The newest catalog that was committed by then (`kits.clock.iso`); None if the store cannot tell.

        A handful of small reads, however many generations there are.
        """
        entries = [one.key for one in self._store.list("audit/")]
        after = bisect.bisect_right(entries, moment, key=self._committed_at)
        if after == 0:
            return None
        generation = entries[after - 1].removeprefix("audit/").removesuffix(".json")
        names = [one.key for one in self._store.list(f"catalog/{generation}-")]
        if (
            len(names) != 1
        ):  # a writer died between its file and the head: nothing says which was meant
            return None
        return catalog_from_bytes(self._store.get(names[0])[0], names[0])

    def _committed_at(self, entry: str) -> str:
        return str(json.loads(self._store.get(entry)[0])["at"])

    def _tidy(self, newest: int) -> None:
        """Remove old generations: each holds every revision there ever was, so together they grow as a square.

        The audit stays whole. What cannot be removed now stays for the next time: the commit stands.
        """
        with contextlib.suppress(FairleadError, OSError):
            for meta in list(self._store.list("catalog/")):
                found = _GENERATION.fullmatch(meta.key)
                if found and int(found[1]) < newest - KEPT_GENERATIONS:
                    self._store.delete(meta.key)

    def _read(self) -> tuple[str, Catalog]:
        found = self._head()
        # Where something was ever committed the audit still says so: a catalog made anew beside it would be without
        # every key, split and switch, and nobody would have been told.
        if found is None and (self._cached or self._store.size(_FIRST_ENTRY) is not None):
            found = self._head()  # somebody may just have committed for the first time
            if found is None:
                gone = f"{HEAD} was there and is gone: restore the store, or remove audit/ too to begin anew"
                raise FairleadError(gone, kind=Kind.UNAVAILABLE)
        if found is None:
            return "", Catalog()
        data, etag = found
        if self._cached is not None and self._cached[0] == etag:
            return self._cached
        name = _named_by(data)
        catalog = catalog_from_bytes(self._store.get(name)[0], name, self._kept)
        self._cached = (etag, catalog)
        return self._cached

    def _head(self) -> tuple[bytes, str] | None:
        """What names the newest catalog, and its etag; None if it is not there."""
        try:
            return self._store.get(HEAD)
        except FairleadError as error:
            if error.kind is not Kind.NOT_FOUND:
                raise
            return None
