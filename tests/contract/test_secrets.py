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


def test_nobody_else_may_read_the_file(tmp_path: Path) -> None:
    path = tmp_path / "gateway" / "keys.json"
    SecretsFile(path).put("a", "one")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_file_of_a_newer_version_is_refused(tmp_path: Path) -> None:
    (tmp_path / "keys.json").write_text(json.dumps({"schema": 9}))
    with pytest.raises(FairleadError, match="newer Fairlead"):
        SecretsFile(tmp_path / "keys.json").put("a", "one")
