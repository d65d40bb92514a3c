"""The process that starts the workers, brings back those that die, watches bundles, and stops them all."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import signal
import socket
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from ..errors import AxformError
from .commands import Commands
from .logs import log
from .peers import LONGEST_LINE, send_line
from .settings import ServeSettings
from .sockets import Sockets, open_sockets
from .watcher import Watcher
from .worker import DRAIN_SECONDS, WorkerTask

__all__ = ["Supervisor"]

_BOOT = """
import json, sys
sys.path[:] = json.loads(sys.argv[1])
from axform.serving.worker import main
main(sys.argv[2:])
"""
_ANSWER_SECONDS = {"counts": 2.0}
_LOAD_SECONDS = 120.0
_LONG_ENOUGH = 5.0
"""Seconds after which a worker that dies is replaced at once."""
_LONGEST_PAUSE = 10.0
_KILL_AFTER = 10.0
"""Seconds beyond all delays after which a worker that does not stop is killed."""


@dataclass
class _Process:
    """A worker as the supervisor sees it."""

    index: int
    process: asyncio.subprocess.Process
    writer: asyncio.StreamWriter
    heard: int = 0
    """Commands of `Supervisor` that it need not be told when it is ready."""
    ready: asyncio.Event = field(default_factory=asyncio.Event)
    models: list[dict[str, str]] = field(default_factory=list)
    failure: str | None = None
    answers: dict[int, asyncio.Future[dict[str, Any]]] = field(default_factory=dict)
    """What it has been asked and has not yet said."""
    started: float = field(default_factory=time.monotonic)
    listening: asyncio.Task[None] | None = None

    def send(self, number: signal.Signals) -> None:
        """As asyncio's own would, which first waits for a process that has ended, and then asyncio misses how it did."""
        with suppress(ProcessLookupError):
            os.kill(self.process.pid, number)


class Supervisor:
    """Runs a server until it is told to stop.

    Args:
        on_ready: called with (models, HTTP address, gRPC address) when all workers serve.
    """

    def __init__(self, settings: ServeSettings, on_ready: Callable[[list[dict[str, str]], str, str], None]) -> None:
        self._settings = settings
        self._on_ready = on_ready
        self._stop = asyncio.Event()
        self._hurry = asyncio.Event()
        self._workers: dict[int, _Process] = {}
        self._numbers = itertools.count()
        self._unloaded: set[str] = set()
        self._told = Commands()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._watcher = Watcher(settings.bundles)

    async def run(self) -> int:
        """Serve. The exit code is 0 after a signal, 1 where a worker did not stop as it should.

        Raises:
            AxformError: an address that is taken, or a bundle that cannot be served.
        """
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._on_signal)
        sockets = open_sockets(self._settings.host, self._settings.port, self._settings.grpc_port)
        try:
            keepers = [asyncio.create_task(self._keep(index, sockets)) for index in range(self._settings.workers)]
            await self._until_ready(keepers)
            if not self._stop.is_set():
                self._on_ready(self._workers[0].models, sockets.http_address, sockets.grpc_address)
                if self._settings.watch:
                    self._start(self._watch())
            await self._stop.wait()
        finally:
            self._stop.set()
            codes = await self._stop_workers(sockets)
            await asyncio.gather(*keepers, return_exceptions=True)
        return 0 if not any(codes) else 1

    async def _keep(self, index: int, sockets: Sockets) -> None:
        """Keep a worker alive."""
        is_replacement, pause = False, 0.0
        while not self._stop.is_set():
            try:
                worker = await self._spawn(index, sockets, is_replacement)
            except OSError as error:  # no memory or no process is left, of which the worker before may have died, too
                if not is_replacement:
                    raise AxformError(f"a worker cannot be started ({error}); see what this machine allows.") from None
                pause = _longer(pause)
                log("worker not started", "error", worker=index, error=str(error), restart_in=round(pause, 2))
                await self._pause(pause)
                continue
            self._workers[index] = worker
            if self._stop.is_set():
                worker.send(signal.SIGTERM)
            code = await worker.process.wait()
            worker.writer.close()
            if worker.listening is not None:
                await worker.listening
            for future in worker.answers.values():
                future.cancel()
            if self._stop.is_set():
                return
            if worker.failure is not None and not is_replacement:
                raise AxformError(worker.failure)
            if not is_replacement and not worker.ready.is_set():
                raise AxformError(f"a worker ended with code {code} before it was ready; see the log above.")
            is_replacement = True
            lived = time.monotonic() - worker.started
            pause = 0.0 if lived > _LONG_ENOUGH else _longer(pause)
            log("worker ended", "warning", worker=index, code=code, failure=worker.failure, restart_in=round(pause, 2))
            await self._pause(pause)

    async def _spawn(self, index: int, sockets: Sockets, is_replacement: bool) -> _Process:
        ours, theirs = socket.socketpair()
        heard = self._told.count
        task = WorkerTask(
            settings=self._settings,
            index=index,
            address=sockets.address,
            grpc_port=sockets.grpc_port,
            http_socket=sockets.http.fileno(),
            line=theirs.fileno(),
            unloaded=sorted(self._unloaded),
            is_replacement=is_replacement,
        )
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-c",
            _BOOT,
            json.dumps(sys.path),
            task.model_dump_json(),
            stdin=asyncio.subprocess.DEVNULL,
            pass_fds=(task.http_socket, task.line),
            env={**os.environ, "GRPC_VERBOSITY": "NONE"},  # its lines are no JSON and hold what clients sent
        )
        theirs.close()
        reader, writer = await asyncio.open_connection(sock=ours, limit=LONGEST_LINE)
        worker = _Process(index, process, writer, heard)
        worker.listening = asyncio.create_task(self._listen(worker, reader))
        return worker

    async def _listen(self, worker: _Process, reader: asyncio.StreamReader) -> None:
        try:
            while line := await reader.readline():
                message = json.loads(line)
                if message["type"] == "ready":
                    worker.models = message["models"]
                    worker.ready.set()
                    for command, model in self._told.since(worker.heard):
                        send_line(worker.writer, type="do", id=next(self._numbers), command=command, model=model)
                    log("worker ready", worker=worker.index, pid=worker.process.pid)
                elif message["type"] == "failed":
                    worker.failure = message["error"]
                elif message["type"] == "ask":
                    self._start(self._answer(worker, message))
                elif (future := worker.answers.get(message["id"])) is not None and not future.done():
                    future.set_result(message["result"])
        except (OSError, ValueError) as error:
            if not self._stop.is_set():
                log("line lost", "warning", worker=worker.index, error=str(error))

    async def _answer(self, worker: _Process, message: dict[str, Any]) -> None:
        results = await self._ask_all(message["command"], message["model"])
        send_line(worker.writer, type="answer", id=message["id"], results=results)

    async def _ask_all(self, command: str, model: str) -> list[dict[str, Any]]:
        """Let every worker do something; one that dies or is slow counts for none."""
        if command == "unload":
            self._unloaded.add(model)
        elif command == "load":
            self._unloaded.discard(model)
        if command != "counts":
            self._told.add(command, model)
        number = next(self._numbers)
        asked: list[asyncio.Future[dict[str, Any]]] = []
        workers = [worker for worker in self._workers.values() if worker.process.returncode is None]
        for worker in workers:
            if worker.ready.is_set():
                asked.append(asyncio.get_running_loop().create_future())
                worker.answers[number] = asked[-1]
                send_line(worker.writer, type="do", id=number, command=command, model=model)
        if asked:
            await asyncio.wait(asked, timeout=_ANSWER_SECONDS.get(command, _LOAD_SECONDS))
        results = [future.result() for future in asked if future.done() and not future.cancelled()]
        for worker in workers:
            worker.answers.pop(number, None)
        if command != "counts":
            errors = sorted({result["error"] for result in results if "error" in result})
            done: dict[str, Any] = {"workers": len(results), "model": model}
            if errors:
                log(command, "error", outcome="failure", error=errors[0], **done)
            else:
                log(command, outcome="success", **done)
        return results

    async def _watch(self) -> None:
        """Load bundles that changed, in every worker."""
        while not self._stop.is_set():
            await self._pause(self._watcher.seconds)
            for name in await asyncio.to_thread(self._watcher.changed):
                if name not in self._unloaded:
                    await self._ask_all("load", name)

    async def _until_ready(self, keepers: list[asyncio.Task[None]]) -> None:
        """Wait for all workers.

        Raises:
            AxformError: of the first that cannot start.
        """
        while not self._stop.is_set():
            for keeper in keepers:
                if keeper.done():
                    keeper.result()
            ready = [worker.ready.is_set() for worker in self._workers.values()]
            if len(ready) == len(keepers) and all(ready):
                return
            await self._pause(0.02)

    async def _stop_workers(self, sockets: Sockets) -> list[int]:
        """Exit codes."""
        running = [worker for worker in self._workers.values() if worker.process.returncode is None]
        for worker in running:
            worker.send(signal.SIGTERM)
        if running:
            with suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._hurry.wait(), self._settings.drain_delay)
        sockets.take_no_more()
        sockets.close()  # or connections would still be taken, and nobody would answer them
        codes = []
        longest = self._settings.drain_delay + DRAIN_SECONDS + _KILL_AFTER
        for worker in running:
            try:
                code = await asyncio.wait_for(worker.process.wait(), longest)
            except asyncio.TimeoutError:
                log("worker killed", "error", worker=worker.index)
                worker.send(signal.SIGKILL)
                code = await worker.process.wait()
            codes.append(code if worker.ready.is_set() else 0)  # while it starts, a signal may end it at once
        return codes

    async def _pause(self, seconds: float) -> None:
        with suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self._stop.wait(), seconds)

    def _start(self, work: Any) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _on_signal(self) -> None:
        """The first signal stops, the second one does not wait for load balancers."""
        if self._stop.is_set():
            self._hurry.set()
            for worker in self._workers.values():
                if worker.process.returncode is None:
                    worker.send(signal.SIGUSR1)
        self._stop.set()


def _longer(pause: float) -> float:
    return min(_LONGEST_PAUSE, 2 * pause + 0.2)
