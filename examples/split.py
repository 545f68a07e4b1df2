"""See the 90/10 split: ask line v1 of `sentiment` as many different callers, count who answered.

    .venv/bin/python examples/split.py [--callers N]

A caller's sticky key decides which revision answers, every time it asks.
"""

import argparse
import json
import sys
from collections import Counter
from http import HTTPStatus
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from urllib.parse import urlsplit

_PATH = "/v1/model/sentiment/predict"
_BODY = json.dumps({"instances": ["What a lovely day for a walk."]})
_TIMEOUT_SECONDS = 10.0
_BAR = 50  # characters for 100 %


def count(url: str, key: str, callers: int) -> Counter[str]:
    """How many of the callers each revision answered; raises ValueError for an answer that is none."""
    found: Counter[str] = Counter()
    target = urlsplit(url)
    connection = HTTPConnection(
        target.hostname or "127.0.0.1", target.port, timeout=_TIMEOUT_SECONDS
    )
    headers = {"Content-Type": "application/json", "X-Api-Key": key, "Accept-Version": "v1"}
    try:
        for caller in range(callers):
            connection.request("POST", _PATH, _BODY, headers | {"X-Sticky-Key": f"caller-{caller}"})
            response = connection.getresponse()
            body = response.read()
            if response.status != HTTPStatus.OK:
                raise ValueError(f"status {response.status}: {body.decode(errors='replace')}")
            found[response.headers["X-Served-Version"]] += 1
    finally:
        connection.close()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description="Count which revision answers how many callers.")
    parser.add_argument("--callers", type=int, default=1000)
    parser.add_argument("--url", help="the gateway (default: http://127.0.0.1:$FAIRLEAD_PORT)")
    parser.add_argument(
        "--key", help="the key to send (default: the content of .fairlead/demo-key)"
    )
    arguments = parser.parse_args()
    url = arguments.url or local.gateway_url()
    try:
        found = count(url, arguments.key or local.demo_key(), arguments.callers)
    except (OSError, HTTPException) as error:
        sys.exit(f"nobody answers at {url} ({error}): start Fairlead with `make run`")
    except ValueError as error:
        sys.exit(f"sentiment does not answer: {error}")
    for served, answered in sorted(found.items()):
        share = answered / found.total()
        print(
            f"{served:6} {answered:6} of {found.total()} callers {share:6.1%} {'#' * round(share * _BAR)}"
        )


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
    from examples import local

    main()
