"""The keys' secrets: in a file only its owner may read."""

from __future__ import annotations

import json
import stat
from pathlib import Path

import pytest

from fairlead.adapters.memory.secrets import MemorySecrets
from fairlead.adapters.secrets import SecretsFile
from fairlead.control.keys import Secrets
from fairlead.domain.errors import FairleadError
from fairlead.domain.ports import OldSecret


@pytest.fixture(params=["file", "memory"])
def secrets(request: pytest.FixtureRequest, tmp_path: Path) -> Secrets:
    return SecretsFile(tmp_path / "keys.json") if request.param == "file" else MemorySecrets()


def test_secrets_are_kept_replaced_and_removed(secrets: Secrets) -> None:
    assert secrets.read() == {}
    secrets.put("a", "one")
    secrets.put("b", "two")
    secrets.put("a", "three")
    assert secrets.read() == {"a": "three", "b": "two"}
    secrets.remove("a")
    secrets.remove("a")
    assert secrets.read() == {"b": "two"}


def test_old_secrets_are_kept_until_the_client_gets_others(secrets: Secrets) -> None:
    old = (OldSecret("zero", 5.0), OldSecret("half", 9.5))
    secrets.put("a", "one", old)
    secrets.put("b", "two", (OldSecret("b0", 1.0),))
    assert secrets.old("a") == old
    assert secrets.read() == {"a": "one", "b": "two"}
    secrets.put("b", "three")
    assert secrets.old("b") == ()
    secrets.remove("a")
    assert (secrets.old("a"), secrets.read()) == ((), {"b": "three"})


def test_a_file_from_before_secrets_could_overlap_is_read_and_renewed(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    path.write_text('{"schema": 1, "keys": {"a": "one"}}')
    secrets = SecretsFile(path)
    assert (secrets.read(), secrets.old("a")) == ({"a": "one"}, ())
    secrets.put("b", "two")
    assert json.loads(path.read_bytes())["schema"] == 2
    assert secrets.read() == {"a": "one", "b": "two"}


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "[]",
        '{"schema": 2}',
        '{"schema": 2, "keys": []}',
        '{"schema": 2, "keys": {}, "old": [{"secret": "s3cret"}]}',
    ],
)
def test_a_damaged_file_is_told_without_its_content(tmp_path: Path, text: str) -> None:
    path = tmp_path / "keys.json"
    path.write_text(text)
    for act in (SecretsFile(path).read, lambda: SecretsFile(path).put("a", "one")):
        with pytest.raises(FairleadError) as caught:
            act()
        assert "s3cret" not in str(caught.value)
    assert path.read_text() == text


def test_nobody_else_may_read_the_file(tmp_path: Path) -> None:
    path = tmp_path / "gateway" / "keys.json"
    SecretsFile(path).put("a", "one")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_file_of_a_newer_version_is_refused(tmp_path: Path) -> None:
    (tmp_path / "keys.json").write_text(json.dumps({"schema": 9}))
    with pytest.raises(FairleadError, match="newer Fairlead"):
        SecretsFile(tmp_path / "keys.json").put("a", "one")
