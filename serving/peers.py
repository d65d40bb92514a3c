"""The line between a worker and the supervisor, by which a request that reached one worker reaches all of them.

Lines of JSON over a pair of sockets. A worker says ``ready`` or ``failed`` once and may ``ask`` all workers something;
the supervisor tells each to ``do`` it, hears that it is ``done``, and sends the ``answer`` to the one that asked.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import socket
from collections.abc import Awaitable, Callable
from typing import Any, Protocol, TypeAlias

from .refusals import Reason, Refused

__all__ = ["LONGEST_LINE", "Asks", "Obey", "Peers", "send_line"]

Obey: TypeAlias = Callable[[str, str], Awaitable[dict[str, Any]]]
"""(command, model) -> what came of it."""
LONGEST_LINE = 1 << 26
"""Bytes."""


class Asks(Protocol):
    """By which a worker asks all of them, itself included."""

    async def ask(self, command: str, model: str = "") -> list[dict[str, Any]]:
        """What each answers."""


def send_line(writer: asyncio.StreamWriter, **message: Any) -> None:
    """Send a message, unless the other end has gone."""
    if not writer.is_closing():
        writer.write(json.dumps(message).encode() + b"\n")


class Peers:
    """The end of a worker."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._numbers = itertools.count()
        self._asked: dict[int, asyncio.Future[list[dict[str, Any]]]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._is_alone = False
        """The supervisor has gone."""

    @classmethod
    async def connect(cls, line: socket.socket) -> Peers:
        reader, writer = await asyncio.open_connection(sock=line, limit=LONGEST_LINE)
        return cls(reader, writer)

    def tell(self, what: str, **values: Any) -> None:
        """Say something to the supervisor."""
        send_line(self._writer, type=what, **values)

    async def flush(self) -> None:
        """Wait until what was said is on its way."""
        await self._writer.drain()

    async def ask(self, command: str, model: str = "") -> list[dict[str, Any]]:
        """What every worker answers, this one included.

        Raises:
            Refused: the supervisor has gone.
        """
        if self._is_alone:
            raise _alone()
        number = next(self._numbers)
        self._asked[number] = asyncio.get_running_loop().create_future()
        self.tell("ask", id=number, command=command, model=model)
        return await self._asked[number]

    async def listen(self, obey: Obey) -> None:
        """Do what the supervisor says until it goes."""
        try:
            while line := await self._reader.readline():
                message = json.loads(line)
                if message["type"] == "do":
                    task = asyncio.create_task(self._do(obey, message))
                    self._tasks.add(task)
                    task.add_done_callback(self._tasks.discard)
                elif (asked := self._asked.pop(message["id"], None)) is not None and not asked.done():
                    asked.set_result(message["results"])
        except (OSError, ValueError):
            pass  # as at the end of the line: there is nobody to say anything to
        self._is_alone = True
        for asked in self._asked.values():
            if not asked.done():
                asked.set_exception(_alone())

    async def _do(self, obey: Obey, message: dict[str, Any]) -> None:
        result = await obey(message["command"], message["model"])
        self.tell("done", id=message["id"], result=result)


def _alone() -> Refused:
    return Refused(Reason.UNAVAILABLE, "the server is about to stop.")
