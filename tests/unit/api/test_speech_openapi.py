"""The speech API's documents say what the gateway's router takes."""

from __future__ import annotations

import pytest

from fairlead.api.speech_openapi import operations
from fairlead.domain.paths import parse_path


@pytest.mark.parametrize(
    ("path", "methods"),
    [
        ("/api/text_to_speech/stream", {"GET", "POST"}),
        ("/api/text_to_speech/input_validated", {"GET", "POST"}),
        ("/openai/v1/audio/speech", {"POST"}),
        ("/mine/audio/speech", {"POST"}),
    ],
)
@pytest.mark.parametrize("endpoint", ["stream", "validate"])
def test_a_path_is_documented_with_the_methods_it_is_routed_for(
    path: str, methods: set[str], endpoint: str
) -> None:
    assert {method.upper() for method in operations(path, endpoint, "speech")} == methods
    assert set(parse_path(path, "v1").methods) == methods
