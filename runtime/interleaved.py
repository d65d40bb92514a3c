"""Calls that are timed in turn, once they are warm."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence

import numpy as np

__all__ = ["BENCH_SECONDS", "time_interleaved", "warm_up"]

BENCH_SECONDS = 5.0
"""How long a shape is timed when nothing else is asked for."""
_FEWEST_RUNS = 20
_WINDOW = 3
"""Calls of each whose median is compared with that of the calls before."""
_STABLE = 0.05
"""How far the medians of two windows may be apart, as a share."""
_MOST_WINDOWS, _LONGEST = 10, 2.0
"""Windows and seconds after which timing begins in any case: on a busy machine no two windows need ever agree."""

_Clock = Callable[[], float]


def time_interleaved(
    runners: Sequence[Callable[[], object]],
    runs: int | None = None,
    seconds: float = BENCH_SECONDS,
    most: int = sys.maxsize,
) -> list[np.ndarray]:
    """Milliseconds per call for each of ``runners``, called in turn so that noise hits all alike, (runs,) each.

    Args:
        runs: calls of each that are timed, after the warm-up; None = as many as fit into ``seconds``, at least 20.
        most: that many at most then.
    """
    warm_up(runners)
    times: list[list[float]] = []
    started = time.perf_counter()
    while len(times) < (runs or _FEWEST_RUNS) or (
        runs is None and len(times) < most and time.perf_counter() - started < seconds
    ):
        times.append(_one_round(runners, time.perf_counter))
    return list(1000 * np.array(times).T)


def warm_up(runners: Sequence[Callable[[], object]], clock: _Clock = time.perf_counter) -> int:
    """Call all in turn until each is as fast as it was a few calls ago: caches, memory and clocks have settled.

    Returns:
        How often each was called.
    """
    started = clock()
    medians: list[np.ndarray] = []
    while len(medians) < _MOST_WINDOWS and not _settled(medians) and not (medians and clock() - started > _LONGEST):
        medians.append(np.median([_one_round(runners, clock) for _ in range(_WINDOW)], axis=0))
    return _WINDOW * len(medians)


def _settled(medians: Sequence[np.ndarray]) -> bool:
    return len(medians) > 1 and bool(np.all(np.abs(medians[-1] - medians[-2]) <= _STABLE * medians[-1]))


def _one_round(runners: Sequence[Callable[[], object]], clock: _Clock) -> list[float]:
    """Seconds that each takes."""
    taken = []
    for run in runners:
        before = clock()
        run()
        taken.append(clock() - before)
    return taken
