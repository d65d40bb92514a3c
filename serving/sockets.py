"""The two addresses of a server, taken before any worker starts."""

from __future__ import annotations

import ctypes
import os
import socket
import struct
import sys
from contextlib import suppress
from dataclasses import dataclass

from ..errors import AxformError

__all__ = ["Sockets", "open_sockets"]

_BACKLOG = 2048
_ATTACH_FILTER = 26
"""SO_ATTACH_FILTER of Linux, which Python does not name: a program that says of each packet how many bytes to keep."""
_RETURN = 0x06
"""BPF_RET | BPF_K: returns its constant, here 0 bytes."""


@dataclass
class Sockets:
    """What workers get: a socket that listens for HTTP, which they share, and a port on which each listens for gRPC."""

    address: str
    """Numeric."""
    http: socket.socket
    reserved: socket.socket
    """Bound to the port of gRPC and never listening: it keeps the port ours while no worker does."""

    @property
    def grpc_port(self) -> int:
        port: int = self.reserved.getsockname()[1]
        return port

    @property
    def http_address(self) -> str:
        return f"http://{self._host}:{self.http.getsockname()[1]}"

    @property
    def grpc_address(self) -> str:
        return f"{self._host}:{self.grpc_port}"

    def take_no_more(self) -> None:
        """Let the system make no connection any more, in any worker; what it has made can still be accepted.

        Without this, whoever connects between the last accept and the close is reset. Elsewhere than on Linux that
        moment stays, and where the system keeps filters from ordinary users.
        """
        if sys.platform == "linux":
            drop_all = ctypes.create_string_buffer(struct.pack("HBBI", _RETURN, 0, 0, 0))
            with suppress(OSError):
                self.http.setsockopt(
                    socket.SOL_SOCKET, _ATTACH_FILTER, struct.pack("HP", 1, ctypes.addressof(drop_all))
                )

    def close(self) -> None:
        self.http.close()
        self.reserved.close()

    @property
    def _host(self) -> str:
        return f"[{self.address}]" if ":" in self.address else self.address


def open_sockets(host: str, port: int, grpc_port: int) -> Sockets:
    """Take both ports.

    Raises:
        AxformError: a host that is not of this machine, or a port that is taken.
    """
    try:
        family, _, _, _, found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except (OSError, UnicodeError) as error:
        raise AxformError(f"--host {host}: no such address ({error}); give one of this machine, or 0.0.0.0.") from None
    address = str(found[0])
    http = _bound(family, address, port, "--port", shared=False)
    try:
        http.listen(_BACKLOG)
        reserved = _bound(family, address, grpc_port, "--grpc-port", shared=True)
    except BaseException:
        http.close()
        raise
    return Sockets(address, http, reserved)


def _bound(family: int, address: str, port: int, flag: str, *, shared: bool) -> socket.socket:
    made = socket.socket(family, socket.SOCK_STREAM)
    try:
        if shared:
            # Whoever listens there already without sharing it is found by trying alone first.
            _probe(family, address, port)
            if hasattr(socket, "SO_REUSEPORT"):
                made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        elif os.name == "posix":
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.bind((address, port))
    except OSError as error:
        made.close()
        raise AxformError(
            f"{flag} {port}: cannot be listened on at {address} ({error.strerror or error}); name another one."
        ) from None
    return made


def _probe(family: int, address: str, port: int) -> None:
    """Another server that shares its port would get a part of our requests."""
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        if os.name == "posix":
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind((address, port))
