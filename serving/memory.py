"""Giving back the memory that a worker needs no more."""

from __future__ import annotations

import ctypes

__all__ = ["give_back"]


def give_back() -> None:
    """Return freed memory to the system, which glibc by itself keeps: a session that was replaced leaves its size behind."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
