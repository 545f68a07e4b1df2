"""Files and directories that are nobody else's, whatever the umask and whoever was there first."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from fairlead.kits import files


@pytest.fixture
def careless() -> Iterator[None]:
    """A umask that takes nothing away."""
    before = os.umask(0)
    yield
    os.umask(before)


@pytest.mark.usefixtures("careless")
def test_a_private_directory_is_private_under_any_umask(tmp_path: Path) -> None:
    files.private_directory(tmp_path / "sockets")
    assert stat.S_IMODE((tmp_path / "sockets").stat().st_mode) == 0o700


def test_what_somebody_else_planted_is_never_used(tmp_path: Path) -> None:
    (tmp_path / "target").mkdir(mode=0o700)
    (tmp_path / "link").symlink_to(tmp_path / "target")
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(0o750)
    (tmp_path / "file").touch()
    for name in ("link", "open", "file"):
        with pytest.raises((PermissionError, FileExistsError)):
            files.private_directory(tmp_path / name)


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give a directory away")
def test_a_directory_of_another_user_is_refused(tmp_path: Path) -> None:
    (tmp_path / "theirs").mkdir(mode=0o700)
    os.chown(tmp_path / "theirs", 12345, 12345)
    with pytest.raises(PermissionError, match="only you may enter"):
        files.private_directory(tmp_path / "theirs")


def test_a_place_where_anybody_may_swap_directories_is_refused(tmp_path: Path) -> None:
    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(0o777)
    with pytest.raises(PermissionError, match="no sticky bit"):
        files.private_directory(shared / "sockets")
    shared.chmod(0o1777)  # as /tmp is
    files.private_directory(shared / "sockets")


@pytest.mark.usefixtures("careless")
def test_a_secret_is_never_readable_by_others_not_even_while_it_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []
    real = os.fchmod

    def watched(handle: int, mode: int) -> None:
        seen.append(stat.S_IMODE(os.fstat(handle).st_mode))
        assert os.fstat(handle).st_size == 0
        real(handle, mode)

    monkeypatch.setattr(os, "fchmod", watched)
    files.write_atomic(tmp_path / "keys.json", b"secret", mode=0o600)
    assert seen == [0o600]
    assert stat.S_IMODE((tmp_path / "keys.json").stat().st_mode) == 0o600
