"""uvicorn's HTTP/1.1 protocol, with a short way out for answers that are known whole.

Through ASGI an answer takes two messages, and each header is checked and joined anew. The hot routes know
their headers since the model was loaded, so the protocol offers an ASGI extension: `scope["extensions"]
[WHOLE]` takes the head's bytes and the body and writes both at once. An app that does not find the
extension (another server, another version of this one) answers through ASGI as ever.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

WHOLE = "fairlead.whole_answer"
_CLOSE = b"connection: close\r\n\r\n"

Whole = Callable[[bytes, bytes], bool]


class Protocol(HttpToolsProtocol):
    """Adds the extension to every request."""

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:  # noqa: ANN401 - uvicorn's own type
        scope: Any = cycle.scope
        scope["extensions"] = {WHOLE: functools.partial(_write, cycle)}
        super()._start_asgi_task(cycle, app)


def _write(cycle: RequestResponseCycle, head: bytes, body: bytes) -> bool:
    """Write `head` (ending in an empty line) and `body`; False if that must go through ASGI this time."""
    if cycle.disconnected:
        return True
    if cycle.flow.write_paused or cycle.response_started:
        return False
    cycle.response_started = True
    cycle.waiting_for_100_continue = False
    if not cycle.keep_alive:
        head = head[:-2] + _CLOSE
    cycle.transport.write(head + body)
    cycle.response_complete = True
    cycle.message_event.set()
    if not cycle.keep_alive:
        cycle.transport.close()
    cycle.on_response()
    return True
