"""uvicorn with bounds on what a client may do before its request is one, and an end that loses nothing."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Generator
from contextlib import contextmanager
from functools import partial
from typing import Any

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

__all__ = ["HttpServer"]

_MOST_HEADER = 1 << 16
"""Bytes of a request line and its headers."""
_LAST_REQUESTS = 0.25
"""Seconds in which a connection that was accepted before the end may still send its request."""
_AT_ONCE = 1
"""Connections that a worker takes each time that it looks, so that one does not take them all before another looks."""
_BACKLOG = 2048
_KEEP_ALIVE = 30
"""Seconds that a connection may idle between requests."""
_TOO_LARGE = b"HTTP/1.1 431 Request Header Fields Too Large\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"
_TOO_SLOW = b"HTTP/1.1 408 Request Timeout\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"


class _BoundedProtocol(HttpToolsProtocol):
    """A connection whose headers end, in time and in bytes."""

    read_timeout = 30.0
    """Seconds; a class of its own sets it for a server."""
    _header_timer: asyncio.TimerHandle | None = None
    _header_bytes = 0
    """Received since the request began."""
    _named_bytes = 0
    """Of names and values of its headers, which may all come at once."""

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._expect_headers()

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._expect_headers()

    def on_header(self, name: bytes, value: bytes) -> None:
        self._named_bytes += len(name) + len(value)
        if self._named_bytes > _MOST_HEADER:
            raise ValueError("too long")  # which the parser answers with 400
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        self._forget_timer()
        super().on_headers_complete()

    def data_received(self, data: bytes) -> None:
        self._header_bytes += len(data)
        super().data_received(data)
        if self._header_timer is not None and self._header_bytes > _MOST_HEADER:
            self._give_up(_TOO_LARGE)

    def connection_lost(self, exc: Exception | None) -> None:
        self._forget_timer()
        super().connection_lost(exc)

    def _expect_headers(self) -> None:
        self._forget_timer()
        self._header_bytes = self._named_bytes = 0
        self._header_timer = self.loop.call_later(self.read_timeout, self._give_up, _TOO_SLOW)

    def _forget_timer(self) -> None:
        if self._header_timer is not None:
            self._header_timer.cancel()
            self._header_timer = None

    def _give_up(self, answer: bytes) -> None:
        self._forget_timer()
        if not self.transport.is_closing():
            self.transport.write(answer)
            self.transport.close()


class HttpServer(uvicorn.Server):
    """Serves an ASGI application on a socket that listens.

    Args:
        read_timeout: seconds for the headers of a request.
        drain: whole seconds that requests have to end in when the server stops.
    """

    def __init__(self, application: Any, read_timeout: float, drain: int) -> None:
        protocol = type("_Protocol", (_BoundedProtocol,), {"read_timeout": read_timeout})
        super().__init__(
            uvicorn.Config(
                application,
                http=protocol,
                ws="none",
                lifespan="off",
                log_config=None,
                access_log=False,
                server_header=False,
                proxy_headers=False,
                timeout_keep_alive=_KEEP_ALIVE,
                backlog=_AT_ONCE,
                timeout_graceful_shutdown=drain,
            )
        )

    @contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        """Leave signals to the worker, which has more to stop than this server."""
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen. What uvicorn calls backlog is how many asyncio takes at once, too, so the system's own is set after it."""
        await super().startup(sockets)
        for listener in sockets or []:
            listener.listen(_BACKLOG)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Take what is connected already, listen no more, and wait for what has been asked."""
        for listener in sockets or []:
            await self._accept_waiting(listener)
        for server in self.servers:
            server.close()
        await asyncio.sleep(_LAST_REQUESTS)
        await super().shutdown(sockets)

    async def _accept_waiting(self, listener: socket.socket) -> None:
        """Connections that the system has made for us and that nobody has taken yet would be reset."""
        loop = asyncio.get_running_loop()
        protocol: Any = self.config.http_protocol_class
        make = partial(protocol, config=self.config, server_state=self.server_state, app_state={})
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            connection.setblocking(False)
            await loop.connect_accepted_socket(make, connection)
