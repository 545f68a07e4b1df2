"""Why a request was led where it was: the rule that chose, in one line that is written down with the request.

`asked sentiment/v2 1=100`: what was asked for (no version, a line, a revision: the log has that too) meant
line v2, all of whose traffic revision 1 had. `artifact …`: the path named an artifact's version. The gateway
names each of its routes by this, so the access log has the shares as they were then; and as the text does not
say which version was asked for, versions that mean the same share their routes.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum

from fairlead.domain.ids import BUCKETS, LATEST, PER_PERCENT, LineId
from fairlead.domain.paths import ModelPath
from fairlead.domain.routing import Choice
from fairlead.domain.versions import split_version

_ASKED = "asked"
# Logs of earlier versions of ours say `pin`, `line` and `exact` themselves.
_TEXT = re.compile(r"(asked|artifact|pin|line|exact) ([^ /]+)/([^ /]+) (.+)")
_SHARE = re.compile(r"([^ =]+)=([0-9]{1,3})")


class How(StrEnum):
    """How the line was found, and whether its traffic chose the revision."""

    PIN = "pin"  # no version was asked for, or `latest`: the service's pinned line, by its traffic
    LINE = "line"  # Accept-Version names a line: by its traffic
    EXACT = "exact"  # Accept-Version names a revision
    ARTIFACT = "artifact"  # the path names an artifact's version: the revision that runs it


@dataclass(frozen=True, slots=True)
class Rule:
    """`shares` are revisions with their buckets out of 10,000, in the order the split counts them."""

    how: How
    line: LineId
    shares: tuple[tuple[str, int], ...]

    def __str__(self) -> str:
        word = self.how if self.how is How.ARTIFACT else _ASKED
        shares = " ".join(f"{tag}={weight // PER_PERCENT}" for tag, weight in self.shares)
        return f"{word} {self.line} {shares}"

    def chosen(self, bucket: int) -> tuple[str, int, int]:
        """The revision that has a bucket, and the first and the last of its buckets."""
        first = 0
        for tag, weight in self.shares:
            if bucket < first + weight:
                return tag, first, first + weight - 1
            first += weight
        raise AssertionError(f"{self} has no bucket {bucket}")


def rule_of(choice: Choice, accept_version: str | None) -> Rule:
    """The rule by which the resolver made this choice for a request with this Accept-Version."""
    first = choice.targets[0][0].id
    shares = tuple((revision.id.revision, weight) for revision, _, weight in choice.targets)
    of_artifact = isinstance(choice.path, ModelPath) and choice.path.artifact_version is not None
    how = How.ARTIFACT if of_artifact else _asked_for(accept_version)
    return Rule(how, first.line_id, shares)


def read_rule(text: str | None, accept_version: str | None) -> Rule | None:
    """The rule in a log, for a request with this Accept-Version; None if there is none, or one of another version of ours."""
    found = _TEXT.fullmatch(text or "")
    if found is None:
        return None
    shares = [_SHARE.fullmatch(share) for share in found[4].split(" ")]
    weights = tuple((share[1], int(share[2]) * PER_PERCENT) for share in shares if share)
    if len(weights) != len(shares) or sum(weight for _, weight in weights) != BUCKETS:
        return None
    how = _asked_for(accept_version) if found[1] == _ASKED else How(found[1])
    return Rule(how, LineId(found[2], found[3]), weights)


def _asked_for(accept_version: str | None) -> How:
    if accept_version is None or accept_version == LATEST:
        return How.PIN
    return How.LINE if split_version(accept_version)[1] is None else How.EXACT
