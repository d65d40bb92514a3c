"""Writing so that nothing is ever half there, and reading what may be damaged.

Everything is written under a temporary neighbouring name first and then renamed. The libraries that save weights raise
errors of their own for a full disk; `writing` turns them into the same one-line error.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from .errors import AxformError

__all__ = [
    "beside",
    "parse_json",
    "read_json",
    "real_path",
    "remove_leftovers",
    "replace_folder",
    "write_folder",
    "write_json",
    "write_text",
    "writing",
]

_POSIX = os.name == "posix"
_NO_SPACE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_TEMPORARY, _RETIRED = "tmp-", "old-"
_LONGEST_NAME = 200
"""Bytes of a name that still leave room for what `beside` adds: file systems end at 255."""


def write_text(path: Path, text: str) -> None:
    """Replace ``path`` with ``text`` in one step; on any failure the old file stays as it was."""
    with writing(path):
        descriptor, name = tempfile.mkstemp(prefix=beside(path, _TEMPORARY).name, dir=path.parent)
        temporary = Path(name)
        try:
            with open(descriptor, "w", encoding="utf-8") as handle:  # noqa: PTH123
                handle.write(text)
                handle.flush()
                os.fsync(handle.fileno())
            temporary.chmod(0o666 & ~_umask())
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)


def write_json(path: Path, value: Any) -> None:
    """`write_text` of JSON.

    Raises:
        ValueError: ``value`` holds a number that JSON has no word for; what cannot be read back is not written.
    """
    write_text(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


def read_json(path: Path, remedy: str) -> Any:
    """Parse a file of JSON in UTF-8.

    Raises:
        AxformError: it is missing or cannot be read, for whatever reason; ends with ``remedy``, what the user can do.
    """
    try:
        return parse_json(path.read_text(encoding="utf-8"), parse_constant=_refuse_constant)
    except FileNotFoundError:
        raise AxformError(f"{path}: no such file; {remedy}.") from None
    except RecursionError:
        raise AxformError(f"{path}: damaged (nested too deep); {remedy}.") from None
    except (OSError, ValueError) as error:
        raise AxformError(f"{path}: damaged (not readable as JSON: {error}); {remedy}.") from None


def parse_json(text: str, **options: Any) -> Any:
    """`json.loads` whose texts can all be written again.

    Raises:
        ValueError: it is no JSON, or a text in it holds half a surrogate pair.
        RecursionError: it is nested too deep.
    """
    value = json.loads(text, **options)
    if "\\u" in text:
        json.dumps(value, ensure_ascii=False).encode("utf-8")
    return value


def _refuse_constant(name: str) -> float:
    raise ValueError(f"it holds {name}")


@contextmanager
def write_folder(path: Path) -> Iterator[Path]:
    """Yield a temporary folder beside ``path`` that takes its place when the block ends without error.

    Raises:
        AxformError: the folder cannot be written, or the disk is full; what stood under ``path`` stays.
    """
    path = real_path(path)  # what a symbolic link points to is replaced, not the link
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        staging = Path(tempfile.mkdtemp(prefix=beside(path, _TEMPORARY).name, dir=path.parent))
        try:
            staging.chmod(0o777 & ~_umask())
            yield staging
            _flush(staging)
            replace_folder(staging, path)
        finally:
            shutil.rmtree(staging, ignore_errors=True)


def replace_folder(new: Path, path: Path) -> None:
    """Let the folder ``new`` take the place of ``path``, which is back under its name when that fails."""
    if not path.exists():
        new.replace(path)
        return
    retired = Path(tempfile.mkdtemp(prefix=beside(path, _RETIRED).name, dir=path.parent))
    if not _POSIX:
        retired.rmdir()  # Windows lets no folder take the place of another, an empty one included
    path.replace(retired)
    try:
        new.replace(path)
    except BaseException:
        retired.replace(path)
        raise
    shutil.rmtree(retired, ignore_errors=True)


def remove_leftovers(path: Path) -> None:
    """Undo what killed processes left beside ``path``; only for who holds its lock, so that nobody is at work there.

    Temporary files and folders go; what was moved aside to be replaced is put back, or removed when its successor is
    there.
    """
    path = real_path(path)
    if not path.parent.is_dir():
        return
    for leftover in path.parent.iterdir():
        if leftover.name.startswith(beside(path, _RETIRED).name) and not path.exists() and any(leftover.iterdir()):
            leftover.replace(path)
        elif leftover.name.startswith((beside(path, _TEMPORARY).name, beside(path, _RETIRED).name)):
            shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()


def real_path(path: Path) -> Path:
    """The full path without symbolic links; of links in a circle, one whose use is an `OSError`."""
    return Path(os.path.realpath(path))


def beside(path: Path, suffix: str) -> Path:
    """A hidden name beside ``path`` that belongs to it."""
    name = path.name
    if len(name.encode()) > _LONGEST_NAME:
        name = hashlib.sha256(name.encode()).hexdigest()
    return path.with_name(f".{name}.{suffix}")


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn what goes wrong with the file system while the block writes ``path`` into one clear error.

    Raises:
        AxformError: no space, no permission, a name that is too long and the like, whoever noticed it.
    """
    try:
        yield
    except AxformError:
        raise
    except OSError as error:
        raise _write_error(path, error) from error
    except Exception as error:  # torch, safetensors and tokenizers report a full disk in kinds of their own
        cause = _system_error(error)
        if cause is None:
            raise
        raise _write_error(path, cause) from error


def _system_error(error: Exception) -> OSError | None:
    """The error of the operating system that a library's own error stands for."""
    text = str(error)
    code = re.search(r"os error (\d+)|Os \{ code: (\d+)", text)  # how Rust prints it
    if code:
        number = int(code.group(1) or code.group(2))
        return OSError(number, os.strerror(number))
    if "PytorchStreamWriter" in text or "inline_container" in text:  # how torch.save does; it keeps no reason
        return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    return None


def _write_error(path: Path, error: OSError) -> AxformError:
    if error.errno in _NO_SPACE:
        return AxformError(
            f"{path}: no space left while writing; free some or choose another disk. What was there before is as it was."
        )
    return AxformError(f"{path}: cannot be written ({error.strerror or error}); choose a folder you may write to.")


def _flush(folder: Path) -> None:
    """Bring every file to the disk before the rename that makes them count."""
    for path in folder.rglob("*"):
        if path.is_file():
            descriptor = os.open(path, os.O_RDONLY if _POSIX else os.O_RDWR)  # Windows flushes what may be written to
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)


def _umask() -> int:
    current = os.umask(0)
    os.umask(current)
    return current
