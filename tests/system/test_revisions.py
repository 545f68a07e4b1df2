"""Revision after revision under every kind of load: no failed request, no wrong answer, nothing left.

A slice of what `make soak` does with 500: keep-alive, new connections, pipelining through the gateway and
into a worker, HTTP/2, slow readers and clients that leave; splits, pins, keys, a way back.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from soak.book import KINDS
from soak.results import verdicts
from soak.run import empty, soak
from soak.soaking import Options

REVISIONS = 4


@pytest.mark.timeout(240)
def test_revisions_under_load_fail_no_request_and_leave_nothing(tmp_path: Path) -> None:
    results = empty(options := Options(REVISIONS, seed=3, pace=0.3, quiet=True))
    soak(tmp_path, options, results)
    judged = verdicts(results)
    assert [one.text for one in judged if one.reached is False] == []
    assert sum(one.reached is True for one in judged) == 7
    assert all(results.book.answers[kind] for kind in KINDS if kind != "leaving")
    assert results.book.left
    assert results.timeline.kills == []
