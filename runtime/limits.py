"""What the numbers that a session, a check or a benchmark is asked for may be; one bound for Python and the command line."""

from __future__ import annotations

import os
from numbers import Integral

from ..core.families import ModelShape
from ..errors import AxformError

__all__ = ["check_memory", "check_threads", "positive"]

_THREADS_PER_CORE = 8
"""More only take memory and wait for each other; some hundred thousand would never start."""


def positive(name: str, value: int) -> int:
    """``value``, which is called ``name``.

    Raises:
        AxformError: it is not a whole number from 1 on.
    """
    if not isinstance(value, Integral) or isinstance(value, bool) or value < 1:
        raise AxformError(f"{name} {value!r}: give a whole number from 1 on.")
    return int(value)


def check_threads(threads: int) -> None:
    """Refuse threads that a session could not start or that could only hinder each other.

    Raises:
        AxformError: not a whole number from 1 to 8 for each core of the machine.
    """
    cores = os.cpu_count() or 1
    if positive("threads", threads) > _THREADS_PER_CORE * cores:
        raise AxformError(
            f"threads {threads}: give at most {_THREADS_PER_CORE * cores}, {_THREADS_PER_CORE} for each of this "
            f"machine's {cores} cores."
        )


def check_memory(shape: ModelShape, batch: int, sequence: int) -> None:
    """Refuse inputs (batch, sequence) whose largest float32 activation alone is larger than the machine's memory.

    Raises:
        AxformError: with the bytes that it takes and the bytes that are there.
    """
    if not hasattr(os, "sysconf"):
        return
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    feed_forward, scores = sequence * shape.intermediate_size, shape.num_heads * sequence**2
    needed = 4 * batch * max(feed_forward, scores)
    if needed > memory:
        raise AxformError(
            f"--batch {batch} with --seq {sequence}: one activation alone takes {needed // 10**9:,} GB, but this machine "
            f"has {memory // 10**9:,} GB; give smaller ones."
        )
