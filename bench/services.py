"""Many small services on one node: their models, releases and home, made once and started as asked."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from bench import dialects, load, models, ours
from bench.subject import BENCH, HOST, Contender, Failed, Place, Plan

_PUBLISH_SECONDS = 600
NAMES = "s{:04}"
LIVE_REVISION = "1"


class Services:
    """So many services, each with a model of its own."""

    def __init__(self, folder: Path, count: int) -> None:
        self.folder, self.count = folder, count
        self.home = folder / "fairlead"
        folder.mkdir(parents=True, exist_ok=True)
        self.folders = [
            models.small(folder / "models", NAMES.format(number), number)
            for number in range(1, count + 1)
        ]
        self.releases = [
            ours.release(folder, NAMES.format(number), LIVE_REVISION, [(LIVE_REVISION, 100)])
            for number in range(1, count + 1)
        ]

    def publish(self, tell: Callable[[str], None]) -> None:
        """Into a home of their own; raises Failed."""
        self.publish_folders(self.folders, tell)

    def publish_folders(self, folders: list[Path], tell: Callable[[str], None]) -> None:
        command = [sys.executable, str(BENCH / "publish_many.py"), str(self.home)]
        command += map(str, folders)
        with subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        ) as child:
            try:
                said = ""
                assert child.stdout is not None
                for line in child.stdout:
                    said = line.strip()
                    if said.endswith("published"):
                        tell(said)
                code = child.wait(_PUBLISH_SECONDS)
            finally:
                child.kill()
        if code:
            raise Failed(f"publishing {len(folders)} models failed: {said}")

    def up(self, port: int) -> list[str]:
        """The command that serves all of them behind a gateway."""
        return ours.fairlead("up", *self.releases, "--home", self.home, "--port", str(port))

    def serve(self, port: int) -> list[str]:
        """The command that serves all of them in one model server, as they were published."""
        published = [f"{one.parent.name}/{one.name}" for one in self.folders]
        address = ("--host", HOST, "--port", str(port), "--no-access-log")
        return ours.fairlead("serve", *published, "--home", self.home, *address)

    def question(
        self, number: int, port: int, *, version: int = 1, direct: bool = False
    ) -> load.Question:
        """What the service of this number is asked, with the right answer of a version of its model."""
        name = NAMES.format(number)
        case = models.as_case(self.folder / "models" / name / str(version))
        place = Place(case, self.folder, (port, port, port))
        key = None if direct else ours.make_key(self.home, self.folder / "key")
        contender = Contender(name, name, lambda _: Plan([]), dialects.OIP)
        return load.question("wrk", contender, place, Plan([], key=key))

    def write_next(self, number: int) -> Path:
        """Another version of one service's model, as a folder."""
        return models.small(self.folder / "models", NAMES.format(number), number, version=2)

    def release_next(self, number: int) -> list[str]:
        """The command that releases it, for all traffic of its service."""
        file = ours.release(self.folder, NAMES.format(number), "2", [("2", 100)])
        return ours.fairlead("apply", file, "--home", self.home)
