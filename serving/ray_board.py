"""What replicas under Ray tell each other: a board that each of them reads and writes every half second.

Ray gives a request to one replica. What it asks of all (a load, an unload, counts) goes over the board to the others.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from typing import Any

from .commands import Commands
from .peers import Obey

__all__ = ["STOP", "Board", "BoardPeers"]

STOP = "stop"
"""The command after which replicas say that they are not ready."""
_FORGOTTEN = 5.0
"""Seconds after which a replica that has said nothing is taken for gone."""


class Board:
    """The last command for each model and the last counts of each replica. Ray runs it in a process of its own."""

    def __init__(self) -> None:
        self._joined = 0
        self._posted = Commands()
        self._unloaded: set[str] = set()
        self._counts: dict[int, tuple[float, dict[str, Any]]] = {}

    def join(self) -> tuple[int, int, list[str]]:
        """(number of a new replica, commands that it need not read, models that are not to be loaded)."""
        self._joined += 1
        return self._joined - 1, self._posted.count, sorted(self._unloaded)

    def post(self, worker: int, command: str, model: str) -> None:
        """Tell all other replicas."""
        self._posted.add(command, model, worker)
        if command == "unload":
            self._unloaded.add(model)
        else:
            self._unloaded.discard(model)

    def exchange(
        self, worker: int, counts: dict[str, Any], read: int
    ) -> tuple[list[tuple[str, str]], int, list[dict[str, Any]]]:
        """Leave counts; ((command, model) of others since ``read``, how many there are, counts of the others).

        Of the commands for a model only the last is told: what came before would undo it, where that was the replica's
        own, which it did before it heard of the others.
        """
        now = time.monotonic()
        self._counts[worker] = (now, counts)
        self._counts = {key: value for key, value in self._counts.items() if now - value[0] < _FORGOTTEN}
        others = [value for key, (_, value) in self._counts.items() if key != worker]
        return self._posted.since(read, worker), self._posted.count, others


class BoardPeers:
    """The board as a replica sees it, in the place of the line to a supervisor.

    Args:
        call: (method of `Board`, arguments) -> its result.
        obey: what this replica does itself; set once there is a service.
    """

    def __init__(self, call: Callable[..., Awaitable[Any]]) -> None:
        self._call = call
        self.obey: Obey | None = None
        self.worker = 0
        self.unloaded: list[str] = []
        self._read = 0
        self._others: list[dict[str, Any]] = []

    async def join(self) -> None:
        """Get a number, and hear what was unloaded before this replica came."""
        self.worker, self._read, self.unloaded = await self._call("join")

    async def ask(self, command: str, model: str = "") -> list[dict[str, Any]]:
        """What this replica answers, and what the others last said; a command reaches them with their next look."""
        own = await self._do(command, model)
        if command == "counts":
            return [own, *self._others]
        if "error" not in own:
            await self._call("post", self.worker, command, model)
        return [own]

    async def look(self) -> list[tuple[str, str, dict[str, Any]]]:
        """Do what others told; (command, model, what came of it) of each."""
        told, self._read, self._others = await self._call(
            "exchange", self.worker, await self._do("counts", ""), self._read
        )
        return [(command, model, await self._do(command, model)) for command, model in told]

    async def _do(self, command: str, model: str) -> dict[str, Any]:
        assert self.obey is not None
        return await self.obey(command, model)
