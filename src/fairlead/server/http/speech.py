"""The paths of a speech model: which dialect answers where, and each dialect as a handler of streams."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from fairlead.api.inference import InferRequest, InferResponse
from fairlead.api.speech import AUDIO, Speech, SpeechModel, speaks
from fairlead.api.speech_openapi import Use, use_of
from fairlead.dialects.speech import accept, audio, openai, requests
from fairlead.dialects.speech.legacy import LegacyKeys
from fairlead.domain.errors import FairleadError, Kind
from fairlead.domain.ids import DEFAULT_ENDPOINT
from fairlead.server.dataplane import DataPlane
from fairlead.server.http.exchange import Scope
from fairlead.server.http.handlers import Headers
from fairlead.server.http.routes import ByVersion, ServedRevision, in_order
from fairlead.server.http.streamed import Call, Encoder, StreamedHandler, StreamedRoute
from fairlead.server.stream_counts import StreamCounts

# A server without a gateway knows no release, and so no paths of its endpoints: these are a speech model's there.
PATHS = (
    "/api/text_to_speech/stream",
    "/api/text_to_speech/input_validated",
    "/openai/v1/audio/speech",
)
_JSON = (b"content-type", b"application/json")
_CLIENT = b"x-client"

StreamedPath = ByVersion[StreamedRoute]


def streamed_paths(
    served: Sequence[ServedRevision], plane: DataPlane, *, versioned: bool
) -> dict[bytes, StreamedPath]:
    """Every path that streams, and those that belong to them."""
    table: dict[bytes, StreamedPath] = {}
    for one in in_order(served):
        for path, route in _routes(one, plane):
            table.setdefault(path.encode(), StreamedPath()).put(one, route, versioned=versioned)
    return table


def _routes(served: ServedRevision, plane: DataPlane) -> Iterator[tuple[str, StreamedRoute]]:
    model = served.artifact.model
    if not speaks(model):
        return
    served.artifact.threads.submit(audio.warm)
    for one in served.spec.endpoints:
        endpoint = plane.find(served.spec.endpoint_id(one.name))
        alone = PATHS if one.name == DEFAULT_ENDPOINT and served.spec.socket is None else ()
        for path in one.paths or alone:
            voice = _Voice(model, endpoint.streams, _door(served))
            handler = _handler(path, one.name, voice, served.revision.service)
            stats = {
                method: plane.stats.route(path, method, endpoint.id) for method in handler.methods
            }
            yield path, StreamedRoute(endpoint, handler, served, stats)


def _handler(path: str, endpoint: str, voice: _Voice, service: str) -> StreamedHandler:
    match use_of(path, endpoint):
        case Use.OPENAI:
            return _OpenAi(voice, service)
        case Use.CHECK:
            return _Validating(voice)
        case Use.SPEAK:
            return _Speaking(voice)


@dataclass(frozen=True, slots=True)
class _Door:
    """Who is let in where callers may have to show a legacy key."""

    keys: LegacyKeys
    gateway: bool  # is there one in front, that says who calls?

    def check(self, asked: Mapping[str, Any], headers: Headers) -> None:
        self.keys.check(asked, known=self._known(headers))

    def check_bearer(self, headers: Headers) -> None:
        sent = headers.get(b"authorization", b"").decode("latin-1")
        self.keys.check_bearer(sent, known=self._known(headers))

    def _known(self, headers: Headers) -> bool:
        return self.gateway and bool(headers.get(_CLIENT))


def _door(served: ServedRevision) -> _Door | None:
    spec = served.spec
    if not spec.legacy_key:
        return None
    return _Door(LegacyKeys(spec.legacy_keys), gateway=spec.socket is not None)


class _Sound:
    """A dialect's encoder, fed with a model's answers."""

    def __init__(self, encoder: audio.Encoder, rate: int, counts: StreamCounts) -> None:
        self._inner = encoder
        self._rate = rate
        self._counts = counts

    def encode(self, response: InferResponse) -> bytes:
        samples = response.tensors[AUDIO]
        self._counts.said(samples.size / self._rate)
        return self._inner.encode(samples)

    def finish(self) -> bytes:
        return self._inner.finish()


@dataclass(frozen=True, slots=True)
class _Voice:
    """A voice at an endpoint."""

    model: SpeechModel
    counts: StreamCounts
    door: _Door | None = None

    def call(self, speech: Speech, form: audio.Format, *, caching: bool) -> Call:
        """The answer to a text that has been checked. `caching`: it may be kept by whoever passes it on."""
        rate = self.model.sample_rate
        headers = [
            (b"content-type", form.content_type.encode()),
            *(() if caching else requests.NO_CACHE),
            (b"x-text-length", b"%d" % len(speech.text)),
        ]

        def encoder() -> Encoder:
            self.counts.said(0.0, len(speech.text))
            return _Sound(form.encoder(rate), rate, self.counts)

        return Call(InferRequest(document=speech), headers, encoder)


class _Project:
    """What the paths of the project's speech API have in common."""

    methods: tuple[str, ...] = ("GET", "POST")
    statuses: Mapping[Kind, int] = requests.STATUSES

    def __init__(self, voice: _Voice) -> None:
        self._voice = voice

    def error_body(self, error: FairleadError) -> bytes:
        return requests.error_body(error)

    def _asked(self, scope: Scope, body: bytes, headers: Headers) -> Speech:
        def check(asked: Mapping[str, Any]) -> None:
            if self._voice.door is not None:
                self._voice.door.check(asked, headers)

        if scope["method"] == "GET":
            return requests.from_query(scope["query_string"], check)
        return requests.from_body(body, check)


class _Validating(_Project):
    def decode(self, scope: Scope, body: bytes, headers: Headers) -> Call:
        speech = self._asked(scope, body, headers)
        only = self._voice.model.prepare(replace(speech, only_check=True))
        return Call(InferRequest(document=only), [_JSON], whole=requests.CHECKED)


class _Speaking(_Project):
    def decode(self, scope: Scope, body: bytes, headers: Headers) -> Call:
        speech = self._voice.model.prepare(self._asked(scope, body, headers))
        form = accept.chosen(headers.get(b"accept", b"").decode("latin-1"))
        return self._voice.call(speech, form, caching=False)


class _OpenAi:
    methods: tuple[str, ...] = ("POST",)
    statuses: Mapping[Kind, int] = openai.STATUSES

    def __init__(self, voice: _Voice, service: str) -> None:
        self._voice = voice
        self._service = service

    def decode(self, scope: Scope, body: bytes, headers: Headers) -> Call:
        del scope
        if self._voice.door is not None:
            self._voice.door.check_bearer(headers)
        model = self._voice.model
        asked = openai.from_body(body, self._service, model.speaker_names)
        return self._voice.call(model.prepare(asked.speech), asked.form, caching=True)

    def error_body(self, error: FairleadError) -> bytes:
        return openai.error_body(error)
