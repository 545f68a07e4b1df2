"""When which revision may have answered: what the answers are held against. Pure.

Times are steady seconds, the same in every process of the machine. A window opens before the command that
brings a revision in, and closes when the command that takes it out has said that this is live.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from soak.book import Book, Failure, Served

# Envoy's threads take new routes a moment after it has told that it has them.
SETTLE_SECONDS = 0.5


@dataclass(slots=True)
class Window:
    begin: float
    end: float = math.inf

    def holds(self, served: Served) -> bool:
        """Were all these answers asked for within it?"""
        return self.begin <= served.first and served.last <= self.end + SETTLE_SECONDS


@dataclass(slots=True)
class Timeline:
    """Every revision's windows, every pin's, and the seconds after a worker was killed."""

    artifacts: dict[str, int] = field(default_factory=dict)
    windows: dict[str, list[Window]] = field(default_factory=dict)
    pins: dict[str, list[Window]] = field(default_factory=dict)
    kills: list[Window] = field(default_factory=list)

    def comes(self, version: str, artifact: int, now: float) -> None:
        """From now on this revision may answer."""
        self.artifacts[version] = artifact
        self.windows.setdefault(version, []).append(Window(now))

    def has_gone(self, version: str, now: float) -> None:
        """Whatever is asked from now on, this revision does not answer it."""
        self.windows[version][-1].end = now

    def pinned(self, line: str, now: float) -> None:
        """From now on no version may mean this line."""
        self.pins.setdefault(line, []).append(Window(now))

    def unpinned(self, line: str, now: float) -> None:
        self.pins[line][-1].end = now

    def lies(self, book: Book) -> Iterator[str]:
        """Answers of a revision that could not have given them."""
        for (way, asked, version, artifact), served in book.served.items():
            line = version.partition(".")[0]
            told = f"{served.count} answers of {version}"
            if self.artifacts.get(version) != artifact:
                yield f"{told} came from artifact {artifact}, not {self.artifacts.get(version)}"
            elif asked and asked != line:
                yield f"{told} went to who had asked for {asked}"
            elif way == "gateway" and not self._in_time(self.windows, version, served):
                yield f"{told} were asked for when it took no traffic ({self._told(version, served)})"
            elif not asked and not self._in_time(self.pins, line, served):
                yield f"{told} went to who had not asked for a version while {line} was not pinned"

    def excused(self, failure: Failure) -> bool:
        """May it have failed? Only while a killed worker's successor was not there, and never by a lie."""
        return failure.fault != "wrong" and any(
            failure.sent <= kill.end + SETTLE_SECONDS and failure.done >= kill.begin
            for kill in self.kills
        )

    def _in_time(self, windows: Mapping[str, list[Window]], name: str, served: Served) -> bool:
        # What was counted together may span two windows; then the first must lie in one, the last in one.
        ends = (Served(1, served.first, served.first), Served(1, served.last, served.last))
        return all(any(one.holds(end) for one in windows.get(name, ())) for end in ends)

    def _told(self, version: str, served: Served) -> str:
        window = self.windows[version][-1]
        return (
            f"from {served.first - window.begin:+.2f} s of its coming "
            f"to {served.last - window.end:+.2f} s of its going"
        )
