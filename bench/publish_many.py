"""Publish very many small models into a home: each is really proved, but all in this one process.

`python bench/publish_many.py HOME DIR...`: `fairlead publish` takes a process for each, which for a
thousand is ten minutes. Prints a line for every hundredth.
"""

import asyncio
import sys
from pathlib import Path

from fairlead.adapters.documents import read_document
from fairlead.control.publish import publish
from fairlead.domain.manifest import DESCRIPTION
from fairlead.wiring.homes import open_home

_TELL_EVERY = 100


async def main(home: Path, folders: list[Path]) -> None:
    artifacts = open_home(home, create=True).artifacts
    for number, folder in enumerate(folders, 1):
        await publish(folder, read_document(folder / DESCRIPTION), artifacts, lambda _: None)
        if number % _TELL_EVERY == 0:
            print(f"{number} of {len(folders)} published", flush=True)


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), [Path(one) for one in sys.argv[2:]]))
