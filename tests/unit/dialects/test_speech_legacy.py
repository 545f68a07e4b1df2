"""The keys of callers from before Fairlead, on the speech APIs."""

from __future__ import annotations

import pytest

from fairlead.api.speech import SpeechRefused
from fairlead.dialects.speech.legacy import LegacyKeys

KEYS = LegacyKeys(("first-key", "second-key"))


def test_a_caller_the_gateway_knows_shows_no_key() -> None:
    KEYS.check({}, known=True)
    KEYS.check_bearer("", known=True)


@pytest.mark.parametrize("sent", ["", "Basic x", "Bearer other-key", "Bearer"])
def test_a_stranger_with_no_key_or_a_wrong_one_is_refused(sent: str) -> None:
    with pytest.raises(SpeechRefused):
        KEYS.check_bearer(sent, known=False)


def test_either_key_opens() -> None:
    KEYS.check_bearer("bearer  second-key", known=False)
    KEYS.check({"api_key": "first-key"}, known=False)
