"""Keys by command: what the catalog learns of them, what the secrets' file keeps, what is refused."""

from __future__ import annotations

from dataclasses import replace

import pytest

from fairlead.adapters.memory.secrets import MemorySecrets
from fairlead.adapters.memory.store import MemoryObjectStore
from fairlead.adapters.store.catalogs import StoredCatalogs
from fairlead.control.keys import Keys
from fairlead.domain.errors import Refused
from fairlead.domain.keys import EVERYTHING, Quota, Rate, Scope
from fairlead.domain.ports import OldSecret
from fairlead.kits.clock import FakeClock
from support.gateway import catalog, revision


class Desk:
    """Keys over a store in memory, with a service `speech` that has a line `v9`."""

    def __init__(self) -> None:
        self.store, self.clock, self.secrets = MemoryObjectStore(), FakeClock(), MemorySecrets()
        self.catalogs = StoredCatalogs(self.store, self.clock)
        self.keys = Keys(self.catalogs, self.secrets, self.clock)
        there = catalog(
            revision("speech/v9.1"),
            traffic={"speech/v9": {"1": 100}},
            pins={"speech": "v9"},
            keys={},
        )
        self.catalogs.commit(replace(there, generation=0), "test")


@pytest.fixture
def desk() -> Desk:
    return Desk()


def test_a_secret_is_kept_beside_the_catalog_and_never_in_it(desk: Desk) -> None:
    secret = desk.keys.create("demo")
    again = desk.keys.rotate("demo", 60.0)
    assert desk.secrets.read() == {"demo": again}
    assert desk.catalogs.read().key("demo").allow == (EVERYTHING,)
    assert len(secret) >= 43
    for kept in desk.store.list(""):
        assert secret.encode() not in desk.store.get(kept.key)[0]
        assert again.encode() not in desk.store.get(kept.key)[0]


def test_rotating_replaces_the_secret_and_revoking_removes_all(desk: Desk) -> None:
    first = desk.keys.create("demo")
    fingerprint = desk.catalogs.read().key("demo").fingerprint
    second = desk.keys.rotate("demo")
    assert desk.secrets.read() == {"demo": second} != {"demo": first}
    assert desk.secrets.old("demo") == ()
    assert desk.catalogs.read().key("demo").fingerprint != fingerprint
    desk.keys.rotate("demo", 60.0)
    desk.keys.revoke("demo")
    assert desk.secrets.read() == {}
    assert desk.secrets.old("demo") == ()
    assert desk.catalogs.read().keys == {}


def test_with_an_overlap_every_old_secret_keeps_its_own_time(desk: Desk) -> None:
    secrets = [desk.keys.create("demo"), desk.keys.rotate("demo", 100.0)]
    now = desk.clock.now()
    fingerprints = [desk.catalogs.read().key("demo").retiring[0].fingerprint]
    desk.clock.advance(10.0)
    desk.keys.rotate("demo", 20.0)
    assert desk.secrets.old("demo") == (
        OldSecret(secrets[0], now + 100.0),
        OldSecret(secrets[1], now + 30.0),
    )
    retiring = desk.catalogs.read().key("demo").retiring
    assert retiring[0].fingerprint == fingerprints[0]
    assert [one.until - now for one in retiring] == [100.0, 30.0]
    desk.clock.advance(50.0)
    desk.keys.rotate("demo", 10.0)
    assert [one.until - now for one in desk.secrets.old("demo")] == [100.0, 70.0]
    desk.keys.rotate("demo")
    assert desk.secrets.old("demo") == ()
    assert desk.catalogs.read().key("demo").retiring == ()


def test_kill_scope_and_quota_leave_the_secret_and_each_other_alone(desk: Desk) -> None:
    secret = desk.keys.create("app", (Scope("speech"),), Quota(concurrency=4))
    rate = Rate(100, 1, 200)
    assert desk.keys.limit("app", lambda quota: replace(quota, rate=rate)) == Quota(rate, 4)
    desk.keys.kill("app", "  too loud ")
    desk.keys.allow("app", (Scope("speech", "v9", "infer"), Scope("*", verb="read")))
    desk.keys.rotate("app", 60.0)
    key = desk.catalogs.read().key("app")
    assert (key.killed, key.quota) == ("too loud", Quota(rate, 4))
    assert key.allow == (Scope("speech", "v9", "infer"), Scope("*", verb="read"))
    assert desk.secrets.old("app")[0].secret == secret
    desk.keys.revive("app")
    assert desk.catalogs.read().key("app").killed == ""


@pytest.mark.parametrize(
    ("told", "wrong"),
    [
        ("a key 'demo' already", lambda keys: keys.create("demo")),
        ("no key's name", lambda keys: keys.create("a b")),
        ("no service 'nobody'", lambda keys: keys.create("x", (Scope("nobody"),))),
        ("no line 'v1'; lines: v9", lambda keys: keys.create("x", (Scope("speech", "v1"),))),
        ("no line 'v1'", lambda keys: keys.allow("demo", (Scope("speech", "v1"),))),
        ("no key 'other'; keys: demo", lambda keys: keys.allow("other", (EVERYTHING,))),
        ("no key 'other'; keys: demo", lambda keys: keys.rotate("other")),
        ("no key 'other'; keys: demo", lambda keys: keys.revoke("other")),
        ("no key 'other'; keys: demo", lambda keys: keys.kill("other", "m")),
        ("no key 'other'; keys: demo", lambda keys: keys.limit("other", lambda quota: quota)),
        ("write one line", lambda keys: keys.kill("demo", "  ")),
        ("write one line", lambda keys: keys.kill("demo", "two\nlines")),
    ],
)
def test_what_cannot_be_is_refused_and_changes_nothing(
    desk: Desk, told: str, wrong: object
) -> None:
    assert callable(wrong)
    desk.keys.create("demo")
    before, secrets = desk.catalogs.read(), desk.secrets.read()
    with pytest.raises(Refused, match=told):
        wrong(desk.keys)
    assert desk.catalogs.read() == before
    assert desk.secrets.read() == secrets
