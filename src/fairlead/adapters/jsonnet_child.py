"""The program that evaluates one Jsonnet file: an order on standard input, the answer on standard output.

Run by its file name and isolated, so it imports nothing of Fairlead. It runs in the directory of the file,
and reads nothing that does not lie below that.
"""

from __future__ import annotations

import contextlib
import json
import resource
import sys
from pathlib import Path
from typing import Any

_MOST_BYTES = 1 << 20  # of one imported file


class _Files:
    """What the evaluated file may read."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._texts: dict[str, str] = {}

    def read(self, directory: str, name: str) -> tuple[str, str]:
        """The library's callback: the path that an import means from a directory, and its text."""
        path = (self._root / directory / name).resolve()
        if not path.is_relative_to(self._root):
            return self._refuse(directory, name, "lies outside the release file's directory")
        try:
            if not path.is_file():
                return self._refuse(directory, name, "is no file")
            with path.open("rb") as file:
                data = file.read(_MOST_BYTES + 1)
            if len(data) > _MOST_BYTES:
                return self._refuse(directory, name, f"has more than {_MOST_BYTES} bytes")
            text = data.decode()
        except OSError as error:
            return self._refuse(directory, name, f"cannot be read ({error.strerror})")
        except UnicodeDecodeError as error:
            return self._refuse(directory, name, f"is not UTF-8 (byte {error.start})")
        shown = path.relative_to(self._root).as_posix()
        self._texts[shown] = text
        return shown, text

    def _refuse(self, directory: str, name: str, why: str) -> tuple[str, str]:
        """The library does not say where the import stands, so the line is looked up."""
        for shown, text in self._texts.items():
            if (self._root / shown).parent != (self._root / directory).resolve():
                continue
            for number, line in enumerate(text.splitlines(), 1):
                if "import" in line and name in line:
                    column = line.index("import") + 1
                    raise ImportError(f"{name} {why}\n    {shown}:{number}:{column}: import")
        raise ImportError(f"{name} {why}")


def main() -> None:
    """Answer one order."""
    order = json.loads(sys.stdin.buffer.read())
    _bound(order["memory_bytes"])
    answer = _evaluated(order)
    sys.stdout.write(json.dumps(answer))


def _evaluated(order: dict[str, Any]) -> dict[str, Any]:
    import rjsonnet  # noqa: PLC0415 - after the bounds are set

    files = _Files(Path.cwd().resolve())
    try:
        text = rjsonnet.evaluate_file(
            order["file"],
            tla_vars=order["texts"],
            tla_codes=order["code"],
            ext_vars=order["texts"],
            ext_codes=order["code"],
            import_callback=files.read,
        )
    except RuntimeError as error:
        return {"error": str(error)}
    if len(text) > order["most_bytes"]:
        return {"error": f"its result has {len(text)} bytes; at most {order['most_bytes']}"}
    return {"value": json.loads(text)}


def _bound(memory_bytes: int) -> None:
    # Not every system knows every limit; the parent's deadline holds everywhere.
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


if __name__ == "__main__":
    main()
