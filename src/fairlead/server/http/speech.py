"""The paths of a speech model: which dialect answers where, and each dialect as a handler of streams."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

from fairlead.api.inference import InferRequest, InferResponse
from fairlead.api.speech import AUDIO, Speech, SpeechModel, speaks
from fairlead.dialects.speech import accept, audio, openai, requests
from fairlead.domain.errors import FairleadError, Kind
from fairlead.server.dataplane import DataPlane
from fairlead.server.http.exchange import Scope
from fairlead.server.http.handlers import Headers
from fairlead.server.http.routes import ByVersion, ServedRevision, in_order
from fairlead.server.http.streamed import Call, Encoder, StreamedHandler, StreamedRoute

VALIDATE = "validate"  # the endpoint whose own paths only check, whatever they are called
_VALIDATING = "/input_validated"
_OPENAI = "/audio/speech"
_JSON = (b"content-type", b"application/json")

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
    for one in served.spec.endpoints:
        endpoint = plane.find(served.spec.endpoint_id(one.name))
        for path in one.paths:
            handler = _handler(path, one.name, model, served.revision.service)
            stats = {
                method: plane.stats.route(path, method, endpoint.id) for method in handler.methods
            }
            yield path, StreamedRoute(endpoint, handler, served, stats)


def _handler(path: str, endpoint: str, model: SpeechModel, service: str) -> StreamedHandler:
    """A path says by its end what it is for (S0-2 has several that end alike); others by their endpoint."""
    if path.endswith(_OPENAI):
        return _OpenAi(model, service)
    if path.endswith(_VALIDATING) or (endpoint == VALIDATE and not path.endswith("/stream")):
        return _Validating()
    return _Speaking(model)


class _Sound:
    """A dialect's encoder, fed with a model's answers."""

    def __init__(self, encoder: audio.Encoder) -> None:
        self._inner = encoder

    def encode(self, response: InferResponse) -> bytes:
        return self._inner.encode(response.tensors[AUDIO])

    def finish(self) -> bytes:
        return self._inner.finish()


def _making(form: audio.Format, rate: int) -> Callable[[], Encoder]:
    return lambda: _Sound(form.encoder(rate))


class _Project:
    """What the paths of the project's speech API have in common."""

    methods: tuple[str, ...] = ("GET", "POST")
    statuses: Mapping[Kind, int] = requests.STATUSES

    def error_body(self, error: FairleadError) -> bytes:
        return requests.error_body(error)

    def _asked(self, scope: Scope, body: bytes) -> Speech:
        if scope["method"] == "GET":
            return requests.from_query(scope["query_string"])
        return requests.from_body(body)


class _Validating(_Project):
    def decode(self, scope: Scope, body: bytes, headers: Headers) -> Call:
        del headers
        speech = self._asked(scope, body)
        only = Speech(speech.speaker_id, speech.text, only_check=True)
        return Call(InferRequest(document=only), [_JSON], whole=requests.CHECKED)


class _Speaking(_Project):
    def __init__(self, model: SpeechModel) -> None:
        self._model = model

    def decode(self, scope: Scope, body: bytes, headers: Headers) -> Call:
        speech = self._asked(scope, body)
        self._model.check(speech)
        form = accept.chosen(headers.get(b"accept", b"").decode("latin-1"))
        about = [
            (b"content-type", form.content_type.encode()),
            *requests.NO_CACHE,
            (b"x-text-length", b"%d" % len(speech.text)),
        ]
        request = InferRequest(document=speech)
        return Call(request, about, _making(form, self._model.sample_rate))


class _OpenAi:
    methods: tuple[str, ...] = ("POST",)
    statuses: Mapping[Kind, int] = openai.STATUSES

    def __init__(self, model: SpeechModel, service: str) -> None:
        self._model = model
        self._service = service

    def decode(self, scope: Scope, body: bytes, headers: Headers) -> Call:
        del scope, headers
        asked = openai.from_body(body, self._service, self._model.speaker_names)
        self._model.check(asked.speech)
        about = [
            (b"content-type", asked.form.content_type.encode()),
            (b"x-text-length", b"%d" % len(asked.speech.text)),
        ]
        request = InferRequest(document=asked.speech)
        return Call(request, about, _making(asked.form, self._model.sample_rate))

    def error_body(self, error: FairleadError) -> bytes:
        return openai.error_body(error)
