"""What somebody else is still writing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def lines_of(log: Path) -> list[dict[str, Any]]:
    """The lines of JSON that are there whole; none if there is no file yet. Envoy writes in blocks, not in lines."""
    data = log.read_bytes() if log.exists() else b""
    return [json.loads(line) for line in data.splitlines(keepends=True) if line.endswith(b"\n")]
