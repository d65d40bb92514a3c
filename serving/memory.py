"""How much memory a worker holds, and giving back what it needs no more."""

from __future__ import annotations

import ctypes
from pathlib import Path

__all__ = ["give_back", "resident_bytes"]

_STATM = Path("/proc/self/statm")


def resident_bytes() -> int:
    """Memory of this process; 0 where the system does not say."""
    try:
        pages = int(_STATM.read_text(encoding="ascii").split()[1])
    except (OSError, ValueError, IndexError):
        return 0
    import resource

    return pages * resource.getpagesize()


def give_back() -> None:
    """Return freed memory to the system, which glibc by itself keeps: a session that was replaced leaves its size behind."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
