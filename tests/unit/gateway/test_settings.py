"""Settings are checked before anything starts."""

from __future__ import annotations

from pathlib import Path

import pytest

from fairlead.domain.errors import InvalidInput
from fairlead.gateway.settings import GatewaySettings, check


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (GatewaySettings(host="example.com"), "host: is 'example.com'; an IP address"),
        (GatewaySettings(port=0), "port: is 0"),
        (GatewaySettings(port=70_000), "port: is 70000"),
        (GatewaySettings(concurrency=0), "concurrency: is 0; more than 0"),
        (GatewaySettings(certificate=Path("c.pem")), "private_key: is missing"),
        (
            GatewaySettings(certificate=Path("no.pem"), private_key=Path("no.key")),
            "certificate: no.pem cannot be read",
        ),
    ],
)
def test_a_wrong_setting_is_named(settings: GatewaySettings, words: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        check(settings)
    assert words in str(caught.value)


def test_the_defaults_are_right() -> None:
    check(GatewaySettings())


@pytest.mark.parametrize(
    ("host", "loopback", "url"),
    [
        ("127.0.0.1", True, "http://127.0.0.1:8080"),
        ("localhost", True, "http://localhost:8080"),
        ("::1", True, "http://[::1]:8080"),
        ("0.0.0.0", False, "http://127.0.0.1:8080"),
        ("::", False, "http://[::1]:8080"),
        ("192.0.2.7", False, "http://192.0.2.7:8080"),
    ],
)
def test_a_host_is_loopback_or_not_and_has_a_url(host: str, loopback: bool, url: str) -> None:
    settings = GatewaySettings(host=host)
    assert (settings.loopback, settings.url) == (loopback, url)
