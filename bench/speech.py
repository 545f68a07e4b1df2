"""Streams of sound through a running `fairlead up`: how soon, how steady, how many, from zero, while releases go on.

The voices are the example's (espeak-ng), and one that hums: it ticks at a pace, and each text has a sound of its own.
"""

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from threading import Event
from time import perf_counter, sleep

from bench import processes
from bench.figures import OTHERS, Absent, Fact, Results
from bench.speaking import BYTES_PER_SECOND, MP3, Node, texts, wrong
from bench.subject import Failed

SUITE = "speech"
FIRST = "espeak voice, 1,000 characters"
PACED = "paced voice, 1,000 characters"
GAPS = "gap between chunks"
AT_ONCE = "32 streams at once"
ZERO = "from zero"
BURST = "100 at a cold revision"
RELEASES = "20 releases under streams"

_SENTENCE = "The harbour is calm this morning, and the ferry leaves at nine. "
_THOUSAND = (_SENTENCE * 16)[:999] + "."
_TIMES, _QUICK_TIMES = 50, 5
_LEFT_SECONDS = 0.2  # until the place of a caller who left is surely free
_TICKS = 200  # characters: 600 ticks
_STREAMS = 32
_CHECKS_AT_ONCE = 2
_LEAST_CHECKS = 200
_CHECK_PAUSE = 0.01
_WINDOW = 6  # seconds, the shortest there is
_ZERO_SECONDS = 90.0
_BURST = 100
_LIKE = 0.01
_ONE = {"minScale": 1, "maxScale": 1}
_MOVING = 3  # streams under way while releases go on
_MOVED_SECONDS = 30.0

Tell = Callable[[str], None]


class Notes:
    """The facts of this suite, told as they come."""

    def __init__(self, results: Results, tell: Tell, *, quick: bool) -> None:
        self.results, self.tell, self.quick = results, tell, quick

    def add(self, subject: str, what: str, value: float, unit: str = "") -> None:
        self.every(subject, what, [value], unit)

    def every(self, subject: str, what: str, values: list[float], unit: str = "") -> None:
        self.results.facts += [Fact(SUITE, subject, what, one, unit) for one in values]
        several = f" (median of {len(values)})" if len(values) > 1 else ""
        self.tell(f"{subject}: {what} {median(values):.3g} {unit}".rstrip() + several)

    def spread(self, subject: str, what: str, values: list[float], unit: str) -> None:
        """All of them, whose median counts, and their 99th percentile."""
        self.every(subject, what, values, unit)
        self.add(subject, f"{what}, p99", p99(values), unit)

    def try_(self, subjects: tuple[str, ...], act: Callable[[], None]) -> None:
        """Measure something; what fails is absent, and the others go on."""
        try:
            act()
        except Failed as error:
            self.tell(f"not measured: {error}")
            self.results.absents += [Absent(one, "", "", str(error)) for one in subjects]


def p99(values: list[float]) -> float:
    """Of less than a hundred, the greatest."""
    return sorted(values)[int(0.99 * len(values))]


def measure(folder: Path, results: Results, tell: Tell, *, quick: bool) -> None:
    """All of it: first with everything warm, then from zero."""
    notes = Notes(results, tell, quick=quick)
    warm = (FIRST, PACED, GAPS, AT_ONCE, RELEASES)
    notes.try_(warm, lambda: _warm(_node(folder, "warm"), notes))
    notes.try_((ZERO, BURST), lambda: _cold(_node(folder, "zero"), notes))


def _node(folder: Path, name: str) -> Node:
    own = folder / name
    own.mkdir()
    return Node(own)


def _warm(node: Node, notes: Notes) -> None:
    grows = {"minScale": 1, "maxScale": 4, "concurrency": 1}  # as the example's
    releases = [
        node.release("espeak", "speech/1", 1, stream=grows),
        node.release("tick", "hum/1", 1, stream=grows),
        node.release(
            "many",
            "hum/1",
            1,
            stream=grows,
            validate=_ONE | {"concurrency": 4},
        ),
        node.release("moving", "hum/1", 1, stream=_ONE | {"concurrency": _MOVING + 1}),
    ]
    ready = {
        "/espeak/stream": _SENTENCE,
        "/tick/stream": "hm",
        "/many/stream": "hm",
        "/moving/stream": "hm",
    }
    with node.up(releases, {}, ready) as tree, _watched(tree, notes, "warm"):
        notes.try_((FIRST,), lambda: _first(node, notes))
        notes.try_((PACED,), lambda: _paced(node, notes))
        notes.try_((GAPS,), lambda: _gaps(node, notes))
        notes.try_((AT_ONCE,), lambda: _at_once(node, notes))
        notes.try_((RELEASES,), lambda: _releases(node, notes))


@contextmanager
def _watched(tree: processes.Tree, notes: Notes, what: str) -> Iterator[None]:
    """What others used meanwhile: not the tree, and not we."""
    held, busy, began = tree.usage().cpu_seconds, processes.busy_seconds(), perf_counter()
    yield
    used, spent = processes.busy_seconds() - busy, perf_counter() - began
    others = (used - tree.usage().cpu_seconds + held) / spent
    notes.add(f"everything {what}", OTHERS, max(others, 0.0))


def _first(node: Node, notes: Notes) -> None:
    """The first byte of the example's voice, and how much faster than a listener it speaks."""
    caller, path = node.caller, "/espeak/stream"
    spoken = len(caller.stream(path, _THOUSAND).sound) / BYTES_PER_SECOND
    shares, factors = [], []
    for _ in range(3):
        whole = caller.stream(path, _THOUSAND, MP3)
        shares.append(100 * whole.times[0] / whole.times[-1])
        factors.append(whole.times[-1] / spoken)
    times = _first_bytes(node, path, notes)
    notes.spread(FIRST, "first byte", times, "ms")
    notes.every(FIRST, "share of the stream's time at the first byte", shares, "%")
    notes.every(FIRST, "real-time factor, MP3", factors)
    notes.add(FIRST, "sound", spoken, "s")


def _paced(node: Node, notes: Notes) -> None:
    path = "/tick/stream"
    text = texts(1, 1000)[0]
    whole = node.caller.stream(path, text)
    if fault := wrong(text, whole.sound):
        raise Failed(fault)
    times = _first_bytes(node, path, notes, text)
    notes.spread(PACED, "first byte", times, "ms")
    shares = [one / 10 / whole.times[-1] for one in times]
    notes.spread(PACED, "share of the sound's time at the first byte", shares, "%")


def _first_bytes(node: Node, path: str, notes: Notes, text: str = _THOUSAND) -> list[float]:
    """Milliseconds, of callers who come one after another and leave with the first byte."""
    found = []
    for _ in range(_QUICK_TIMES if notes.quick else _TIMES):
        found.append(1e3 * node.caller.first_byte(path, text))
        sleep(_LEFT_SECONDS)
    return found


def _gaps(node: Node, notes: Notes) -> None:
    """The same ticking text, in turn from a worker's own socket and through the gateway in both its ways."""
    (text,) = texts(1, _TICKS)
    ways = {
        "from the worker": (node.worker("moving", "stream"), "/moving/stream"),
        "through the gateway": (node.caller, "/moving/stream"),
        "through the gateway's activator": (node.caller, "/tick/stream"),
    }
    gaps: dict[str, list[float]] = {way: [] for way in ways}
    for _ in range(1 if notes.quick else 4):
        for way, (caller, path) in ways.items():
            stream = caller.stream(path, text)
            if fault := wrong(text, stream.sound):
                raise Failed(f"{way}: {fault}")
            gaps[way] += [1e3 * one for one in stream.gaps]
    for way, found in gaps.items():
        notes.add(GAPS, f"{way}, median", median(found), "ms")
        notes.add(GAPS, f"{way}, p99", p99(found), "ms")
        notes.add(GAPS, f"{way}, greatest", max(found), "ms")
        notes.add(GAPS, f"{way}, gaps", len(found))
    direct, gateway, held = (p99(found) for found in gaps.values())
    notes.add(GAPS, "added by the gateway, p99", gateway - direct, "ms")
    notes.add(GAPS, "added by the gateway and its activator, p99", held - direct, "ms")


def _at_once(node: Node, notes: Notes) -> None:
    """The first time one replica is there, the second time all of them are."""
    said = texts(_STREAMS, 30)
    checks: list[float] = []
    with ThreadPoolExecutor(_STREAMS + _CHECKS_AT_ONCE) as pool:
        for turn in ("with one replica", "with all replicas"):
            over = Event()
            checking = [pool.submit(_checks, node, over) for _ in range(_CHECKS_AT_ONCE)]
            began = perf_counter()
            try:
                faults = list(pool.map(lambda text: _heard(node, "/many/stream", text), said))
            finally:
                over.set()
            spent = perf_counter() - began
            checks += [one for each in checking for one in each.result()]
            lost = [one for one in faults if one.startswith("lost")]
            mixed = [one for one in faults if one.startswith("mixed")]
            for fault in (*lost[:2], *mixed[:2]):
                notes.tell(fault)
            notes.add(AT_ONCE, f"lost, {turn}", len(lost))
            notes.add(AT_ONCE, f"mixed, {turn}", len(mixed))
            notes.add(AT_ONCE, f"all heard, {turn}", spent, "s")
    if len(checks) < _LEAST_CHECKS:
        raise Failed(f"only {len(checks)} checks were made")
    notes.add(AT_ONCE, "checks meanwhile", len(checks))
    notes.add(AT_ONCE, "validate meanwhile, median", 1e3 * median(checks), "ms")
    notes.add(AT_ONCE, "validate meanwhile, p99", 1e3 * p99(checks), "ms")


def _checks(node: Node, over: Event) -> list[float]:
    found: list[float] = []
    connection = node.caller.connection()
    try:
        while not over.is_set():
            found.append(node.caller.check(connection, "/many/input_validated", _SENTENCE))
            sleep(_CHECK_PAUSE)
    finally:
        connection.close()
    return found


def _heard(node: Node, path: str, text: str) -> str:
    """What was wrong with a stream of this text; empty if it came whole and is its own text's."""
    try:
        stream = node.caller.stream(path, text)
    except Failed as error:
        return f"lost: {error}"
    fault = wrong(text, stream.sound)
    return f"mixed: {fault}" if fault else ""


def _releases(node: Node, notes: Notes) -> None:
    """New revisions, one as soon as the one before it speaks; a stream has its end after some of them."""
    said = texts(_MOVING, 150)  # 9 s of sound, made in somewhat more than 2
    count = 3 if notes.quick else 20
    times = []
    with ThreadPoolExecutor(_MOVING) as pool, _always(pool, node, said) as streaming:
        for revision in range(2, count + 2):
            release = node.release(
                "moving", "hum/1", revision, stream=_ONE | {"concurrency": _MOVING + 1}
            )
            began = perf_counter()
            node.apply(release)
            _served(node, revision, began)
            times.append(perf_counter() - began)
    faults = [fault for one in streaming for fault in one.result()]
    bad = [one for one in faults if one]
    for fault in bad[:3]:
        notes.tell(fault)
    notes.add(RELEASES, "releases", count)
    notes.every(RELEASES, "a release served after", times, "s")
    notes.add(RELEASES, "streams meanwhile", len(faults))
    notes.add(RELEASES, "cut or mixed", len(bad))


@contextmanager
def _always(
    pool: ThreadPoolExecutor, node: Node, said: list[str]
) -> Iterator[list[Future[list[str]]]]:
    """A stream of each of these texts under way, all the time."""
    over = Event()

    def ask(text: str) -> list[str]:
        found = []
        while not over.is_set():
            found.append(_heard(node, "/moving/stream", text))
        return found

    streaming = [pool.submit(ask, text) for text in said]
    try:
        yield streaming
    finally:
        over.set()


def _served(node: Node, revision: int, began: float) -> None:
    while True:
        version = node.caller.stream("/moving/stream", "hm").version
        if version == f"v1.{revision}":
            return
        if perf_counter() - began > _MOVED_SECONDS:
            raise Failed(f"v1.{revision} does not speak, but {version}")
        sleep(0.02)


def _cold(node: Node, notes: Notes) -> None:
    scale = {"minScale": 0, "maxScale": 4, "concurrency": 1}
    release = node.release("cold", "speech/1", 1, stream=scale)
    path = "/cold/stream"
    # Nothing kept for the next start: what is measured is a start from no process at all.
    window = {"FAIRLEAD_SCALE_WINDOW": str(_WINDOW), "FAIRLEAD_SPARE_SECONDS": "0"}
    with (
        node.up([release], window, {path: _SENTENCE}) as tree,
        _watched(tree, notes, "from zero"),
    ):
        reference = len(node.caller.stream(path, _SENTENCE).sound)
        _at_zero(node, tree)
        firsts = []
        for _ in range(1 if notes.quick else 3):
            firsts.append(node.caller.first_byte(path, _SENTENCE))
            notes.add(ZERO, "zero again after", _at_zero(node, tree), "s")
        notes.every(ZERO, "first byte", firsts, "s")
        notes.add(ZERO, "first byte, slowest", max(firsts), "s")
        began = perf_counter()
        with ThreadPoolExecutor(_BURST) as pool:
            faults = list(pool.map(lambda _: _same(node, path, reference), range(_BURST)))
        spent = perf_counter() - began
        lost = [one for one in faults if one]
        for fault in lost[:3]:
            notes.tell(fault)
        notes.add(BURST, "lost", len(lost))
        notes.add(BURST, "all heard", spent, "s")
        after = _at_zero(node, tree)
        notes.add(BURST, "zero again after", after, "s")
        workers, voices, reserve = node.speaking(tree)
        notes.add(BURST, "workers and voices left", workers + voices)
        notes.add(BURST, "workers without a service kept for the next start", reserve)


def _same(node: Node, path: str, length: int) -> str:
    try:
        found = len(node.caller.stream(path, _SENTENCE).sound)
    except Failed as error:
        return f"lost: {error}"
    # The same text takes espeak-ng some samples more or less, by what it said before.
    right = abs(found - length) < _LIKE * length
    return "" if right else f"cut: {found} bytes instead of {length}"


def _at_zero(node: Node, tree: processes.Tree) -> float:
    """Seconds until no worker and no voice is there, but the one that waits for whichever service is asked for next."""
    began = perf_counter()
    while any((left := node.speaking(tree))[:2]):
        if perf_counter() - began > _ZERO_SECONDS:
            raise Failed(f"{left[0]} workers and {left[1]} voices are still there")
        sleep(0.2)
    return perf_counter() - began
