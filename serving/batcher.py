"""Requests of one model that run together: a bounded queue, batches of similar lengths, and answers cut apart again.

Everything but `compute` happens in the event loop, so that nothing here is locked.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from .refusals import Reason, Refused
from .signature import Signature
from .statistics import BatchTimes, ModelCounts

if TYPE_CHECKING:
    from .runners import Runners

__all__ = ["Batcher", "Run", "Unit"]

Run: TypeAlias = Callable[[dict[str, np.ndarray]], list[np.ndarray]]
"""All outputs of the model, in the order of its signature."""
Outputs: TypeAlias = dict[str, np.ndarray]


class Unit:
    """What is never split: the rows of a tensor request, or one text.

    Args:
        feeds: input name -> (rows, ...).
        deadline: of the event loop's clock; None for none.
    """

    __slots__ = ("answer", "deadline", "enqueued", "feeds", "length", "rows", "timer")

    def __init__(self, feeds: dict[str, np.ndarray], deadline: float | None) -> None:
        loop = asyncio.get_running_loop()
        first = next(iter(feeds.values()))
        self.feeds = feeds
        self.rows = len(first)
        self.length = first.shape[1] if first.ndim > 1 else 1
        self.enqueued = loop.time()
        self.deadline = deadline
        self.answer: asyncio.Future[Outputs] = loop.create_future()
        self.timer = None if deadline is None else loop.call_at(deadline, self.expire)

    def expire(self) -> None:
        """Nobody waits any more."""
        self.fail(Refused(Reason.LATE, "the request's timeout has passed; give it more time, or send less."))

    def fail(self, error: Exception) -> None:
        if not self.answer.done():
            self.answer.set_exception(error)

    def succeed(self, outputs: Outputs) -> None:
        if not self.answer.done():
            self.answer.set_result(outputs)

    def forget_timer(self) -> None:
        if self.timer is not None:
            self.timer.cancel()


class Batcher:
    """The queue of one model.

    Args:
        max_batch: rows that run together.
        max_delay: seconds that a request may wait for others while a runner is free.
        max_queue: rows that may wait.
    """

    def __init__(
        self,
        run: Run,
        signature: Signature,
        counts: ModelCounts,
        runners: Runners,
        *,
        max_batch: int,
        max_delay: float,
        max_queue: int,
    ) -> None:
        self._run = run
        self._signature = signature
        self._counts = counts
        self._runners = runners
        self._max_batch = max_batch
        self._max_delay = max_delay
        self._max_queue = max_queue
        self._waiting: dict[object, deque[Unit]] = {}

    async def submit(self, units: Sequence[Unit]) -> list[Outputs]:
        """The answers to the parts of one request, which enter the queue together or not at all.

        Raises:
            Refused: the queue is full, the deadline has passed, or the model cannot run it.
        """
        rows = sum(unit.rows for unit in units)
        try:
            if self._counts.waiting + rows > self._max_queue:
                raise Refused(Reason.FULL, f"{self._counts.waiting} rows wait already; try again later.")
            for unit in units:
                self._waiting.setdefault(self._signature.bucket(unit.feeds), deque()).append(unit)
            self._counts.waiting += rows
            self._runners.run(self)
            return [await unit.answer for unit in units]
        except BaseException:
            for unit in units:  # where a request ends early, its other parts need not run
                if not unit.answer.cancel() and not unit.answer.cancelled():
                    unit.answer.exception()  # seen, so that asyncio does not log it
            self._forget_done()
            raise
        finally:
            for unit in units:
                unit.forget_timer()

    def due(self) -> tuple[float, float] | None:
        """(when a batch is due, when its oldest request came) on the event loop's clock; None when nothing waits."""
        self._forget_done()
        oldest = self._oldest()
        if oldest is None:
            return None
        came = self._waiting[oldest][0].enqueued
        full = self._max_delay <= 0 or self._signature.mixing == "none"
        if full or sum(unit.rows for unit in self._waiting[oldest]) >= self._max_batch:
            return came, came
        return came + self._max_delay, came

    def take(self) -> list[Unit]:
        """Take the oldest request out of the queue, with those that may run with it."""
        bucket = self._oldest()
        queue = self._waiting[bucket]
        units = [queue.popleft()]
        rows = units[0].rows
        if self._signature.mixing != "none":
            while queue and rows + queue[0].rows <= self._max_batch:
                units.append(queue.popleft())
                rows += units[-1].rows
        if not queue:
            del self._waiting[bucket]
        now = asyncio.get_running_loop().time()
        for unit in units:
            self._counts.queue.add(int((now - unit.enqueued) * 1e9))
        self._counts.waiting -= rows
        return units

    def compute(self, units: Sequence[Unit]) -> tuple[list[Outputs | Exception], BatchTimes]:
        """Run units together, in a thread. Where that fails they run one by one, so that a fault stays its own."""
        times = BatchTimes()
        try:
            return list(self._together(units, times)), times
        except Exception as error:
            if len(units) == 1:
                return [error], times
        answers: list[Outputs | Exception] = []
        for unit in units:
            try:
                answers.extend(self._together([unit], times))
            except Exception as error:
                answers.append(error)
        return answers, times

    def finished(self, units: Sequence[Unit], answers: Sequence[Outputs | Exception], times: BatchTimes) -> None:
        """Hand out what `compute` returned."""
        rows = sum(unit.rows for unit in units)
        positions = rows * max(unit.length for unit in units)
        real = sum(unit.rows * unit.length for unit in units)
        self._counts.ran(rows, len(units), positions, positions - real, times)
        for unit, answer in zip(units, answers, strict=True):
            if isinstance(answer, Exception):
                unit.fail(answer)
            else:
                unit.succeed(answer)

    def _together(self, units: Sequence[Unit], times: BatchTimes) -> list[Outputs]:
        started = time.perf_counter_ns()
        feeds = units[0].feeds if len(units) == 1 else _joined(units, self._signature.pad_values)
        prepared = time.perf_counter_ns()
        values = self._run(feeds)
        ran = time.perf_counter_ns()
        parts = _parted(units, self._signature, values)
        times.prepare += prepared - started
        times.run += ran - prepared
        times.split += time.perf_counter_ns() - ran
        return parts

    def _oldest(self) -> object:
        """The bucket whose first request came first; None when nothing waits."""
        if not self._waiting:
            return None
        return min(self._waiting, key=lambda bucket: self._waiting[bucket][0].enqueued)

    def _forget_done(self) -> None:
        """Take those out of the queue who are cancelled or late, so that they keep nobody else out."""
        for bucket, queue in list(self._waiting.items()):
            if not any(unit.answer.done() for unit in queue):
                continue
            self._counts.waiting -= sum(unit.rows for unit in queue if unit.answer.done())
            left = deque(unit for unit in queue if not unit.answer.done())
            if left:
                self._waiting[bucket] = left
            else:
                del self._waiting[bucket]


def _joined(units: Sequence[Unit], pad_values: Mapping[str, int]) -> dict[str, np.ndarray]:
    """The rows of all units, padded on the right to the longest."""
    rows, length = sum(unit.rows for unit in units), max(unit.length for unit in units)
    feeds = {}
    for name, first in units[0].feeds.items():
        if all(unit.feeds[name].shape[1:] == first.shape[1:] for unit in units):
            feeds[name] = np.concatenate([unit.feeds[name] for unit in units])
            continue
        joined = np.full((rows, length), pad_values.get(name, 0), first.dtype)
        start = 0
        for unit in units:
            joined[start : start + unit.rows, : unit.length] = unit.feeds[name]
            start += unit.rows
        feeds[name] = joined
    return feeds


def _parted(units: Sequence[Unit], signature: Signature, values: Sequence[np.ndarray]) -> list[Outputs]:
    """Each unit's own rows, cut off at its own length. Copies, so that no answer keeps the batch in memory."""
    rows = sum(unit.rows for unit in units)
    for port, value in zip(signature.outputs, values, strict=True):
        if not value.ndim or len(value) != rows:
            raise Refused(Reason.FAILED, f"output {port.name}: not one row for each of {rows}.")
    parts: list[Outputs] = []
    start = 0
    for unit in units:
        own: Outputs = {}
        for port, value in zip(signature.outputs, values, strict=True):
            cut = [slice(start, start + unit.rows)]
            cut += [
                slice(unit.length) if size == signature.sequence and size is not None else slice(None)
                for size in port.shape[1:]
            ]
            own[port.name] = value[tuple(cut)].copy() if len(units) > 1 else value
        parts.append(own)
        start += unit.rows
    return parts
