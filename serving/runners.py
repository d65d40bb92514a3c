"""The threads of a worker that run batches, shared by its models: whoever waits longest runs next."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from .batcher import Batcher, Unit

__all__ = ["Runners"]


class Runners:
    """Runs batches of all models of a worker, at most ``count`` at once."""

    def __init__(self, count: int) -> None:
        self.count = count
        self._free = count
        self._pool = ThreadPoolExecutor(count, thread_name_prefix="runner")
        self._batchers: list[Batcher] = []
        """In which something waits."""
        self._timer: asyncio.TimerHandle | None = None

    def run(self, batcher: Batcher) -> None:
        """Run what was submitted to a batcher once it is due; a batcher in which nothing waits is forgotten."""
        if batcher not in self._batchers:
            self._batchers.append(batcher)
        self._kick()

    def close(self) -> None:
        """Let the threads end; what they run ends first."""
        self._pool.shutdown(wait=False)

    def _kick(self) -> None:
        """Start what is due; for whenever something was submitted or a runner became free."""
        loop = asyncio.get_running_loop()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        while self._free:
            waiting = [(*due, batcher) for batcher in self._batchers if (due := batcher.due()) is not None]
            self._batchers = [batcher for *_, batcher in waiting]
            ready = [entry for entry in waiting if entry[0] <= loop.time()]
            if not ready:
                if waiting:
                    self._timer = loop.call_at(min(entry[0] for entry in waiting), self._kick)
                return
            batcher = min(ready, key=lambda entry: entry[1])[2]
            units = batcher.take()
            self._free -= 1
            loop.run_in_executor(self._pool, batcher.compute, units).add_done_callback(
                partial(self._finished, batcher, units)
            )

    def _finished(self, batcher: Batcher, units: Sequence[Unit], run: asyncio.Future) -> None:
        self._free += 1
        answers, times = run.result()
        batcher.finished(units, answers, times)
        self._kick()
