"""What the server can be asked, whichever protocol asks."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from .. import __version__
from ..core.memory import resident_bytes
from ..errors import AxformError
from ..runtime.texts import Text
from .calls import InferAnswer, InferCall
from .logs import log
from .model import VERSION, ServedModel
from .peers import Asks
from .refusals import Reason, Refused
from .repository import UNLOADED, Entry, Repository
from .settings import ServeSettings
from .statistics import ModelCounts, protocol_statistics

__all__ = ["Classified", "Service", "WorkerCounts"]

_EXTENSIONS = ["binary_tensor_data", "classify_texts", "model_configuration", "model_repository", "statistics"]


@dataclass(frozen=True)
class Classified:
    """The answer to texts."""

    model: ServedModel
    scores: np.ndarray
    """(texts, labels), or (texts, 1) for a regression."""


@dataclass(frozen=True)
class WorkerCounts:
    """What one worker has counted."""

    worker: int
    resident: int
    """Bytes of memory."""
    models: dict[str, ModelCounts]


class Service:
    """A worker's answers.

    Attributes:
        stopping: no load balancer should send anything any more; what still comes is answered.
    """

    def __init__(self, settings: ServeSettings, repository: Repository, peers: Asks, worker: int) -> None:
        self.settings = settings
        self.stopping = False
        self._repository = repository
        self._peers = peers
        self._worker = worker

    def server_metadata(self) -> dict[str, Any]:
        return {"name": "axform", "version": __version__, "extensions": _EXTENSIONS}

    def is_ready(self) -> bool:
        return not self.stopping

    def is_wanted(self, name: str) -> bool:
        """Whether nobody has unloaded that model."""
        return self._repository.entries[name].problem != UNLOADED

    def model(self, name: str, version: str = "") -> ServedModel:
        """Raises `Refused` where there is no such model, or it is not loaded."""
        return self._repository.model(name, version)

    async def infer(self, call: InferCall) -> InferAnswer:
        """Answer tensors.

        Raises:
            Refused: see `ServedModel.infer`.
        """
        model = self._repository.model(call.model, call.version)
        with _counted(self._repository.entry(call.model)):
            return await model.infer(call, _deadline(call.timeout))

    async def classify(self, name: str, texts: Sequence[Text], timeout: float | None) -> Classified:
        """Answer texts.

        Args:
            timeout: seconds.

        Raises:
            Refused: see `ServedModel.classify`.
        """
        model = self._repository.model(name)
        if len(texts) > self.settings.max_queue:
            raise Refused(
                Reason.INVALID,
                f"{len(texts)} texts, but a request has at most {self.settings.max_queue}; send several.",
            )
        with _counted(self._repository.entry(name)):
            return Classified(model, await model.classify(texts, _deadline(timeout)))

    async def statistics(self, name: str = "", version: str = "") -> list[dict[str, Any]]:
        """The protocol's statistics of one model or of all that are loaded, over all workers."""
        names = list(self._repository.entries)
        if name:
            self._repository.model(name, version)
            names = [name]
        counts = await self.counts()
        loaded = [name for name in names if self._repository.entries[name].model is not None]
        return [
            protocol_statistics(one, VERSION, [worker.models[one] for worker in counts if one in worker.models])
            for one in loaded
        ]

    async def counts(self) -> list[WorkerCounts]:
        """Of every worker that answers, in their order."""
        found = [
            WorkerCounts(
                answer["worker"],
                answer["resident"],
                {name: ModelCounts.model_validate(counts) for name, counts in answer["models"].items()},
            )
            for answer in await self._peers.ask("counts")
            if "models" in answer
        ]
        return sorted(found, key=lambda counts: counts.worker)

    def index(self, only_ready: bool) -> list[dict[str, str]]:
        return self._repository.index(only_ready)

    async def load(self, name: str) -> None:
        """Load a bundle again, in every worker.

        Raises:
            Refused: there is no such model, or its bundle cannot be loaded; then the old model goes on.
        """
        await self._in_all("load", name)

    async def unload(self, name: str) -> None:
        """Take a model out of every worker.

        Raises:
            Refused: there is no such model.
        """
        await self._in_all("unload", name)

    async def obey(self, command: str, model: str) -> dict[str, Any]:
        """Do what one worker asked of all: ``load``, ``unload``, ``stop`` or ``counts``."""
        if command == "stop":
            self.stopping = True
            return {}
        if command == "counts":
            models = {name: entry.counts.model_dump() for name, entry in self._repository.entries.items()}
            return {"worker": self._worker, "resident": resident_bytes(), "models": models}
        try:
            await (self._repository.load(model) if command == "load" else self._repository.unload(model))
        except AxformError as error:
            return {"error": str(error)}
        except Exception as error:  # a worker that answers nobody would hold up all the others
            log("failed", "error", command=command, model=model, error=f"{type(error).__name__}: {error}")
            return {"error": f"{type(error).__name__}: {error}"}
        return {}

    async def _in_all(self, command: str, name: str) -> None:
        self._repository.entry(name)
        for answer in await self._peers.ask(command, name):
            if "error" in answer:
                raise Refused(Reason.INVALID, f"cannot {command} {name}: {answer['error']}")


@contextmanager
def _counted(entry: Entry) -> Iterator[None]:
    started = time.perf_counter()
    try:
        yield
    except Refused as error:
        entry.counts.was_refused(error.reason, time.perf_counter() - started)
        raise
    entry.counts.answered(time.perf_counter() - started, int(time.time() * 1000))


def _deadline(timeout: float | None) -> float | None:
    return None if timeout is None else asyncio.get_running_loop().time() + timeout
