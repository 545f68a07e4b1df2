"""grpcio's server on a TCP port, until told to stop."""

from __future__ import annotations

import asyncio
import logging

import grpc.aio  # type: ignore[import-untyped] # it ships no types

from fairlead.domain.errors import Kind, Refused
from fairlead.kits.clock import Clock
from fairlead.server.grpc.calls import Calls
from fairlead.server.http.app import ServerApp

_log = logging.getLogger(__name__)
_MOST_CALLS = 4096  # at once; more are RESOURCE_EXHAUSTED


class Server:
    """One gRPC port before one app."""

    def __init__(
        self, app: ServerApp, address: str, clock: Clock, *, most_bytes: int, shared: bool
    ) -> None:
        """Raises Refused (CONFLICT) if the address is taken. `shared`: with other processes."""
        options = [
            ("grpc.so_reuseport", int(shared)),
            ("grpc.max_receive_message_length", most_bytes),
            ("grpc.max_send_message_length", -1),
            # Calls that the library has taken in and nobody here has seen yet. Beyond its own limit, which is lower than
            # ours, it cancels them, and clients take that for their own doing.
            ("grpc.server.max_pending_requests", _MOST_CALLS),
            ("grpc.server.max_pending_requests_hard_limit", _MOST_CALLS),
        ]
        self._server = grpc.aio.server(options=options, maximum_concurrent_rpcs=_MOST_CALLS)
        self._server.add_generic_rpc_handlers(Calls(app, clock).handlers())
        try:
            self.port = self._server.add_insecure_port(address)
        except RuntimeError:
            problem = f"{address} cannot be listened on for gRPC; choose another host or port"
            raise Refused(Kind.CONFLICT, problem) from None

    async def serve(self, stop: asyncio.Event, drain_seconds: float) -> None:
        """Answer until `stop` is set and the calls under way are answered."""
        await self._server.start()
        _log.info("listening on port %d for gRPC", self.port)
        try:
            await stop.wait()
        finally:
            await self._server.stop(drain_seconds)
