"""Send the examples' requests through a running Fairlead and compare the answers.

    python examples/check.py [--url URL] [--key KEY] [NAME ...]

Each `examples/<name>/requests/*.json` holds a list of objects: `method`, `path`, `headers` and `body`
are sent; `status`, `expect` and `expect_headers` must come back. Objects in `expect` may leave keys out,
lists may not, and numbers count as equal within `tolerance`. In `expect_headers` a list names the values
that will do; `null` says that the header must be absent. A header of `null` in `headers` is not sent.
"""

import argparse
import json
import math
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

HERE = Path(__file__).resolve().parent
KEY_HEADER = "X-Api-Key"
_TIMEOUT_SECONDS = 10.0
_SHOWN = 300  # characters of an answer worth printing
_KEYS = {"method", "path", "headers", "body", "status", "expect", "expect_headers", "tolerance"}


@dataclass(frozen=True)
class Case:
    """One request and what must come back."""

    where: str  # file and number, for messages
    method: str
    path: str
    headers: Mapping[str, str | None]
    body: Any
    status: int
    expect: Any
    expect_headers: Mapping[str, str | list[str] | None]
    tolerance: float


@dataclass(frozen=True)
class Answer:
    """What came back; header names in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes


def read_cases(folder: Path) -> list[Case]:
    """The cases of one example's folder, in file order; raises ValueError for an unknown key."""
    found = []
    for path in sorted((folder / "requests").glob("*.json")):
        for number, entry in enumerate(json.loads(path.read_bytes()), start=1):
            where = f"{folder.name}/{path.name} {number}"
            unknown = entry.keys() - _KEYS
            if unknown:
                raise ValueError(f"{where}: unknown keys {sorted(unknown)}")
            found.append(
                Case(
                    where,
                    entry["method"],
                    entry["path"],
                    entry.get("headers", {}),
                    entry.get("body"),
                    entry["status"],
                    entry.get("expect"),
                    entry.get("expect_headers", {}),
                    entry.get("tolerance", 0.0),
                )
            )
    return found


def send(case: Case, url: str, key: str | None) -> Answer:
    """Send one case; raises OSError or HTTPException if nobody answers in time."""
    target = urlsplit(url)
    kind = HTTPSConnection if target.scheme == "https" else HTTPConnection
    connection = kind(target.hostname or "127.0.0.1", target.port, timeout=_TIMEOUT_SECONDS)
    headers = {KEY_HEADER: key, "Content-Type": "application/json"} | dict(case.headers)
    body = None if case.body is None else json.dumps(case.body).encode()
    try:
        connection.request(
            case.method,
            case.path,
            body,
            {name: value for name, value in headers.items() if value is not None},
        )
        response = connection.getresponse()
        named = {name.lower(): value for name, value in response.getheaders()}
        return Answer(response.status, named, response.read())
    finally:
        connection.close()


def problem(case: Case, answer: Answer) -> str | None:
    """What is wrong with an answer; None if it is as expected."""
    shown = answer.body[:_SHOWN].decode(errors="replace")
    if answer.status != case.status:
        return f"status {answer.status} instead of {case.status}: {shown}"
    for name, expected in case.expect_headers.items():
        value = answer.headers.get(name.lower())
        if value not in (expected if isinstance(expected, list) else [expected]):
            return f"header {name} is {value!r} instead of {expected!r}"
    if case.expect is None:
        return None
    try:
        body = json.loads(answer.body)
    except ValueError:
        return f"the answer is not JSON: {shown}"
    return difference(case.expect, body, case.tolerance, "body")


def difference(expected: Any, actual: Any, tolerance: float, path: str) -> str | None:  # noqa: ANN401 - JSON values
    """Where an answer is not as expected; None if it is."""
    if isinstance(expected, dict) and isinstance(actual, dict):
        missing = expected.keys() - actual.keys()
        if missing:
            return f"{path} lacks {min(missing)!r}"
        pairs = [(f"{path}.{key}", value, actual[key]) for key, value in expected.items()]
    elif isinstance(expected, list) and isinstance(actual, list):
        if len(expected) != len(actual):
            return f"{path} has {len(actual)} elements instead of {len(expected)}"
        both = zip(expected, actual, strict=True)
        pairs = [(f"{path}[{index}]", one, other) for index, (one, other) in enumerate(both)]
    else:
        near = _numbers(expected, actual) and math.isclose(
            expected, actual, rel_tol=0.0, abs_tol=tolerance
        )
        same = type(expected) is type(actual) and expected == actual
        return None if near or same else f"{path} is {actual!r} instead of {expected!r}"
    found = (difference(one, other, tolerance, deeper) for deeper, one, other in pairs)
    return next((message for message in found if message is not None), None)


def _numbers(*values: object) -> bool:
    return all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)


def main() -> int:
    parser = argparse.ArgumentParser(description="Check the examples against a running Fairlead.")
    parser.add_argument("names", nargs="*", metavar="NAME", help="only these examples")
    parser.add_argument("--url", help="the gateway (default: http://127.0.0.1:$FAIRLEAD_PORT)")
    parser.add_argument(
        "--key", help="the key to send (default: the content of .fairlead/demo-key)"
    )
    arguments = parser.parse_args()
    url = arguments.url or local.gateway_url()
    key = arguments.key or local.demo_key()
    folders = sorted(path.parent for path in HERE.glob("*/requests"))
    failed = total = 0
    for folder in folders:
        if arguments.names and folder.name not in arguments.names:
            continue
        for case in read_cases(folder):
            total += 1
            try:
                wrong = problem(case, send(case, url, key))
            except (OSError, HTTPException) as error:
                sys.exit(f"nobody answers at {url} ({error}): start Fairlead with `make run`")
            if wrong is not None:
                failed += 1
                print(f"FAILED {case.where}: {case.method} {case.path}: {wrong}")
    print(f"{total - failed} of {total} answers are right")
    return 1 if failed or not total else 0


if __name__ == "__main__":
    sys.path.insert(0, str(HERE.parent))
    from examples import local

    sys.exit(main())
