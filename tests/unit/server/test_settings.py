"""Settings of S3-5 out of an environment."""

from __future__ import annotations

import pytest

from fairlead.domain.errors import InvalidInput
from fairlead.server.settings import ServingSettings, serving_settings_from


def test_an_empty_environment_gives_the_defaults() -> None:
    settings = serving_settings_from({"PATH": "/bin", "FAIRLEAD_PORT": "1"})
    assert settings == ServingSettings()
    assert settings.api_version == "v1"
    assert settings.uvicorn_http_port == 8501
    assert settings.body_limit_bytes == 64 * 1024 * 1024


def test_names_may_be_in_any_case_and_values_get_their_types() -> None:
    settings = serving_settings_from(
        {
            "fairlead_serving_API_version": "v2",
            "FAIRLEAD_SERVING_ADD_LIVENESS": "False",
            "FAIRLEAD_SERVING_uvicorn_http_port": "9000",
            "FAIRLEAD_SERVING_FASTAPI_NAME": "keywords",
        }
    )
    assert (settings.api_version, settings.add_liveness) == ("v2", False)
    assert (settings.uvicorn_http_port, settings.fastapi_name) == (9000, "keywords")
    assert settings.root == "/v2"
    assert serving_settings_from({"FAIRLEAD_SERVING_API_VERSION": ""}).root == ""


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        (
            "FAIRLEAD_SERVING_API_VERSON",
            "v1",
            "unknown setting; did you mean FAIRLEAD_SERVING_API_VERSION?",
        ),
        ("FAIRLEAD_SERVING_XYZZY", "1", "unknown setting; remove it"),
        ("FAIRLEAD_SERVING_ADD_LIVENESS", "maybe", "is 'maybe'; write true or false"),
        ("FAIRLEAD_SERVING_UVICORN_HTTP_PORT", "65536", "write a port from 0 to 65535"),
        ("FAIRLEAD_SERVING_UVICORN_HTTP_PORT", "-1", "write a port"),
        ("FAIRLEAD_SERVING_UVICORN_HTTP_PORT", "²", "write a port"),
        ("FAIRLEAD_SERVING_UVICORN_WORKERS", "0", "from 1"),
        ("FAIRLEAD_SERVING_API_VERSION", "a/b", "one part of a path"),
        ("FAIRLEAD_SERVING_API_VERSION", "..", "one part of a path"),
    ],
)
def test_a_wrong_setting_is_named_with_what_would_be_right(
    name: str, value: str, message: str
) -> None:
    with pytest.raises(InvalidInput) as caught:
        serving_settings_from({name: value})
    assert message in str(caught.value)
    assert name in str(caught.value)


def test_all_mistakes_are_told_at_once() -> None:
    with pytest.raises(InvalidInput) as caught:
        serving_settings_from(
            {
                "FAIRLEAD_SERVING_NOPE": "1",
                "FAIRLEAD_SERVING_ADD_LIVENESS": "2",
                "Fairlead_serving_api_version": "v1",
                "FAIRLEAD_SERVING_API_VERSION": "v2",
            }
        )
    assert len(caught.value.problems) == 3
