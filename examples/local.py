"""Where the Fairlead of `make run` listens, and the key it made."""

import os
import sys
from pathlib import Path

_KEY_FILE = Path(__file__).resolve().parent.parent / ".fairlead" / "demo-key"


def gateway_url() -> str:
    port = os.environ.get("FAIRLEAD_PORT", "8080")
    return f"http://127.0.0.1:{port}"


def demo_key() -> str:
    try:
        return _KEY_FILE.read_text().strip()
    except FileNotFoundError:
        sys.exit(f"there is no {_KEY_FILE}: start Fairlead with `make run`, or give --key")
