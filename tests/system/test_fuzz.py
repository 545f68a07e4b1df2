"""A short, always equal slice of `make fuzz`: wrong bytes at every port, and Schemathesis on one service."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.fuzz.__main__ import check
from support.fuzz.batches import Figures, batch
from support.fuzz.places import Places, places
from support.fuzz.schemas import schemathesis

_SEED = 20261121


@pytest.fixture(scope="module")
def found(published: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Places]:
    with places(tmp_path_factory.mktemp("fuzz"), like=published) as started:
        yield started


def test_no_bytes_make_a_server_fail_hang_or_answer_somebody_else(found: Places) -> None:
    figures = Figures()
    for number in range(24):
        target = found.targets[number % len(found.targets)]
        asyncio.run(batch(target, number, _SEED, figures))
    assert check(found, figures, patient=False) == []
    assert figures.cases == 24 * 24
    assert figures.answers > figures.cases / 2


@pytest.mark.slow
def test_what_the_gateways_api_document_says_is_what_is_answered(
    found: Places, tmp_path: Path
) -> None:
    log = tmp_path / "schemathesis.txt"
    cases, failed = schemathesis(
        found.running.url, found.running.key, log, seed=1, examples=5, only="/lsh/"
    )
    assert failed == [], log.read_text()
    assert cases > 50
