"""What `make run` serves answers what the examples promise."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
import xxhash

from support.running import ROOT, Fairlead


@pytest.mark.parametrize("name", ["sentiment", "digits", "lsh", "speech"])
def test_an_examples_requests_are_answered_as_its_folder_says(
    examples: Fairlead, name: str
) -> None:
    command = [
        sys.executable,
        str(ROOT / "examples" / "check.py"),
        "--url",
        examples.url,
        "--key",
        examples.key,
        name,
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "0 wrong" in done.stdout or "right" in done.stdout


def test_the_split_is_ninety_to_ten_and_sticky(examples: Fairlead) -> None:
    served: Counter[str] = Counter()
    for number in range(400):
        user = f"user-{number}"
        reply = examples.ask(
            "/v1/model/sentiment/predict",
            {"instances": ["fine"]},
            Accept_Version="v1",
            X_Sticky_Key=user,
        )
        bucket = xxhash.xxh64(user.encode()).intdigest() % 10_000
        assert reply.version == ("v1.1" if bucket < 9000 else "v1.2")
        served[reply.version] += 1
    assert 340 <= served["v1.1"] <= 380


def test_every_answer_says_what_served_it(examples: Fairlead) -> None:
    reply = examples.ask("/v2/models/digits/ready")
    assert reply.status == 200
    assert reply.version == "v1.1"
    assert reply.headers["x-artifact-digest"].startswith("sha256:")
    assert reply.headers["x-request-id"]
    assert (
        examples.ask("/v2/models/digits/ready", X_Request_Id="mine-1").headers["x-request-id"]
        == "mine-1"
    )


def test_the_key_never_reaches_a_log(examples: Fairlead) -> None:
    examples.ask("/v1/model/digits/bio")
    examples.ask("/v1/model/digits/bio", key="wrong-but-secret")
    for path in (examples.home / "logs").iterdir():
        text = path.read_text(errors="replace")
        assert examples.key not in text, path
        assert "wrong-but-secret" not in text, path
    listing = examples.cli("keys", "ls").stdout + examples.cli("status", "--json").stdout
    assert examples.key not in listing


def test_metrics_count_by_service_line_revision_and_endpoint(examples: Fairlead) -> None:
    for _ in range(5):
        examples.ask(
            "/v1/model/lsh/predict", {"inputs": {"content": "one two three four five six seven"}}
        )
    examples.ask("/v1/model/lsh/predict", {"inputs": {}})
    text = examples.ask("/metrics", key=None).body.decode()
    wanted = 'service="lsh",line="v1",revision="1",endpoint="predict"'
    for family in (
        "fairlead_requests_total",
        "fairlead_request_duration_seconds_bucket",
        "fairlead_errors_total",
    ):
        lines = [
            line
            for line in text.splitlines()
            if line.startswith(family) and 'service="lsh"' in line
        ]
        assert lines, f"{family} has no series of lsh, wanted {wanted}"
    assert text.rstrip().endswith("# EOF")
    assert text.count("# EOF") == 1


def test_the_openapi_page_knows_every_service(examples: Fairlead) -> None:
    document = examples.ask("/openapi.json", key=None).json
    for service in ("sentiment", "digits", "lsh"):
        assert f"/v1/model/{service}/predict" in document["paths"]
    page = examples.ask("/docs", key=None).body.decode()
    assert "static-offline-docs" in page
    assert "https://" not in page.replace("https://fastapi.tiangolo.com", "")


def test_the_front_page_speaks_to_people_and_to_programs(examples: Fairlead) -> None:
    html = examples.ask("/", key=None, Accept="text/html")
    assert html.status == 200
    assert b"sentiment" in html.body
    assert html.headers["content-type"].startswith("text/html")
    assert examples.ask("/", key=None, Accept="application/json").json


def test_predict_from_the_command_line(examples: Fairlead) -> None:
    done = examples.cli("predict", "sentiment", "what a lovely day", "-v")
    assert '"label": "positive"' in done.stdout
    assert "version v2.1" in done.stderr
    old = examples.cli("predict", "sentiment", "--version", "v1.1", "-v")
    assert "version v1.1" in old.stderr
    wrong = examples.cli("predict", "sentiment", "--version", "v9", code=1)
    assert "no version 'v9' here; versions: v1, v1.1, v1.2, v2, v2.1" in wrong.stdout


def test_status_and_logs_from_the_command_line(examples: Fairlead) -> None:
    status = examples.cli("status")
    assert "sentiment" in status.stdout
    assert "90 %" in status.stdout
    assert "ready" in status.stdout
    assert str(examples.home) in status.stderr
    assert "ready on worker" in examples.cli("logs").stdout
    reply = examples.ask("/v1/model/digits/bio")
    request_id = reply.headers["x-request-id"]

    def logged() -> bool:
        return request_id in examples.cli("logs", "--request", request_id).stdout

    from support.running import until

    until(logged, 15, "the request in the access log")


class TestMovingTraffic:
    """Commands that move traffic, each live when it returns."""

    def test_pin_traffic_kill_and_revive(self, examples: Fairlead) -> None:
        path, body = "/v1/model/sentiment/predict", {"instances": ["fine"]}
        examples.cli("pin", "sentiment", "v1")
        assert examples.ask(path, body).version.startswith("v1.")
        examples.cli("traffic", "sentiment", "v1", "1=0", "2=100")
        assert examples.ask(path, body).version == "v1.2"
        assert examples.ask(path, body, Accept_Version="v1.1").version == "v1.1"
        examples.cli("kill", "sentiment", "--message", "back at noon")
        for headers in ({}, {"Accept_Version": "v2"}):
            reply = examples.ask(path, body, **headers)
            assert (reply.status, reply.json) == (503, {"message": "back at noon"})
        assert examples.ask("/v1/model/digits/bio").status == 200
        assert examples.healthy()
        examples.cli("revive", "sentiment")
        assert examples.ask(path, body).status == 200
        examples.cli("traffic", "sentiment", "v1", "1=90", "2=10")
        examples.cli("pin", "sentiment", "v2")
        assert examples.ask(path, body).version == "v2.1"

    def test_keys_are_scoped_rotated_and_revoked(self, examples: Fairlead) -> None:
        secret = examples.cli("keys", "create", "narrow", "--service", "digits").stdout.strip()
        assert examples.ask("/v1/model/digits/bio", key=secret).status == 200
        refused = examples.ask("/v1/model/lsh/bio", key=secret)
        assert (refused.status, refused.json) == (
            403,
            {"message": "You cannot consume this service"},
        )
        again = examples.cli("keys", "rotate", "narrow").stdout.strip()
        assert examples.ask("/v1/model/digits/bio", key=secret).status == 401
        assert examples.ask("/v1/model/digits/bio", key=again).status == 200
        examples.cli("keys", "revoke", "narrow")
        assert examples.ask("/v1/model/digits/bio", key=again).status == 401

    def test_keys_are_limited_killed_and_listed_with_their_last_use(
        self, examples: Fairlead
    ) -> None:
        path, body = "/v1/model/sentiment/predict", {"instances": ["fine"]}
        scope = ("--allow", "sentiment/v1:infer", "--rate", "6/min", "--burst", "2")
        secret = examples.cli("keys", "create", "app", *scope).stdout.strip()

        def asked(key: str, version: str = "v1") -> tuple[int, str]:
            reply = examples.ask(path, body, key=key, Accept_Version=version)
            return reply.status, reply.json.get("message", "")

        assert asked(secret, "v2") == (403, "You cannot consume this service")
        assert asked(secret)[0] == 200
        assert asked(secret) == (429, "API rate limit exceeded")
        examples.cli("keys", "limit", "app", "--rate", "none", "--concurrency", "4")
        again = examples.cli("keys", "rotate", "app", "--overlap", "1h").stdout.strip()
        assert (asked(secret)[0], asked(again)[0]) == (200, 200)
        examples.cli("keys", "kill", "app", "--message", "call us")
        assert asked(again) == (403, "call us")
        listing = examples.cli("keys", "ls").stdout
        assert secret not in listing
        assert again not in listing
        row = next(line for line in listing.splitlines() if line.startswith("app "))
        for told in ("sentiment/v1:infer", "4 at once", "killed: call us; old ", "until 20"):
            assert told in row
        examples.cli("keys", "revive", "app")
        examples.cli("keys", "allow", "app", "sentiment:read")
        assert asked(again)[0] == 403
        examples.cli("keys", "revoke", "app")
        assert (asked(secret)[0], asked(again)[0]) == (401, 401)

    def test_a_mistake_in_a_command_is_told_and_changes_nothing(self, examples: Fairlead) -> None:
        before = examples.cli("status", "--json").stdout
        for arguments, message in [
            (("pin", "sentiment", "v7"), "has no line 'v7'; lines: v1, v2"),
            (("traffic", "sentiment", "v1", "1=90"), "percents sum to 90"),
            (
                ("traffic", "sentiment", "v1", "1=90", "3=10"),
                "has no revision '3'; revisions: 1, 2",
            ),
            (("traffic", "sentiment", "v1", "1:90"), "write REVISION=PERCENT"),
            (("kill", "nobody"), "no service 'nobody'"),
            (("keys", "create", "demo"), "a key 'demo' already"),
            (("keys", "limit", "nobody", "--rate", "1/s"), "no key 'nobody'; keys:"),
            (("keys", "create", "x", "--allow", "lsh/v9"), "has no line 'v9'"),
        ]:
            done = examples.cli(*arguments, code=1)
            assert message in done.stderr
            assert "Traceback" not in done.stderr
        assert examples.cli("status", "--json").stdout == before


def test_a_home_elsewhere_is_found_from_any_folder_below(
    examples: Fairlead, tmp_path: Path
) -> None:
    below = examples.directory / "deep" / "er"
    below.mkdir(parents=True, exist_ok=True)
    done = subprocess.run(
        [sys.executable, "-m", "fairlead", "models", "ls"],
        cwd=below,
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )
    assert "sentiment/3" in done.stdout
    lost = subprocess.run(
        [sys.executable, "-m", "fairlead", "status"],
        cwd="/",
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert lost.returncode == 1
    assert "there is no Fairlead home" in lost.stderr
