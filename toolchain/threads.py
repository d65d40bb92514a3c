"""How many threads torch computes with, and how they wait for each other.

The number decides how sums are split, hence the last bits of losses, gradients and weights. So it is settled once, kept
with the run's options, and stays what it is to the end of the run, resumed or not.

How threads wait decides nothing but time. OpenMP threads spin at the end of every operator. That is fastest alone, and
collapses when another process needs a core: those that have one spin it away while they wait for the one that has none.
Threads that sleep share a core well and lose some time alone. So the waiting is what is chosen, by the durations of real
steps of work: when work of a kind begins, and again when it suddenly takes much longer.

GNU's OpenMP reads its wait policy once, when it is loaded. But while there are more OpenMP threads than cores it spins
for next to no time (so documented for GOMP_SPINCOUNT), and idle threads of another team count, too. Where torch comes
with another OpenMP, or the user chose a policy, the waiting stays as it is.
"""

from __future__ import annotations

import ctypes
import os
import statistics
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import torch

from ..core.cores import usable_cores

__all__ = ["IdleTeam", "ThreadTuner", "computing_with", "default_threads", "timed_step"]

_WAIT_POLICIES = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")

_PAIRS = 3
"""Steps that are timed in each way of waiting, in turn; one pair is enough where they differ by `_SUDDENLY`."""
_TIE = 1.05
"""Threads may sleep for this much more time: it is the price of not collapsing."""
_SUDDENLY = 2.0
"""How many times slower than usual two steps in a row must be to compare again."""
_SHARE_LOST = 0.05
"""Largest share of the time that comparisons may cost by trying the slower way."""
_REST = 5.0
"""Seconds between two comparisons at least."""
_TRY_SPINNING = 30.0
"""Seconds after which sleeping threads are compared again, since nothing else tells that the cores are free."""


def default_threads() -> int:
    """Threads inside one operator where the user names none: those of OMP_NUM_THREADS, else one a usable core."""
    threads = torch.get_num_threads()
    return threads if "OMP_NUM_THREADS" in os.environ else min(threads, usable_cores())


class IdleTeam:
    """A team of OpenMP threads that does nothing; while it is there, all others sleep where they would spin.

    Args:
        libraries: GNU OpenMP runtimes that this process has loaded.
    """

    def __init__(self, libraries: list[str]) -> None:
        self._runtimes = [ctypes.CDLL(path) for path in libraries]
        self._dismissed: threading.Event | None = None

    @property
    def size(self) -> int:
        """How many threads it has: more than cores, whatever the other teams have."""
        return sum(runtime.omp_get_num_procs() + 1 for runtime in self._runtimes)

    def __call__(self, present: bool) -> None:
        """Assemble or dismiss the team."""
        if present and self._dismissed is None:
            assembled, self._dismissed = threading.Event(), threading.Event()
            # A team lives as long as the thread that started it.
            self._leader = threading.Thread(target=self._lead, args=(assembled, self._dismissed), daemon=True)
            self._leader.start()
            assembled.wait()
        elif not present and self._dismissed is not None:
            self._dismissed.set()
            self._leader.join()
            self._dismissed = None

    def _lead(self, assembled: threading.Event, dismissed: threading.Event) -> None:
        for runtime in self._runtimes:
            # The function that the team runs has no effect.
            runtime.GOMP_parallel(runtime.omp_get_thread_num, None, runtime.omp_get_num_procs() + 1, 0)
        assembled.set()
        dismissed.wait()


class ThreadTuner:
    """Lets threads spin or sleep, whichever the steps of a kind of work are faster with.

    Args:
        sleep: makes threads sleep (True) or spin (False).
        clock: seconds.
    """

    def __init__(self, sleep: Callable[[bool], None], clock: Callable[[], float] = time.perf_counter) -> None:
        self._sleep = sleep
        self._clock = clock
        self._asleep = False
        self._choices: dict[str, _Choice] = {}

    @contextmanager
    def step(self, kind: str, work: float = 1.0) -> Iterator[None]:
        """Run the block, a piece of work of that kind, with threads that wait as is best for it as far as known.

        Args:
            work: how much it is, in any unit of that kind, so that large and small steps compare.
        """
        choice = self._choices.setdefault(kind, _Choice(self._asleep))
        self._switch(choice.asleep)
        started = self._clock()
        yield
        now = self._clock()
        choice.learn(now - started, work, now)

    def end(self) -> None:
        """Let threads spin, as they do by themselves."""
        self._switch(False)

    def _switch(self, asleep: bool) -> None:
        if asleep != self._asleep:
            self._sleep(asleep)
            self._asleep = asleep


class _Choice:
    """How threads wait in the next step of one kind of work, and what is known about it."""

    def __init__(self, asleep: bool) -> None:
        self.asleep = asleep
        self._comparison: _Comparison | None = None
        self._compared_at: float | None = None
        self._rests_until = 0.0
        self._paces: deque[float] = deque(maxlen=9)
        self._slow = 0

    def learn(self, seconds: float, work: float, now: float) -> None:
        """Take in a step that has just ended."""
        if self._comparison is None:
            if self._is_due(seconds / work, now):
                self._comparison = _Comparison()
            return
        self._comparison.add(self.asleep, seconds, work)
        if self._comparison.is_decided():
            self._settle(self._comparison, now)
        else:
            self.asleep = not self.asleep

    def _is_due(self, pace: float, now: float) -> bool:
        """Whether to compare from the next step on; the first step of all warms up and says nothing about its pace."""
        if self._compared_at is None:
            return True
        if self._paces and pace > _SUDDENLY * statistics.median(self._paces):
            self._slow += 1  # and what is slow does not become what is usual
        else:
            self._slow = 0
            self._paces.append(pace)
        wanted = self._slow > 1 or (self.asleep and now - self._compared_at > _TRY_SPINNING)
        return wanted and now >= self._rests_until

    def _settle(self, comparison: _Comparison, now: float) -> None:
        self.asleep = comparison.prefers_sleep()
        self._comparison, self._slow = None, 0
        self._compared_at = now
        self._rests_until = now + max(_REST, comparison.lost() / _SHARE_LOST)
        self._paces = deque(comparison.paces(self.asleep), maxlen=9)


class _Comparison:
    """Steps of one kind, timed with threads that spin and that sleep, in turn, so that noise hits both alike."""

    def __init__(self) -> None:
        self._steps: dict[bool, list[tuple[float, float]]] = {False: [], True: []}

    def add(self, asleep: bool, seconds: float, work: float) -> None:
        self._steps[asleep].append((seconds, work))

    def paces(self, asleep: bool) -> list[float]:
        return [seconds / work for seconds, work in self._steps[asleep]]

    def is_decided(self) -> bool:
        pairs = len(self._steps[False])
        if pairs == 0 or pairs != len(self._steps[True]):
            return False
        slower, faster = sorted(map(self._pace, self._steps), reverse=True)
        return pairs == _PAIRS or slower > _SUDDENLY * faster

    def prefers_sleep(self) -> bool:
        return self._pace(True) <= _TIE * self._pace(False)

    def lost(self) -> float:
        """Seconds that the comparison took longer than all its steps would have in the faster way."""
        steps = [*self._steps[False], *self._steps[True]]
        best = min(map(self._pace, self._steps))
        return max(0.0, sum(seconds - work * best for seconds, work in steps))

    def _pace(self, asleep: bool) -> float:
        return statistics.median(self.paces(asleep))


@cache
def _process_tuner() -> ThreadTuner | None:
    libraries = _gnu_openmp()
    if not libraries or any(name in os.environ for name in _WAIT_POLICIES):
        return None
    team = IdleTeam(libraries)
    return ThreadTuner(team) if _can_start(team.size) else None


def _can_start(count: int) -> bool:
    """Whether there is room for that many threads, tried with Python's: OpenMP ends the process where there is not."""
    tried, threads = threading.Event(), []
    try:
        for _ in range(count):
            threads.append(threading.Thread(target=tried.wait, daemon=True))
            threads[-1].start()
    except RuntimeError:
        return False
    finally:
        tried.set()
    return True


def _gnu_openmp() -> list[str]:
    """The GNU OpenMP runtimes that this process has loaded; those that imitate it under its name have other files."""
    try:
        maps = Path("/proc/self/maps").read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except OSError:
        return []
    files = {line.split(maxsplit=5)[5] for line in maps if line.count("/")}
    return sorted(file for file in files if Path(file).name.startswith("libgomp"))


@contextmanager
def timed_step(kind: str, work: float = 1.0) -> Iterator[None]:
    """`ThreadTuner.step` of this process, since all of its threads wait alike; nothing where there is only one."""
    tuner = _process_tuner() if torch.get_num_threads() > 1 else None
    if tuner is None:
        yield
    else:
        with tuner.step(kind, work):
            yield


@contextmanager
def computing_with(threads: int) -> Iterator[None]:
    """Let torch compute with that many threads; afterwards they are as many, and wait, as before."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)
        tuner = _process_tuner()
        if tuner is not None:
            tuner.end()
        _process_tuner.cache_clear()
