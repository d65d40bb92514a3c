"""One worker: a process with its own sessions, behind a socket that all workers share."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from pydantic import BaseModel

from ..core.cores import usable_cores
from ..errors import AxformError
from .grpc_api import make_grpc_server
from .http_server import HttpServer
from .keys import read_keys
from .logs import log, route_libraries
from .peers import Peers
from .repository import Repository
from .rest import RestApplication
from .runners import Runners
from .service import Service
from .settings import ServeSettings

__all__ = ["DRAIN_SECONDS", "WorkerTask", "cores_of", "main"]

_UNTIL_CLOSED = 0.1
"""Seconds in which the supervisor, after the same delay, lets the system make no more connections."""
DRAIN_SECONDS = 30
"""That requests have to end in when a worker stops."""


class WorkerTask(BaseModel):
    """What a worker is told on its command line."""

    settings: ServeSettings
    index: int
    address: str
    """Numeric, to bind gRPC to."""
    grpc_port: int
    http_socket: int
    """File descriptor of the socket that listens."""
    line: int
    """File descriptor of the line to the supervisor."""
    unloaded: list[str] = []
    """Models that a client has unloaded."""
    is_replacement: bool = False
    """After a worker that had been ready: what cannot be loaded now is left out, and the rest is served."""


def cores_of(index: int, workers: int) -> set[int] | None:
    """The cores of a worker: equal shares of what this process may use; None where they are not its own to share out."""
    if workers < 2 or not hasattr(os, "sched_getaffinity"):
        return None
    cores = sorted(os.sched_getaffinity(0))
    if workers > len(cores) or usable_cores() < len(cores):
        return None  # a quota moves with the scheduler's choice, which pinning would take away
    share = len(cores) // workers
    return set(cores[index * share : (index + 1) * share])


def main(arguments: Sequence[str]) -> None:
    """Serve until told to stop; the supervisor is the only caller."""
    route_libraries()
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    sys.exit(asyncio.run(_Worker(WorkerTask.model_validate_json(arguments[0])).run()))


class _Worker:
    def __init__(self, task: WorkerTask) -> None:
        self._task = task
        self._settings = task.settings
        self._stop = asyncio.Event()
        self._hurry = asyncio.Event()

    async def run(self) -> int:
        """The exit code: 0, also after a signal; 2 where it could not start."""
        task, settings = self._task, self._settings
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop.set)
        # Not a second SIGTERM: a terminal and systemd send the first to all processes, and the supervisor sends it, too.
        loop.add_signal_handler(signal.SIGUSR1, self._hurry.set)
        cores = cores_of(task.index, settings.workers)
        if cores is not None:
            os.sched_setaffinity(0, cores)
        available = usable_cores() if cores is not None else max(1, usable_cores() // settings.workers)
        peers = await Peers.connect(socket.socket(fileno=task.line))
        try:
            runners = Runners(max(1, available // settings.threads))
            repository = Repository(settings, runners)
            await self._load(repository)
            keys = None if settings.api_key_file is None else read_keys(settings.api_key_file)
            service = Service(settings, repository, peers, task.index)
            grpc_server = make_grpc_server(service, keys)
            await self._bind(grpc_server)
        except AxformError as error:
            peers.tell("failed", error=str(error))
            await peers.flush()
            return 2
        listening = asyncio.create_task(peers.listen(service.obey))
        listening.add_done_callback(lambda _: self._stop.set())  # without a supervisor there is nobody to serve for
        http_server = HttpServer(RestApplication(service, keys), settings.read_timeout, DRAIN_SECONDS)
        serving = asyncio.create_task(http_server.serve([socket.socket(fileno=task.http_socket)]))
        await grpc_server.start()
        peers.tell("ready", models=_described(repository))
        await self._stop.wait()
        service.stopping = True
        await self._pause(settings.drain_delay)
        await asyncio.sleep(_UNTIL_CLOSED)
        http_server.should_exit = True
        await asyncio.gather(serving, grpc_server.stop(DRAIN_SECONDS))
        runners.close()
        return 0

    async def _load(self, repository: Repository) -> None:
        for name in self._settings.bundles:
            if name in self._task.unloaded:
                await repository.unload(name)
                continue
            try:
                await repository.load(name)
            except AxformError as error:
                if not self._task.is_replacement:
                    raise
                log("load", "error", model=name, error=str(error))

    async def _bind(self, grpc_server: Any) -> None:
        host = f"[{self._task.address}]" if ":" in self._task.address else self._task.address
        try:
            grpc_server.add_insecure_port(f"{host}:{self._task.grpc_port}")
        except RuntimeError:
            raise AxformError(
                f"--grpc-port {self._task.grpc_port}: cannot be listened on at {host}; name another one."
            ) from None

    async def _pause(self, seconds: float) -> None:
        with suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self._hurry.wait(), seconds)


def _described(repository: Repository) -> list[dict[str, Any]]:
    return [
        {
            "name": entry.name,
            "provider": entry.model.provider,
            "precision": entry.model.manifest.precision,
            "mixing": entry.model.signature.mixing,
        }
        for entry in repository.entries.values()
        if entry.model is not None
    ]
