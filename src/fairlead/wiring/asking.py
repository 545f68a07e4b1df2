"""One request through the running gateway, as any client would send it."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import Any

import httpx

from fairlead.domain.errors import FairleadError, Kind
from fairlead.domain.signature import DocumentSignature
from fairlead.wiring.examples import Asking, first_example
from fairlead.wiring.homes import Control
from fairlead.wiring.observe import running
from fairlead.wiring.settings import environment

_TIMEOUT_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back."""

    status: int
    reason: str
    body: Any
    version: str
    request_id: str


@dataclass(frozen=True, slots=True)
class Way:
    """How to reach a gateway: its base URL, what the project API's paths start with, the key.

    `verify`: whether its certificate must be known; our own machine's may be self-made.
    """

    base: str
    root: str
    key: str
    verify: bool

    def __repr__(self) -> str:
        return f"Way({self.base})"  # never the key


def way_to(control: Control | None, url: str | None, key: str | None) -> Way:
    """The way to the gateway at `url`, or to the one that runs in this home, with this key or the home's.

    Raises FairleadError if nothing runs here, or no key is known.
    """
    here = running(control) if control else None
    if url is None and here is None:
        where = f" in {control.home.root}" if control else ""
        message = f"nothing runs{where}: start it with `fairlead up`, or name a gateway"
        raise FairleadError(message, kind=Kind.UNAVAILABLE)
    base = url or str(here["url"])  # type: ignore[index]
    root = str(here["root"]) if here else "/v1"
    known = key or environment().api_key or _demo_key(control)
    return Way(base.rstrip("/"), root, _sendable(known), verify=url is not None)


def ask(  # noqa: PLR0913 - each is an option of the command
    control: Control,
    service: str,
    instances: list[Any],
    *,
    accept_version: str | None,
    sticky_key: str | None,
    key: str | None,
    url: str | None,
) -> Answer:
    """Send one predict request. Raises FairleadError if nothing runs here or no key is known."""
    way = way_to(control, url, key)
    headers = {"X-Api-Key": way.key}
    if accept_version:
        headers["Accept-Version"] = accept_version
    if sticky_key:
        headers["X-Sticky-Key"] = sticky_key
    asking = _asking(control, service, instances)
    try:
        answer = httpx.post(
            f"{way.base}{asking.path(service, way.root)}",
            json=asking.body,
            headers=headers,
            timeout=_TIMEOUT_SECONDS,
            verify=way.verify,
        )
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise FairleadError(f"{way.base} does not answer: {error}", kind=Kind.UNAVAILABLE) from None
    return Answer(
        answer.status_code,
        answer.reason_phrase,
        _content(answer),
        answer.headers.get("x-served-version", ""),
        answer.headers.get("x-request-id", ""),
    )


def _content(answer: httpx.Response) -> Any:  # noqa: ANN401 - a JSON value
    if "json" in answer.headers.get("content-type", ""):
        with contextlib.suppress(ValueError):
            return answer.json()
    return answer.text


def _asking(control: Control, service: str, instances: list[Any]) -> Asking:
    known = control.catalogs.read().services.get(service)
    live = known.lines[known.pin.line].live() if known else ()
    manifest = control.artifacts.manifest(live[-1].artifact) if live else None
    if not instances and manifest is not None:
        return first_example(control, manifest)
    if manifest is not None and isinstance(manifest.signature, DocumentSignature):
        return Asking(instances[0])
    if len(instances) == 1 and isinstance(instances[0], dict) and "instances" in instances[0]:
        return Asking(instances[0])
    return Asking({"instances": instances})


def _sendable(key: str) -> str:
    """Raises FairleadError for what no header can carry; the key itself is not shown."""
    if not (key.isascii() and key.isprintable()):
        message = "the key holds characters that no key has: give it as it was printed"
        raise FairleadError(message, kind=Kind.UNAUTHENTICATED)
    return key


def _demo_key(control: Control | None) -> str:
    path = control.home.demo_key if control else None
    if path is None or not path.exists():
        raise FairleadError(
            "no key: give one with --key or FAIRLEAD_API_KEY", kind=Kind.UNAUTHENTICATED
        )
    return path.read_text(errors="replace").strip()
