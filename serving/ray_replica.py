"""One replica under Ray Serve: the same REST application as a worker's, with sessions of its own."""

from __future__ import annotations

import asyncio
import os
from contextlib import suppress
from typing import Any

from starlette.types import Receive, Scope, Send

from ..errors import AxformError
from .keys import read_keys
from .logs import log
from .ray_board import STOP, BoardPeers
from .repository import Repository
from .rest import RestApplication
from .runners import Runners
from .service import Service
from .settings import ServeSettings
from .watcher import Watcher

__all__ = ["BOARD", "NAMESPACE", "ReplicaApplication"]

BOARD, NAMESPACE = "axform-board", "axform"
_LOOK_SECONDS = 0.5


class ReplicaApplication:
    """An ASGI application that loads its models when Ray starts it, in the replica's event loop.

    Args:
        settings: `ServeSettings` as JSON; the object travels to every replica.
        cores: of this replica.
    """

    def __init__(self, settings: str, cores: int) -> None:
        self._settings = settings
        self._cores = cores
        self._rest: RestApplication | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Load, answer, or end, as the server says."""
        if scope["type"] == "lifespan":
            await self._live(receive, send)
        elif self._rest is not None:
            await self._rest(scope, receive, send)

    async def _live(self, receive: Receive, send: Send) -> None:
        await receive()
        try:
            work = await self._start()
        except AxformError as error:
            await send({"type": "lifespan.startup.failed", "message": str(error)})
            return
        await send({"type": "lifespan.startup.complete"})
        await receive()
        work.cancel()
        with suppress(asyncio.CancelledError):
            await work
        await send({"type": "lifespan.shutdown.complete"})

    async def _start(self) -> asyncio.Task[None]:
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
        settings = ServeSettings.model_validate_json(self._settings)
        peers = BoardPeers(_call_board)
        await peers.join()
        repository = Repository(settings, Runners(max(1, self._cores // settings.threads)))
        watcher = Watcher(settings.bundles)
        for name in settings.bundles:
            await (repository.unload(name) if name in peers.unloaded else repository.load(name))
        service = Service(settings, repository, peers, peers.worker)
        peers.obey = service.obey
        keys = None if settings.api_key_file is None else read_keys(settings.api_key_file)
        self._rest = RestApplication(service, keys)
        log("replica ready", worker=peers.worker)
        return asyncio.create_task(_follow(service, peers, watcher if settings.watch else None))


async def _follow(service: Service, peers: BoardPeers, watcher: Watcher | None) -> None:
    """Do what other replicas were told, and load bundles that changed on disk: each replica looks at them itself."""
    reachable = True
    while True:
        await asyncio.sleep(_LOOK_SECONDS)
        try:
            done = await peers.look()
            reachable = True
        except Exception as error:  # Ray's errors share no base class with ours; the next look may find the board again
            if reachable:
                log("board lost", "warning", error=f"{type(error).__name__}: {error}")
            reachable, done = False, []
        if watcher is not None:
            for name in await asyncio.to_thread(watcher.changed):
                if service.is_wanted(name):
                    done.append(("load", name, await service.obey("load", name)))
        for command, model, outcome in done:
            if command == STOP:
                continue
            failure = {"error": outcome["error"]} if "error" in outcome else {}
            outcome_name = "failure" if failure else "success"
            log(command, "error" if failure else "info", outcome=outcome_name, model=model, **failure)


async def _call_board(method: str, *arguments: Any) -> Any:
    import ray

    board = await asyncio.to_thread(ray.get_actor, BOARD, namespace=NAMESPACE)
    return await getattr(board, method).remote(*arguments)
