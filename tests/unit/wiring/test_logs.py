from __future__ import annotations

from pathlib import Path

from fairlead.wiring.logs import LogFollower


def test_logs_that_were_removed_are_forgotten(tmp_path: Path) -> None:
    follower = LogFollower(tmp_path)
    for number in range(100):
        log = tmp_path / f"worker-{number}.jsonl"
        log.write_text(f'{{"asctime": "{number}"}}\n')
        assert [record["asctime"] for record in follower.new()] == [str(number)]
        log.unlink()
    follower.new()
    assert follower.followed == set()
