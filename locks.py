"""One process at a time writes an output folder; who comes second is told who is at work there."""

from __future__ import annotations

import json
import os
import platform
import shlex
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from .errors import AxformError
from .files import beside, real_path, remove_leftovers, writing

__all__ = ["locked"]

_POSIX = os.name == "posix"
"""Whether a locked file may be written and removed by its name; on Windows its lock keeps everybody off it."""


@contextmanager
def locked(path: Path, wait: float = 0.0) -> Iterator[None]:
    """Hold the lock of the folder ``path`` while the block runs, and clean up what killed processes left beside it.

    The lock is a hidden file beside the folder, released by the operating system when the process ends in any way.

    Args:
        wait: seconds to wait for another process.

    Raises:
        AxformError: another process holds it, or the place cannot be written.
    """
    path = real_path(path)
    file = beside(path, "lock")
    lock = FileLock(file, timeout=wait)
    with writing(path):
        file.parent.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire()
        except Timeout:
            raise AxformError(
                f"{path}: is being written by {_holder(file)}; wait for it to end, or name another folder."
            ) from None
        if _POSIX:
            file.write_text(json.dumps(_myself()), encoding="utf-8")
        remove_leftovers(path)
    try:
        yield
    finally:
        if _POSIX:
            file.unlink(
                missing_ok=True
            )  # while it is held: who opened it meanwhile sees that it is gone and tries again
        lock.release()
        if not _POSIX:
            with suppress(OSError):
                file.unlink(missing_ok=True)  # unless somebody else has it by now


def _myself() -> dict[str, str]:
    return {
        "process": str(os.getpid()),
        "host": platform.node(),
        "command": shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        "since": time.strftime("%Y-%m-%d %H:%M:%S"),
    }


def _holder(file: Path) -> str:
    try:
        holder = json.loads(file.read_text(encoding="utf-8"))
        return f"process {holder['process']} on {holder['host']} ({holder['command']}, since {holder['since']})"
    except (OSError, ValueError, KeyError, TypeError):
        return "another process"  # it has the lock but has not yet said who it is
