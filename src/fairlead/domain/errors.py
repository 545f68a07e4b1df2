"""The error tree. An error has a kind; each transport owns one table from kinds to its own codes.

FairleadError
├── InvalidInput        a document of ours is wrong; carries one Problem per mistake
├── SchemaMismatch      a request is not what the model's schema asks for; carries one FieldError per mistake
├── Refused             anything else that is answered with a kind and a message
└── StoreConflict       somebody else moved the head first; the caller reads again and retries
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum


class Kind(StrEnum):
    """What went wrong, in words no transport owns."""

    INVALID = "invalid"  # malformed or contradictory input
    SCHEMA = "schema"  # well-formed, but not what the model's schema asks for
    UNAUTHENTICATED = "unauthenticated"
    FORBIDDEN = "forbidden"
    NOT_FOUND = "not_found"
    METHOD = "method"  # the path exists, the method does not
    FORMAT = "format"  # the caller takes no form that the answer can have
    ENCODING = "encoding"  # the body is compressed in a way that is not read here
    CONFLICT = "conflict"  # the state of the store says no
    TOO_LARGE = "too_large"
    OVERLOADED = "overloaded"  # a limit of ours is reached: try again later
    QUOTA = "quota"  # the caller's key has used up what it may ask
    UNAVAILABLE = "unavailable"  # not ready, or switched off
    DEADLINE = "deadline"
    CANCELLED = "cancelled"  # the client left
    MODEL = "model"  # the model's own code failed
    INTERNAL = "internal"


@dataclass(frozen=True, slots=True)
class Problem:
    """One mistake: where it is, what was wrong, what would be right."""

    where: str
    wrong: str
    right: str

    def __str__(self) -> str:
        place = f"{self.where}: " if self.where else ""
        return f"{place}{self.wrong}; {self.right}" if self.right else f"{place}{self.wrong}"


class FairleadError(Exception):
    """Base of every error a user may see. `str(error)` is complete and safe to show."""

    kind: Kind = Kind.INTERNAL

    def __init__(self, message: str, *, kind: Kind | None = None) -> None:
        super().__init__(message)
        self.message = message
        if kind is not None:
            self.kind = kind


class Refused(FairleadError):
    """A request that is answered with a kind and a message."""

    def __init__(self, kind: Kind, message: str) -> None:
        super().__init__(message, kind=kind)


class InvalidInput(FairleadError):
    """A document that is not what it should be; all its problems at once."""

    kind = Kind.INVALID

    def __init__(self, source: str, problems: Sequence[Problem]) -> None:
        self.source = source
        self.problems = tuple(problems)
        prefix = f"{source}: " if source else ""
        super().__init__("\n".join(f"{prefix}{problem}" for problem in self.problems))


@dataclass(frozen=True, slots=True)
class FieldError:
    """One mistake in a request document: where (keys and indexes from the body down), what, which rule."""

    loc: tuple[str | int, ...]
    msg: str
    type: str


class SchemaMismatch(FairleadError):
    """A well-formed request that is not what the model's schema asks for."""

    kind = Kind.SCHEMA

    def __init__(self, errors: Sequence[FieldError]) -> None:
        self.errors = tuple(errors)
        super().__init__(
            "; ".join(f"{'.'.join(map(str, error.loc))}: {error.msg}" for error in self.errors)
        )


class StoreConflict(FairleadError):
    """A conditional write found something else than it expected."""

    kind = Kind.CONFLICT
