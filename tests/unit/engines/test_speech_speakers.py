"""`voice.json`: the speakers of an artifact, and every mistake in it at once."""

from __future__ import annotations

import json
from typing import Any

import pytest

from fairlead.domain.errors import InvalidInput
from fairlead.engines.speech.speakers import FIRST_CUSTOM, Speaker, voice_file


def read(**document: Any) -> Any:
    return voice_file(json.dumps({"synthesizer": "tone", **document}).encode(), "voice.json")


ADA = {"name": "Ada", "voice": "hum"}


def test_public_ids_are_places_and_custom_ones_are_large():
    custom = {"7351920466": {"name": "Mine", "voice": 3, "settings": {"pitch": 30}}}
    found = read(speakers=[ADA, {"name": "Ben", "voice": "hum", "withdrawn": True}], custom=custom)
    assert found.speakers == {
        0: Speaker("Ada", "hum"),
        1: Speaker("Ben", "hum", withdrawn=True),
        7351920466: Speaker("Mine", 3, settings={"pitch": 30}),
    }
    assert found.names() == {"ada": 0, "mine": 7351920466}


def test_aliases_are_names_too():
    found = read(speakers=[{**ADA, "aliases": ["alloy", "Echo"]}])
    assert found.names() == {"ada": 0, "alloy": 0, "echo": 0}


@pytest.mark.parametrize(
    ("document", "where"),
    [
        ({"speakers": []}, "speakers is empty"),
        ({"speakers": [ADA, ADA]}, "speakers call 0 and 1 'Ada'"),
        ({"speakers": [{"name": "Ada"}]}, "speakers[0].voice is missing"),
        ({"speakers": [{"name": "Ada", "voice": True}]}, "speakers[0].voice is no voice"),
        ({"speakers": [{**ADA, "withdrawn": "yes"}]}, "speakers[0].withdrawn"),
        ({"speakers": [{**ADA, "language": "English!"}]}, "speakers[0].language"),
        ({"speakers": [{**ADA, "settings": {"volume": 3}}]}, "speakers[0].settings"),
        ({"speakers": [ADA], "custom": {str(FIRST_CUSTOM - 1): ADA}}, "custom"),
        ({"speakers": [ADA], "custom": {"new": ADA}}, "custom.new is no id"),
        ({"speakers": [ADA], "settings": []}, "settings is no object"),
        ({"speakers": [ADA], "synthesizer": "festival"}, "synthesizer"),
        ({"speakers": [ADA], "more": 1}, "more"),
    ],
)
def test_each_mistake_is_named(document, where):
    with pytest.raises(InvalidInput) as wrong:
        read(**document)
    assert where.split(" ", 1)[0] in str(wrong.value)
    assert all(part in str(wrong.value).replace(": ", " ") for part in where.split(" ", 1)[1:])
