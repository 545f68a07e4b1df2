"""What each error code means, what usually causes it, what to do: the text of `docs/reference/errors.md`.

A code is a `Kind`; the command line has a few outcomes of its own. The page is made from these tables.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from fairlead.domain.errors import Kind

# Exit codes of the commands.
DONE = 0
FAILED = 1
USAGE = 2  # the command-line library's own
UNEXPECTED = 70  # EX_SOFTWARE of sysexits
REFUSED = 78  # EX_CONFIG of sysexits: started again, a process would fail the same way
INTERRUPTED = 130  # 128 + SIGINT, as shells have it
UNREAD = 141  # 128 + SIGPIPE

SYSTEM = "system"  # the code of what the operating system refused a command


@dataclass(frozen=True, slots=True)
class Explanation:
    """One code's section: a sentence, usual causes, what to do."""

    meaning: str
    causes: tuple[str, ...]
    mend: str


EXPLANATIONS: Mapping[Kind, Explanation] = {
    Kind.INVALID: Explanation(
        "What was given is malformed or contradicts itself.",
        (
            "a release file, a model.yaml or an option with a mistake",
            "a request body that is not JSON, or lacks a tensor",
            "two versions asked for at once",
        ),
        "The message names the place, what was wrong and what would be right. `fairlead validate FILE` checks a "
        "release file without a store; `fairlead docs release` lists its keys.",
    ),
    Kind.SCHEMA: Explanation(
        "The request is well-formed, but not what the model's schema asks for.",
        ("a field is missing, has another type, or a list has another length",),
        "`detail` names each place. `/openapi.json`, or `fairlead models show NAME/VERSION`, tells what the model takes.",
    ),
    Kind.UNAUTHENTICATED: Explanation(
        "The request carries no key, an unknown key, or two.",
        (
            "the header `X-Api-Key` is missing or has a typing error",
            "the key was rotated or revoked",
        ),
        "Send one valid key. `fairlead keys ls` lists the names, `fairlead keys create NAME` makes one.",
    ),
    Kind.FORBIDDEN: Explanation(
        "The key is valid, but not for this; or a directory belongs to somebody else.",
        (
            "the key is limited to other services",
            "the home's socket directory was made by another user",
        ),
        "Ask for a key that may (`fairlead keys allow NAME SCOPE`), or run the command as the user who owns the home.",
    ),
    Kind.NOT_FOUND: Explanation(
        "What was named is not there.",
        (
            "a path, service or version with a typing error, or one this key may not see",
            "an artifact that is not published",
            "no Fairlead home here",
        ),
        "The message lists what is there. `GET /` shows the paths, `fairlead status` the services, `fairlead models ls` "
        "the artifacts; `--home` names a home.",
    ),
    Kind.METHOD: Explanation(
        "The path exists, the method does not.",
        ("GET where POST is meant",),
        "The header `Allow` lists the methods.",
    ),
    Kind.FORMAT: Explanation(
        "The caller takes no form that the answer can have.",
        ("an `Accept` header that names only forms of sound that are not made here",),
        "Accept `audio/mpeg`, `audio/ogg` (Opus), `audio/wav` or `audio/pcm`, or send no `Accept`.",
    ),
    Kind.ENCODING: Explanation(
        "The body is compressed in a way that is not read here.",
        ("a `Content-Encoding` other than `gzip`, `deflate` or `identity`, or several of them",),
        "Compress with gzip or deflate, or send the body as it is.",
    ),
    Kind.CONFLICT: Explanation(
        "The present state says no.",
        (
            "an artifact is published under that version with other bytes",
            "Fairlead runs here already, or something else has the port",
            "a command waited until its change was live, and somebody moved or deleted it meanwhile",
            "a document was written by a newer Fairlead, or is damaged",
        ),
        "The message names what is in the way. Give a new version, another port or another home; `fairlead doctor` finds "
        "what is left of dead processes.",
    ),
    Kind.TOO_LARGE: Explanation(
        "The body, the headers or the URL are larger than the server takes.",
        ("a body over FAIRLEAD_SERVING_BODY_LIMIT_BYTES (64 MiB)",),
        "Send less at once, or raise the limit.",
    ),
    Kind.OVERLOADED: Explanation(
        "A limit of ours is reached: every place and the queue are full.",
        (
            "more requests at once than `concurrency` and its queue hold, or than `batching.maxQueueSize`",
        ),
        "Try again after a pause, send less at once, or raise `concurrency`, `maxQueueSize` or the replicas in the release file.",
    ),
    Kind.QUOTA: Explanation(
        "The key has used up its quota: it asks more often, or more at once, than it may.",
        ("a key with `--rate` or `--concurrency`, in use over its limit",),
        "Wait as many seconds as `Retry-After` says; `fairlead keys ls` shows quotas, `fairlead keys limit NAME` changes them.",
    ),
    Kind.UNAVAILABLE: Explanation(
        "What should answer is not ready, not running, or switched off.",
        (
            "the revision is still loading, or its worker ended",
            "the service was switched off by `fairlead kill`",
            "too many of the endpoint's requests failed: it is switched off for 60 s",
            "nothing runs here, or the store is not there",
        ),
        "`fairlead status` gives the reason; `fairlead revive SERVICE` switches on again; `fairlead up` starts.",
    ),
    Kind.DEADLINE: Explanation(
        "There was no answer within the time there was.",
        (
            "a slow model, or too many requests before this one",
            "loading and golden examples take longer than `--timeout`",
            "a change is in the catalog, but not live yet",
        ),
        "Give more time, or send less at once; `fairlead status` says what is still under way.",
    ),
    Kind.CANCELLED: Explanation(
        "The client left before the answer; nobody reads this one. It stands in logs and metrics.",
        ("the client's own timeout", "a closed connection"),
        "Nothing to do, unless there are many: then compare the client's timeout with the model's latency.",
    ),
    Kind.MODEL: Explanation(
        "The model's own code failed.",
        (
            "it raised an error, or answered something of another type",
            "it does not load, ends its process, or misses its golden examples",
        ),
        "The worker's log in `logs/` of the home (for `fairlead publish`: `logs/publish.jsonl`) has the model's own words; "
        "the request id finds them: `fairlead logs --request ID`.",
    ),
    Kind.INTERNAL: Explanation(
        "A fault of Fairlead.",
        ("a bug, or a broken installation",),
        "Report it, with the request id and the log, or with the file the command names.",
    ),
}

# Outcomes of commands that are no kind: code, exit code, explanation.
OUTCOMES: tuple[tuple[str, int, Explanation], ...] = (
    (
        SYSTEM,
        FAILED,
        Explanation(
            "The operating system refused something to a command.",
            ("no permission", "a full disk", "a file where a directory is needed"),
            "The message names the file. `fairlead doctor` checks disk, permissions and limits.",
        ),
    ),
    (
        "usage",
        USAGE,
        Explanation(
            "The command was called wrongly.",
            ("an unknown command or option", "an argument is missing"),
            "Every command explains itself with `--help`.",
        ),
    ),
    (
        "interrupted",
        INTERRUPTED,
        Explanation(
            "Ctrl-C, before the command was done.",
            ("SIGINT",),
            "What it did so far is whole or not there; call it again.",
        ),
    ),
)
