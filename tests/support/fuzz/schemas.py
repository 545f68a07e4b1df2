"""Schemathesis on the API documents: what is documented is answered, what is answered is documented."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

_CHECKS = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_headers_conformance",
    "response_schema_conformance",
    "negative_data_rejection",
    "allow_header_conformance",
    "ignored_auth",
)
# That a right request is taken holds where a schema can say what is right: not that a tensor's data has as many
# elements as its shape asks for, nor that a text of a document model is JSON (both are the Open Inference Protocol's),
# nor that a float fits its type and yet makes the model overflow.
_ACCEPTED = "^/v1/model/(lsh|sentiment)/"
# A wrong request may be so long that it is refused for that alone: any of our own refusals says no.
_SETTINGS = """\
[checks.negative_data_rejection]
expected-statuses = ["400", "401", "403", "404", "405", "406", "413", "415", "422", "431"]
"""
# Not checked: `unsupported_method`. Envoy answers methods that it does not know with 400, not 405.


def schemathesis(
    url: str, key: str | None, log: Path, *, seed: int, examples: int, only: str = ""
) -> tuple[int, list[str]]:
    """Run it on a server's own document; returns the number of cases, and what failed.

    `only`: a pattern of paths, for a quick run; then what must be accepted is left out too.
    """
    settings = log.with_suffix(".toml")
    settings.write_text(_SETTINGS)
    program = [sys.executable, "-m", "schemathesis.cli", "--config-file", str(settings)]
    program += ["run", f"{url}/openapi.json", "--no-color"]
    program += ["--header", f"X-Api-Key: {key}"] if key else []
    program += ["--seed", str(seed), "--max-examples", str(examples), "--continue-on-failure"]
    program += ["--phases", "examples,coverage,fuzzing", "--request-timeout", "20"]
    runs = [["--checks", ",".join(_CHECKS), *(["--include-path-regex", only] if only else [])]]
    if not only:
        runs.append(["--checks", "positive_data_acceptance", "--include-path-regex", _ACCEPTED])
    cases = 0
    failed: list[str] = []
    with log.open("w") as output:
        for arguments in runs:
            done = subprocess.run(
                [*program, *arguments],
                capture_output=True,
                text=True,
                check=False,
                cwd=log.parent,  # where it keeps what it found
                timeout=1200,
            )
            output.write(done.stdout + done.stderr)
            counted = re.search(r"(\d+) generated", done.stdout)
            cases += int(counted[1]) if counted else 0
            found = re.findall(r"^- (ST\d+ .*)$", done.stdout, re.MULTILINE)
            if done.returncode != 0 and not found:
                found = [
                    f"it ended with {done.returncode}: {done.stderr[-500:] or done.stdout[-500:]}"
                ]
            failed += found
    return cases, failed
