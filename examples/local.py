"""Where the Fairlead of `make run` listens, and the key it made."""

import json
import os
import sys
from pathlib import Path

_HOME = Path(__file__).resolve().parent.parent / ".fairlead"
_KEY_FILE = _HOME / "demo-key"


def gateway_url() -> str:
    """The gateway that runs here; where none does, the one `make run` would start."""
    try:
        return str(json.loads((_HOME / "up.json").read_bytes())["url"])
    except (FileNotFoundError, ValueError, KeyError):
        return f"http://127.0.0.1:{os.environ.get('FAIRLEAD_PORT', '8080')}"


def demo_key() -> str:
    try:
        return _KEY_FILE.read_text().strip()
    except FileNotFoundError:
        sys.exit(f"there is no {_KEY_FILE}: start Fairlead with `make run`, or give --key")
