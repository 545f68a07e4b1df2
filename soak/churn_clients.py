"""Who asks in a churn: for answers that are checked, to leave, with too little time; and who loads and unloads."""

import asyncio
import json
import random
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from bench.subject import Case

from soak import wire
from soak.churn_results import Results
from soak.wire import Answer, Pair

_OK, _UNAVAILABLE, _DEADLINE = 200, 503, 504
_STUCK_SECONDS = 40.0  # beyond every deadline of the server's own
_CHANGE_SECONDS = 60.0  # loading waits for what is under way, on a busy machine too
_MOST_ROWS = 4
_LEAVING_SHARE = 0.4
_LEAVE_SECONDS = 0.02
_SHORT_MS = 20
_TOLERANCE = 1e-4


@dataclass(slots=True)
class Model:
    """One model and what is surely known of it."""

    case: Case
    loaded: bool = True
    changing: bool = False
    epoch: int = 0  # counts its changes

    @property
    def known(self) -> tuple[int, bool, bool]:
        return self.epoch, self.changing, self.loaded


@dataclass(slots=True)
class Crowd:
    """Everybody who asks. `paused` is when they may not."""

    port: int
    models: list[Model]
    results: Results
    random: random.Random
    going: asyncio.Event = field(default_factory=asyncio.Event)
    idle: asyncio.Event = field(default_factory=asyncio.Event)
    busy: int = 0  # requests and changes under way

    @contextmanager
    def working(self) -> Iterator[None]:
        """Something is under way."""
        self.busy += 1
        self.idle.clear()
        try:
            yield
        finally:
            self.busy -= 1
            if not self.busy:
                self.idle.set()

    def failed(self, text: str) -> None:
        self.results.failures.append(text)

    async def asks(self, kind: str) -> None:
        """One request after another on a kept connection, each answer checked. Runs until cancelled."""
        pair: Pair | None = None
        try:
            while True:
                await self.going.wait()
                with self.working():
                    pair = await self._ask(kind, pair)
        finally:
            if pair is not None:
                wire.reset(pair)

    async def _ask(self, kind: str, pair: Pair | None) -> Pair | None:
        """The connection, if it may be used again."""
        model, rows = self.random.choice(self.models), self.random.randint(1, _MOST_ROWS)
        headers: dict[str, str] = {}
        if kind == "hurried":
            headers["X-Request-Timeout-Ms"] = str(self.random.randint(1, _SHORT_MS))
        before = model.known
        try:
            async with asyncio.timeout(_STUCK_SECONDS):
                pair = pair or await wire.connect(self.port)
                pair[1].write(_message(model.case, rows, headers))
                answer = await wire.read(pair[0])
        except TimeoutError:
            self.failed(f"{kind}: {model.case.name} was not answered within {_STUCK_SECONDS:.0f} s")
            return _dropped(pair)
        except (OSError, asyncio.IncompleteReadError) as error:
            self.failed(f"{kind}: {model.case.name}: the connection broke: {error!r}")
            return _dropped(pair)
        self.results.count(f"{kind}, {answer.status}")
        wrong = self.wrong(kind, answer, model, rows, before)
        if wrong:
            self.failed(f"{kind}: {model.case.name}: {wrong}")
        return pair if answer.keeps else _dropped(pair)

    def wrong(
        self, kind: str, answer: Answer, model: Model, rows: int, before: tuple[int, bool, bool]
    ) -> str:
        """What is wrong with an answer; empty if it is one that may come."""
        sure = before == model.known and not model.changing
        shown = f"{answer.status} {answer.body[:200]!r}"
        if answer.status == _OK:
            if sure and not model.loaded:
                return f"answered though it is unloaded: {shown}"
            return "" if is_right(model.case, rows, answer.body) else f"wrong answer: {shown}"
        if answer.status == _UNAVAILABLE:
            return "" if not (sure and model.loaded) or kind == "hurried" else shown
        if answer.status == _DEADLINE and kind == "hurried":
            return ""
        return shown

    async def leaves(self) -> None:
        """Ask and go away: before, while or after the whole question is sent. Runs until cancelled."""
        while True:
            await self.going.wait()
            with self.working():
                await self._leave()

    async def _leave(self) -> None:
        model = self.random.choice(self.models)
        message = _message(model.case, _MOST_ROWS, {})
        try:
            async with asyncio.timeout(_STUCK_SECONDS):
                pair = await wire.connect(self.port)
                if self.random.random() < 1 / 3:
                    message = message[: self.random.randrange(1, len(message))]
                pair[1].write(message)
                await asyncio.sleep(self.random.uniform(0, _LEAVE_SECONDS))
                wire.reset(pair)
        except (OSError, TimeoutError) as error:
            self.failed(f"leaving: could not connect: {error!r}")
        self.results.count("left")

    async def changes(self, mine: list[Model]) -> None:
        """Load and unload these models, of which nobody else is in charge. Runs until cancelled."""
        while True:
            await self.going.wait()
            with self.working():
                model = self.random.choice(mine)
                # Unloaded ones come back sooner than loaded ones go.
                if not model.loaded or self.random.random() < _LEAVING_SHARE:
                    await self.change(model, load=not model.loaded)
            await asyncio.sleep(self.random.uniform(0, 2 * _LEAVE_SECONDS))

    async def change(self, model: Model, *, load: bool) -> None:
        """Load or unload one model, and look that it is so."""
        action = "load" if load else "unload"
        path = f"/v2/repository/models/{model.case.name}/{action}"
        model.changing, model.epoch = True, model.epoch + 1
        began = time.monotonic()
        try:
            answer = await self.call(path)
        except (OSError, TimeoutError, asyncio.IncompleteReadError) as error:
            self.failed(f"{action} of {model.case.name}: {error!r}")
            return
        finally:
            model.changing, model.epoch = False, model.epoch + 1
        if answer.status != _OK:
            self.failed(f"{action} of {model.case.name}: {answer.status} {answer.body[:200]!r}")
            return
        model.loaded = load
        if load:
            self.results.loads += 1
            spent = time.monotonic() - began
            self.results.slowest_load = max(self.results.slowest_load, spent)
        else:
            self.results.unloads += 1

    async def call(self, path: str, body: bytes = b"{}") -> Answer:
        """One POST on a connection of its own. Raises OSError, TimeoutError, IncompleteReadError."""
        async with asyncio.timeout(_CHANGE_SECONDS):
            pair = await wire.connect(self.port)
            try:
                pair[1].write(wire.message(body, {"Connection": "close"}, path))
                return await wire.read(pair[0])
            finally:
                wire.reset(pair)

    async def calm(self) -> None:
        """Let everybody finish what is under way, and load everything. Raises TimeoutError."""
        self.going.clear()
        async with asyncio.timeout(_CHANGE_SECONDS + _STUCK_SECONDS):
            await self.idle.wait()
        for model in self.models:
            if not model.loaded:
                await self.change(model, load=True)


def _dropped(pair: Pair | None) -> Pair | None:
    if pair is not None:
        wire.reset(pair)
    return None


def _message(case: Case, rows: int, headers: Mapping[str, str]) -> bytes:
    data = [value for _ in range(rows) for value in case.rows[0]]
    shape = [rows, len(case.rows[0])]
    tensor = {"name": case.source, "shape": shape, "datatype": "FP32", "data": data}
    body = json.dumps({"inputs": [tensor]}).encode()
    return wire.message(body, headers, f"/v2/models/{case.name}/infer")


def is_right(case: Case, rows: int, body: bytes) -> bool:
    """Is this what the model answers to its row, so many times?"""
    try:
        document: dict[str, Any] = json.loads(body)
        data = [float(value) for value in document["outputs"][0]["data"]]
    except (ValueError, KeyError, IndexError, TypeError):
        return False
    expected = case.expected[0] * rows
    return len(data) == len(expected) and all(
        abs(one - other) <= _TOLERANCE for one, other in zip(data, expected, strict=True)
    )
