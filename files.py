"""Writing so that nothing is ever half there: to a temporary neighbour first, then a rename."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .errors import AxformError

__all__ = ["check_output_folder", "write_folder", "write_text"]

_NO_SPACE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


def write_text(path: Path, text: str) -> None:
    """Replace ``path`` with ``text`` in one step; on any failure the old file stays as it was."""
    temporary = path.with_name(f".{path.name}.tmp-{os.getpid()}")
    try:
        with temporary.open("w", encoding="utf-8") as handle:
            handle.write(text)
            handle.flush()
            os.fsync(handle.fileno())
        temporary.replace(path)
    except OSError as error:
        raise _write_error(path, error) from error
    finally:
        temporary.unlink(missing_ok=True)


def check_output_folder(path: Path, overwrite: bool, what: str) -> None:
    """Fail early, before any long work, when ``path`` cannot become the ``what`` folder.

    Raises:
        AxformError: ``path`` is a file, holds files and ``overwrite`` is off, or cannot be written.
    """
    if path.exists() and not path.is_dir():
        raise AxformError(f"{path}: is a file, but the {what} must be a folder; name another one with --out.")
    if path.is_dir() and any(path.iterdir()) and not overwrite:
        raise AxformError(f"{path}: the folder is not empty; name another --out, or replace it with --overwrite.")
    existing = path
    while not existing.exists():
        existing = existing.parent
    try:
        with tempfile.TemporaryFile(dir=existing):
            pass
    except OSError as error:
        raise _write_error(path, error) from error


@contextmanager
def write_folder(path: Path, overwrite: bool = False) -> Iterator[Path]:
    """Yield a temporary folder beside ``path`` that takes the place of ``path`` when the block ends without error.

    Raises:
        AxformError: the target is not empty (and ``overwrite`` is off), cannot be written, or the disk is full.
    """
    check_output_folder(path, overwrite, "output")
    staging = path.with_name(f".{path.name}.tmp-{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(staging, ignore_errors=True)
        staging.mkdir()
        yield staging
        retired = None
        if path.exists():
            retired = path.with_name(f".{path.name}.old-{os.getpid()}")
            path.replace(retired)
        staging.replace(path)
        if retired is not None:
            shutil.rmtree(retired, ignore_errors=True)
    except OSError as error:
        raise _write_error(path, error) from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _write_error(path: Path, error: OSError) -> AxformError:
    if error.errno in _NO_SPACE:
        return AxformError(
            f"{path}: no space left while writing; free some or choose another disk. Nothing was left under this name."
        )
    return AxformError(f"{path}: cannot be written ({error.strerror or error}); choose a folder you may write to.")
