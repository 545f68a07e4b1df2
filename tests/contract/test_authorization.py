"""Who may ask what: every kind of key with every path, method and version, at the running gateway.

The paths are generated from the domain. What is expected is not: it follows from the table below, which says for each kind
of key what it may do with each line, and from a few rules that this file states for itself.
"""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from dataclasses import dataclass, replace

import pytest

from fairlead.adapters.secrets import SecretsFile
from fairlead.domain.catalog import Catalog, with_key
from fairlead.domain.keys import Quota, Rate, Verb
from fairlead.domain.paths import VERBS, CustomPath, ModelPath, OpenPath, open_paths, parse_path
from fairlead.domain.ports import OldSecret
from fairlead.domain.table import RoutingTable, table_from
from fairlead.gateway.index import custom_paths, model_paths
from support.gateway import CLOCK, World, catalog, new_world, revision
from support.wire import Answer, Wire

pytestmark = [pytest.mark.enable_socket, pytest.mark.timeout(120)]

# What each kind of key may do: infer and read, of three lines.
TABLE = """
                 speech/v9      speech/v10     sentiment/v1
everything       infer read     infer read     infer read
old-secret       infer read     infer read     infer read
with-quota       infer read     infer read     infer read
service          infer read     infer read     -
line             infer read     -              -
infer-only       infer          infer          infer
read-only        read           read           read
line-and-verb    -              infer          -
mixed            infer          -              read
mixed-quota      infer          -              read
nothing          -              -              -
"""
SCOPES = {
    "everything": ("*",),
    "old-secret": ("*",),
    "with-quota": ("*",),
    "service": ("speech",),
    "line": ("speech/v9",),
    "infer-only": ("*:infer",),
    "read-only": ("speech:read", "sentiment:read"),
    "line-and-verb": ("speech/v10:infer",),
    "mixed": ("speech/v9:infer", "sentiment/v1:read"),
    "mixed-quota": ("speech/v9:infer", "sentiment/v1:read"),
    "nothing": (),
    "killed": ("*",),
    "killed-quota": ("speech/v9",),
}
UNKNOWN = {"no-key": None, "wrong-key": "s-wrong", "revoked": "s-revoked", "ended": "s-ended"}
KILLED = "stopped: call the platform team"
NO_KEY = "No API key found in request"
BAD_KEY = "Invalid authentication credentials"
NOT_YOURS = "You cannot consume this service"

# Which line a version means, by service; an artifact's version is answered by one line.
LINE_OF = {
    "speech": {None: "v9", "latest": "v9", "v9": "v9", "v9.2": "v9", "v10": "v10", "v10.1": "v10"},
    "sentiment": {None: "v1", "latest": "v1", "v1": "v1", "v1.1": "v1"},
}
LINE_OF_ARTIFACT = {"speech": {"1": "v9", "2": "v9", "3": "v10"}, "sentiment": {"1": "v1"}}
OWNERS = {
    "/api/stream": [("speech", "v9"), ("speech", "v10")],
    "/classify": [("sentiment", "v1")],
    "/shared": [("speech", "v9"), ("sentiment", "v1")],
}
VERB_OF = {
    **dict.fromkeys(("predict", "infer"), "infer"),
    **dict.fromkeys(("bio", "ready", "metadata", "config", "stats"), "read"),
}
# Paths of no service that tell by who asks, or are refused whoever does: the method and the status of a good key.
KEYED = {
    "/v2/models/stats": ("GET", 200),
    "/v2/repository/index": ("POST", 200),
    "/v2/repository/models/speech/load": ("POST", 403),
    "/v2/repository/models/nobody/unload": ("POST", 403),
    "/v2/logging": ("GET", 404),
    "/v2/models/speech/trace/setting": ("GET", 404),
}
METHODS_OF = {
    **{action: ["POST" if verb == "infer" else "GET"] for action, verb in VERB_OF.items()},
    "custom": ["GET", "POST"],
}
VERSIONS = [None, "latest", "v9", "v9.2", "v10", "v10.1", "v1", "v1.1", "v99"]
METHODS = ["GET", "POST", "DELETE"]

May = set[tuple[str, str, str]]  # service, line, verb


@dataclass(frozen=True)
class Question:
    kind: str
    secret: str | None
    method: str
    path: str
    version: str | None


def may() -> dict[str, May]:
    """The table above, read."""
    head, *rows = [line for line in TABLE.splitlines() if line.strip()]
    starts = [head.index(name) for name in head.split()]
    lines = [tuple(name.split("/")) for name in head.split()]
    found: dict[str, May] = {}
    for row in rows:
        cells = [row[start : start + 15].split() for start in starts]
        found[row.split()[0]] = {
            (service, line, verb)
            for (service, line), verbs in zip(lines, cells, strict=True)
            for verb in verbs
            if verb != "-"
        }
    return found


MAY = may()


def wanted() -> Catalog:
    paths = {"predict": (), "stream": ("/api/stream", "/shared")}
    found = catalog(
        revision("speech/v9.1", 1, paths),
        revision("speech/v9.2", 2, paths),
        revision("speech/v10.1", 3, {"predict": (), "stream": ("/api/stream",)}),
        revision("sentiment/v1.1", 1, {"predict": ("/classify", "/shared")}),
        traffic={
            "speech/v9": {"1": 50, "2": 50},
            "speech/v10": {"1": 100},
            "sentiment/v1": {"1": 100},
        },
        pins={"speech": "v9", "sentiment": "v1"},
        keys=SCOPES,
    )
    much = Quota(Rate(10**8, 1, 10**8), 10**6)
    for client in ("with-quota", "mixed-quota", "killed-quota"):
        found = with_key(found, replace(found.keys[client], quota=much))
    for client in ("killed", "killed-quota"):
        found = with_key(found, replace(found.keys[client], killed=KILLED))
    return found


def questions(table: RoutingTable) -> list[Question]:
    """Everything there is to ask."""
    paths = [
        *open_paths("v1"),
        *KEYED,
        "/nothing",
        "/v2/models/nobody/infer",
        "/v1/model/nobody/bio",
    ]
    for service in table.services.values():
        paths += [*model_paths(service, "v1"), *custom_paths(service, "v1")]
        paths += [
            path.removesuffix("/ready") + f"/{action}"
            for path in model_paths(service, "v1")
            if path.endswith("/ready")
            for action in ("config", "stats")
        ]
    secrets: dict[str, str | None] = {kind: f"s-{kind}" for kind in SCOPES}
    secrets |= {"old-secret": "s-before", **UNKNOWN}
    return [
        Question(kind, secret, method, path, version)
        for path in dict.fromkeys(paths)
        for kind, secret in secrets.items()
        for method in METHODS
        # A wrong method and an open path do not depend on the version: one of them is enough.
        for version in (VERSIONS if method == right_method(path) else [None])
    ]


def right_method(path: str) -> str:
    found = parse_path(path, "v1")
    return (
        "-"
        if isinstance(found, OpenPath)
        else "GET"
        if "HEAD" in found.methods
        else found.methods[-1]
    )


def expected(ask: Question) -> tuple[int, str, str]:
    """Status, message (empty: any) and line that serves (empty: none)."""
    if ask.path in open_paths("v1") and ask.path not in KEYED:
        return (200 if ask.method == "GET" else 405), "", ""
    if ask.kind in UNKNOWN:
        return 401, NO_KEY if ask.secret is None else BAD_KEY, ""
    return expected_with_key(ask)


def expected_of_keyed(ask: Question) -> tuple[int, str, str]:
    method, status = KEYED[ask.path]
    if ask.method != method and not (status == 404 and ask.method == "POST"):
        return 405, "", ""
    return (403, KILLED, "") if ask.kind.startswith("killed") else (status, "", "")


def expected_with_key(ask: Question) -> tuple[int, str, str]:
    if ask.path in KEYED:
        return expected_of_keyed(ask)
    found = parse_path(ask.path, "v1")
    if "nobody" in ask.path or ask.path == "/nothing" or isinstance(found, OpenPath):
        return 404, "", ""
    action = found.action if isinstance(found, ModelPath) else "custom"
    if ask.method not in METHODS_OF[action]:
        return 405, "", ""
    if ask.kind.startswith("killed"):
        return 403, KILLED, ""
    if isinstance(found, CustomPath):
        return expected_of_custom_path(ask, MAY[ask.kind])
    return expected_of_model_path(ask, found, VERB_OF[action], MAY[ask.kind])


def expected_of_model_path(
    ask: Question, path: ModelPath, verb: str, mine: May
) -> tuple[int, str, str]:
    service = path.service
    lines = {line for one, line, what in mine if (one, what) == (service, verb)}
    if not lines:
        return 403, NOT_YOURS, ""
    line = LINE_OF[service].get(ask.version)
    if path.artifact_version is not None:
        return expected_of_artifact(ask, service, path.artifact_version, lines)
    if line is None:
        return 404, "", ""
    return (200, "", line) if line in lines else (403, NOT_YOURS, "")


def expected_of_artifact(
    ask: Question, service: str, artifact: str, lines: set[str]
) -> tuple[int, str, str]:
    answers = LINE_OF_ARTIFACT[service][artifact]
    asked = answers if ask.version is None else LINE_OF[service].get(ask.version)
    if answers not in lines or (asked is not None and asked not in lines):
        return 403, NOT_YOURS, ""
    if asked is None:
        return 404, "", ""
    same = asked == answers and (ask.version != "v9.2" or artifact == "2")
    return (200, "", answers) if same else (400, "", "")


def expected_of_custom_path(ask: Question, mine: May) -> tuple[int, str, str]:
    owners = OWNERS[ask.path]
    services = {service for service, _ in owners}
    infer = {(service, line) for service, line, what in mine if what == "infer"}
    own = {service for service in services if any(one == service for one, _ in infer)}
    if not own:
        return 403, NOT_YOURS, ""
    meant = {(service, LINE_OF[service].get(ask.version)) for service in own}
    there = [one for one in owners if one in meant]
    open_to_me = [line for service, line in there if (service, line) in infer]
    if len(open_to_me) == 1:
        return 200, "", open_to_me[0]
    if open_to_me:
        return 404, "", ""  # several services answer
    return (403, NOT_YOURS, "") if there else (404, "", "")


def difference(ask: Question, got: Answer) -> str:
    """Empty if it is as it should be."""
    status, message, line = expected(ask)
    served = got.headers.get("x-served-version", "")
    if ask.path.endswith("/stats"):
        line = ""  # put together from all lines that the key may read
    if ask.path in open_paths("v1") and status == got.status == 200 and not served:
        return told_too_much(ask, got) if ask.path in KEYED else ""
    if ask.path in ("/healthz", "/v1/ready", "/v2/health/ready") and got.status == 503:
        return ""
    if got.status != status or served.partition(".")[0] != line or status == 200:
        right = got.status == status and served.partition(".")[0] == line
        return "" if right else f"{status} {line} expected, but {got}"
    body = json.loads(got.body)
    if list(body) != ["error" if ask.path.startswith("/v2") else "message"]:
        return f"another shape: {got}"
    text = next(iter(body.values()))
    if message and text != message:
        return f"{message!r} expected, but {got}"
    return hidden_names(ask, text)


def told_too_much(ask: Question, got: Answer) -> str:
    """The index holds the versions of the key's own lines, and only those."""
    body = json.loads(got.body)
    if ask.path.endswith("/stats"):
        return "" if body == {"model_stats": []} else f"nothing was asked yet, but {got}"
    mine = {(service, line) for service, line, verb in MAY[ask.kind] if verb == "read"}
    wanted = {
        (service, version)
        for service, lines in LINE_OF_ARTIFACT.items()
        for version, line in lines.items()
        if (service, line) in mine
    }
    named = {(one["name"], one["version"]) for one in body}
    ready = all(one["state"] == "READY" for one in body)
    return "" if named == wanted and ready else f"{wanted} expected, but {got}"


def hidden_names(ask: Question, text: str) -> str:
    """A refusal names no version of a line that this key may not use."""
    _, _, listed = text.partition("versions: ")
    lines = {line for _, line, _ in MAY.get(ask.kind, set())}
    told = {version.partition(".")[0] for version in listed.split(", ") if version[:1] == "v"}
    return f"names {told - lines}: {text}" if told - lines else ""


def test_the_table_and_the_verbs_are_whole() -> None:
    assert set(MAY) == set(SCOPES) - {"killed", "killed-quota"}
    assert {one for mine in MAY.values() for *_, one in mine} == set(Verb)
    assert VERB_OF.items() == VERBS.items()


async def test_every_key_gets_what_the_table_says_and_nothing_else() -> None:
    async with new_world() as world:
        world.set_catalog(wanted())
        world.set_keys({kind: f"s-{kind}" for kind in SCOPES} | {"gone": "s-revoked"})
        before = (OldSecret("s-before", CLOCK.now() + 600), OldSecret("s-ended", CLOCK.now() - 1))
        SecretsFile(world.home.keys).put("old-secret", "s-old-secret", before)
        for number, one in enumerate(wanted().live()):
            await world.add_worker(f"w{number}", str(one))
        world.write_status()
        async with world.running():
            await world.routed()
            ready = {worker.replica.revision for worker in world.workers.values()}
            asked = questions(table_from(world.catalogs.read(), ready, {}, RoutingTable()))
            differences, seen = await ask_all(world, asked)
    print(f"{len(asked)} questions: {dict(seen)}")
    assert not differences, f"{len(differences)} differ\n" + "\n".join(differences[:9])
    assert set(seen) >= {200, 400, 401, 403, 404, 405}
    assert len(asked) > 1000


async def ask_all(world: World, asked: list[Question]) -> tuple[list[str], Counter[int]]:
    differences: list[str] = []
    seen: Counter[int] = Counter()

    async def some(share: list[Question]) -> None:
        wire = Wire("127.0.0.1", world.settings.port)
        for one in share:
            headers = [("X-Api-Key", one.secret)] if one.secret else []
            headers += [("Accept-Version", one.version)] if one.version else []
            got = await wire.ask(one.method, one.path, headers)
            seen[got.status] += 1
            if found := difference(one, got):
                differences.append(f"{one}: {found}")
        await wire.close()

    async with asyncio.TaskGroup() as group:
        for number in range(16):
            group.create_task(some(asked[number::16]))
    return differences, seen
