"""The models of a worker by name: loading, replacing and unloading them while others answer."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field

from ..errors import AxformError
from .logs import log
from .memory import give_back
from .model import VERSION, ServedModel, load_model
from .refusals import Reason, Refused, shown
from .runners import Runners
from .settings import ServeSettings
from .statistics import ModelCounts

__all__ = ["UNLOADED", "Entry", "Repository"]

UNLOADED = "unloaded"
"""The problem of a model that somebody has taken out."""

_UNTIL_FREED = 2.0
"""Seconds after which what a replaced model was asked has been answered, mostly."""


@dataclass
class Entry:
    """A name, and what stands behind it now."""

    name: str
    path: str
    model: ServedModel | None = None
    problem: str = "not loaded"
    """Why there is no model, or no newer one."""
    counts: ModelCounts = field(default_factory=ModelCounts)
    changing: asyncio.Lock = field(default_factory=asyncio.Lock)


class Repository:
    """The bundles that the server was started with. Nothing else can be loaded, whatever a client names."""

    def __init__(self, settings: ServeSettings, runners: Runners) -> None:
        self._settings = settings
        self._runners = runners
        self._entries = {name: Entry(name, path) for name, path in settings.bundles.items()}

    @property
    def entries(self) -> Mapping[str, Entry]:
        return self._entries

    def entry(self, name: str, version: str = "") -> Entry:
        """The entry of that name, loaded or not.

        Raises:
            Refused: there is none, or no such version.
        """
        if name not in self._entries:
            raise Refused(Reason.NOT_FOUND, f"model {shown(name)} is not known; known are {', '.join(self._entries)}.")
        if version not in ("", VERSION):
            raise Refused(Reason.NOT_FOUND, f"model {name} has version {VERSION} only, not {shown(version)}.")
        return self._entries[name]

    def model(self, name: str, version: str = "") -> ServedModel:
        """The model of that name.

        Raises:
            Refused: there is none, or it is not loaded.
        """
        entry = self.entry(name, version)
        if entry.model is None:
            raise Refused(Reason.UNAVAILABLE, f"model {name} is not loaded ({entry.problem}).")
        return entry.model

    async def load(self, name: str) -> None:
        """Load a bundle, or load it again: the new model takes the place of the old when it has run once.

        Raises:
            AxformError: it cannot be loaded; the old model goes on.
        """
        entry = self._entries[name]
        async with entry.changing:
            again = entry.model is not None
            try:
                model = await asyncio.to_thread(load_model, name, entry.path, self._settings)
            except AxformError as error:
                entry.problem = str(error)
                entry.counts.loaded_again("failure")
                raise
            model.start(entry.counts, self._runners)
            entry.model, entry.problem = model, ""
            if again:
                _give_back_soon()
                entry.counts.loaded_again("success")
            for fallback in model.fallbacks:
                log("fallback", "warning", model=name, reason=fallback)

    async def unload(self, name: str) -> None:
        """Take a model out; requests that wait for it are answered."""
        entry = self._entries[name]
        async with entry.changing:
            entry.model, entry.problem = None, UNLOADED
            _give_back_soon()

    def index(self, only_ready: bool = False) -> list[dict[str, str]]:
        """As the protocol's repository index."""
        rows = []
        for entry in self._entries.values():
            ready = entry.model is not None
            row = {"name": entry.name, "version": VERSION, "state": "READY" if ready else "UNAVAILABLE"}
            rows.append(row | ({"reason": entry.problem} if entry.problem else {}))
        return [row for row in rows if row["state"] == "READY" or not only_ready]


def _give_back_soon() -> None:
    """The memory of a model is the system's again when its last answer is out, or soon after."""
    timer = threading.Timer(_UNTIL_FREED, give_back)
    timer.daemon = True  # a worker that ends meanwhile waits for nobody
    timer.start()
