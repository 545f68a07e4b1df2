"""gRPC calls byte by byte: what no client would send."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterable
from urllib.parse import unquote

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import (
    DataReceived,
    ResponseReceived,
    StreamEnded,
    StreamReset,
    TrailersReceived,
)

_READ_BYTES = 1 << 16


async def raw_call(
    port: int,
    path: str | bytes,
    body: bytes | None,
    metadata: Iterable[tuple[str, str]],
    content_type: str = "application/grpc",
) -> tuple[int, str, dict[str, str], bytes]:
    """The code (-1 without one), the message, all headers and trailers, and the body of the answer.

    A body that is None ends the call with its head. An answer that is not as long as it says is a ProtocolError.
    """
    connection = H2Connection(H2Configuration(client_side=True, header_encoding="utf-8"))
    connection.initiate_connection()
    asked = [
        (":method", "POST"),
        (":scheme", "http"),
        (":authority", "x"),
        (":path", path),
        ("content-type", content_type),
        ("te", "trailers"),
        *metadata,
    ]
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    async with contextlib.AsyncExitStack() as stack:
        stack.callback(writer.close)
        connection.send_headers(1, asked, end_stream=body is None)
        if body == b"":
            connection.send_data(1, b"", end_stream=True)
        found: dict[str, str] = {}
        answer = bytearray()
        unsent, ended = memoryview(body or b""), False
        while not ended:
            while unsent and (room := connection.local_flow_control_window(1)):
                size = min(room, connection.max_outbound_frame_size, len(unsent))
                connection.send_data(1, bytes(unsent[:size]), end_stream=size == len(unsent))
                unsent = unsent[size:]
            writer.write(connection.data_to_send())
            data = await reader.read(_READ_BYTES)
            if not data:
                raise ConnectionError("the connection ended before the answer")
            for event in connection.receive_data(data):
                if isinstance(event, ResponseReceived | TrailersReceived):
                    found |= dict(event.headers)  # type: ignore[arg-type] # texts, as configured
                elif isinstance(event, DataReceived):
                    answer += event.data
                    connection.acknowledge_received_data(event.flow_controlled_length, 1)
                ended = ended or isinstance(event, StreamEnded | StreamReset)
    return (
        int(found.get("grpc-status", "-1")),
        unquote(found.get("grpc-message", "")),
        found,
        bytes(answer),
    )
