"""Freed memory that stays with the process, so that the next tensor does not ask the system for it again.

GNU's C library maps a large block of its own for every large tensor and gives it back when the tensor goes; each
operator then waits while the system clears page after page. A training step asks for the same sizes again and again.
"""

from __future__ import annotations

import ctypes
import os
import platform

__all__ = ["keep_freed_memory"]

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
"""Parameters of mallopt(3): the free memory at the top of the heap, and the size of a block, from which the system gets it
back."""
_LARGEST_TENSOR = 1 << 30
_NEVER = (1 << 31) - 1


def keep_freed_memory() -> None:
    """Let this process reuse what its tensors free; nothing where the C library is another, or the user tuned it."""
    tuned = any(name.startswith("MALLOC_") or name == "GLIBC_TUNABLES" for name in os.environ)
    if platform.libc_ver()[0] != "glibc" or tuned:
        return
    library = ctypes.CDLL(None)
    library.mallopt(_MMAP_THRESHOLD, _LARGEST_TENSOR)
    library.mallopt(_TRIM_THRESHOLD, _NEVER)
