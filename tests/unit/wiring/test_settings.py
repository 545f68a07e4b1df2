"""The environment, read once and checked."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from fairlead.domain.errors import InvalidInput
from fairlead.server.settings import serving_settings_from
from fairlead.wiring.reference import environment_page
from fairlead.wiring.settings import (
    VARIABLES,
    child_environment,
    environment,
    home_at,
    legacy_speech_keys,
    nearest_home,
    prepare_engines,
)


def test_nothing_set_means_the_defaults() -> None:
    found = environment({"PATH": "/bin"})
    assert (found.host, found.port, found.home, found.tls_cert) == ("127.0.0.1", 8080, None, None)


@pytest.mark.parametrize(
    ("variables", "told"),
    [
        (
            {"FAIRLEAD_PROT": "1"},
            "FAIRLEAD_PROT: is no setting of Fairlead; did you mean FAIRLEAD_PORT?",
        ),
        ({"FAIRLEAD_PORT": "http"}, "FAIRLEAD_PORT: is 'http'; write a port from 1 to 65535"),
        (
            {"FAIRLEAD_ACCESS_LOG_MIB": "0"},
            "FAIRLEAD_ACCESS_LOG_MIB: is '0'; write a whole number from 1 to 999999",
        ),
        (
            {"FAIRLEAD_ACCESS_LOG_FILES": "many"},
            "FAIRLEAD_ACCESS_LOG_FILES: is 'many'; write a whole number from 1 to 999999",
        ),
        ({"FAIRLEAD_PORT": "0"}, "FAIRLEAD_PORT: is '0'; write a port from 1 to 65535"),
        ({"FAIRLEAD_PORT": "65536"}, "FAIRLEAD_PORT: is '65536'; write a port from 1 to 65535"),
        (
            {"FAIRLEAD_ALLOW_PICKLE": "perhaps"},
            "FAIRLEAD_ALLOW_PICKLE: is 'perhaps'; write true or false",
        ),
        (
            {"FAIRLEAD_TLS_CERT": "x"},
            "FAIRLEAD_TLS_CERT: goes with FAIRLEAD_TLS_KEY; set both or none",
        ),
    ],
)
def test_a_wrong_variable_is_told(variables: dict[str, str], told: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        environment(variables)
    assert told in str(caught.value)


def test_settings_of_the_model_server_are_passed_on() -> None:
    found = environment(
        {"FAIRLEAD_SERVING_UVICORN_WORKERS": "3", "fairlead_serving_api_version": "v2"}
    )
    assert set(found.serving) == {
        "FAIRLEAD_SERVING_UVICORN_WORKERS",
        "fairlead_serving_api_version",
    }


def test_the_key_is_never_shown() -> None:
    assert "sesame" not in repr(environment({"FAIRLEAD_API_KEY": "sesame"}))


def test_every_variable_that_is_listed_is_known() -> None:
    others = {"FAIRLEAD_MEMORY_BUDGET": "1Gi", "FAIRLEAD_SCALE_WINDOW": "60"}
    for name in VARIABLES:
        value = {name: others.get(name, "1")}
        environment({"FAIRLEAD_TLS_CERT": "x", "FAIRLEAD_TLS_KEY": "x"} | value)


def test_every_setting_of_the_model_server_on_the_page_is_read() -> None:
    names = re.findall(r"`(FAIRLEAD_SERVING_[A-Z_]+)` \\| `(.*)`", environment_page())
    assert len(names) >= 15
    for name, default in names:
        serving_settings_from({name: default})


def test_the_nearest_home_upwards_is_found(tmp_path: Path) -> None:
    below = tmp_path / "a" / "b"
    below.mkdir(parents=True)
    elsewhere = nearest_home(tmp_path.parent)  # whatever lies above is not this test's
    assert nearest_home(below) == elsewhere
    (tmp_path / ".fairlead").mkdir()
    assert nearest_home(below) == elsewhere  # a folder of that name is no home yet
    (tmp_path / ".fairlead" / "home.json").write_text("{}")
    assert nearest_home(below) == tmp_path / ".fairlead"


def test_a_directory_too_deep_for_sockets_is_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    deep = tmp_path / ("deep" * 30)
    deep.mkdir()
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(deep))
    assert home_at(tmp_path).sockets.parent != deep
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path.parent))


def test_sockets_lie_where_their_names_fit(tmp_path: Path) -> None:
    deep = tmp_path / ("deep/" * 40)
    deep.mkdir(parents=True)
    home = home_at(deep)
    assert len(str(home.worker_socket("0" * 8)).encode()) < 100
    assert home_at(deep / "..").sockets != home.sockets
    assert home_at(deep).sockets == home.sockets


def test_engines_are_told_to_send_nothing_unless_the_user_wants_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("ORT_DISABLE_TELEMETRY", raising=False)
    assert child_environment()["ORT_DISABLE_TELEMETRY"] == "1"
    monkeypatch.setenv("ORT_DISABLE_TELEMETRY", "0")
    prepare_engines()
    assert child_environment()["ORT_DISABLE_TELEMETRY"] == "0"


@pytest.mark.parametrize(
    ("text", "size"),
    [("0", 0), ("4Gi", 4 << 30), ("512Mi", 512 << 20), ("67108864", 64 << 20), ("1Ti", 1 << 40)],
)
def test_a_memory_budget_is_bytes_or_a_quantity(text: str, size: int) -> None:
    assert environment({"FAIRLEAD_MEMORY_BUDGET": text}).memory_budget_bytes == size


@pytest.mark.parametrize("text", ["", "4G", "-1", "1.5Gi", "63Mi", "1", "Gi", "4 Gi"])
def test_a_memory_budget_that_is_none_is_told(text: str) -> None:
    with pytest.raises(
        InvalidInput, match=r"FAIRLEAD_MEMORY_BUDGET: is .* write 4Gi, 512Mi or bytes"
    ):
        environment({"FAIRLEAD_MEMORY_BUDGET": text})


@pytest.mark.parametrize("text", ["5", "3601", "6s"])
def test_a_window_is_as_long_as_knative_has_it(text: str) -> None:
    with pytest.raises(InvalidInput, match="FAIRLEAD_SCALE_WINDOW: is"):
        environment({"FAIRLEAD_SCALE_WINDOW": text})


def test_every_variable_that_is_named_for_it_holds_a_legacy_key(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("LEGACY_SPEECH_API_KEY", "one")
    monkeypatch.setenv("APP_SPEECH_API_KEY_2", "two")
    monkeypatch.setenv("EMPTY_SPEECH_API_KEY", "")
    monkeypatch.setenv("SPEECH_API_KEY", "three")
    assert legacy_speech_keys() == ("two", "one")


def test_how_long_a_process_waits_ready_may_be_no_time_at_all() -> None:
    assert environment({}).spare_seconds == 60
    assert environment({"FAIRLEAD_SPARE_SECONDS": "0"}).spare_seconds == 0
    with pytest.raises(
        InvalidInput, match="FAIRLEAD_SPARE_SECONDS: is '-1'; write a whole number from 0"
    ):
        environment({"FAIRLEAD_SPARE_SECONDS": "-1"})
