"""Clients of HTTP/1.1 that cost little beside the server: all in one thread, on connections that stay open."""

from __future__ import annotations

import random
import re
import selectors
import socket
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

_CHUNK = 1 << 16


@dataclass
class Answers:
    """What a number of clients met in a while."""

    times: list[float] = field(default_factory=list)
    """Seconds of each answer that was one."""
    failed: int = 0
    """Requests that were refused, cut off or not answered."""
    seconds: float = 0.0


class _Client:
    """One connection with at most one request on it."""

    def __init__(self, port: int, seed: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._chance = random.Random(seed)
        self._received = b""
        self.started = 0.0

    def ask(self, requests: Sequence[bytes]) -> None:
        self._received = b""
        self.started = time.perf_counter()
        self.socket.sendall(self._chance.choice(requests))

    def hear(self) -> int | None:
        """The status once the answer is complete.

        Raises:
            OSError: the server has closed the connection.
        """
        chunk = self.socket.recv(_CHUNK)
        if not chunk:
            raise ConnectionResetError
        self._received += chunk
        head, separator, body = self._received.partition(b"\r\n\r\n")
        length = re.search(rb"content-length: *(\d+)", head, re.IGNORECASE)
        if not separator or len(body) < int(length[1] if length else 0):
            return None
        return int(head.split(b" ", 2)[1])


def post(path: str, body: bytes) -> bytes:
    """A request, as it goes over the line."""
    head = f"POST {path} HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


def closed_loop(port: int, requests: Sequence[bytes], clients: int, seconds: float, patience: float) -> Answers:
    """So many clients ask for so long, each the next thing when the last is answered.

    Args:
        patience: seconds without any answer after which the rest counts as failed.
    """
    answers, began = Answers(), time.perf_counter()
    end = began + seconds
    with selectors.DefaultSelector() as selector:

        def connect(seed: int) -> None:
            client = _Client(port, seed)
            selector.register(client.socket, selectors.EVENT_READ, client)
            client.ask(requests)

        def leave(client: _Client) -> None:
            selector.unregister(client.socket)
            client.socket.close()

        for seed in range(clients):
            connect(seed)
        while selector.get_map():
            ready = selector.select(patience)
            if not ready:
                answers.failed += len(selector.get_map())
                break
            for key, _ in ready:
                client = key.data
                try:
                    status = client.hear()
                except OSError:
                    leave(client)
                    answers.failed += 1
                    if time.perf_counter() < end:
                        connect(answers.failed)
                    continue
                if status is None:
                    continue
                if status == 200:
                    answers.times.append(time.perf_counter() - client.started)
                else:
                    answers.failed += 1
                if time.perf_counter() < end:
                    client.ask(requests)
                else:
                    leave(client)
        for key in list(selector.get_map().values()):
            leave(key.data)
    answers.seconds = time.perf_counter() - began
    return answers
