"""Which folder an output may take: a new one, an empty one, or with ``--overwrite`` one that axform itself wrote."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from . import __version__
from .errors import AxformError
from .files import read_json, real_path, write_json, writing

__all__ = ["OutputKind", "check_output_folder", "holds_files", "mark"]

OutputKind = Literal["run", "bundle", "Triton repository"]
_MARKER = ".axform"


def mark(folder: Path, kind: OutputKind) -> None:
    """Say in ``folder`` that axform wrote it, so that ``--overwrite`` may replace it."""
    write_json(folder / _MARKER, {"kind": kind, "axform_version": __version__})


def holds_files(path: Path) -> bool:
    return path.is_dir() and any(path.iterdir())


def check_output_folder(path: Path, kind: OutputKind, overwrite: bool, keep: Mapping[str, Path]) -> None:
    """Fail before any long work when ``path`` cannot become a folder of this kind.

    Args:
        keep: what must survive, such as the model, the data and the run, by the name that an error calls it.

    Raises:
        AxformError: ``path`` is a file, the current folder or one above it, cannot be written, or holds files that
            ``overwrite`` does not allow to replace: those of anybody but axform, or anything in ``keep``.
    """
    with writing(path):
        resolved = real_path(path)
        if resolved in (Path.cwd(), *Path.cwd().parents):
            raise AxformError(f"--out {str(path)!r}: is the current folder or one above it; name a folder of its own.")
        if resolved.is_symlink():
            raise AxformError(f"{path}: is a symbolic link that leads back to itself; name another one with --out.")
        if resolved.exists() and not resolved.is_dir():  # of `new/..` the system says that it is not there
            raise AxformError(f"{path}: is a file, but the {kind} must be a folder; name another one with --out.")
        if holds_files(resolved):
            _check_replaceable(path, kind, overwrite, keep)
        with tempfile.TemporaryFile(dir=next(folder for folder in (resolved, *resolved.parents) if folder.exists())):
            pass


def _check_replaceable(path: Path, kind: OutputKind, overwrite: bool, keep: Mapping[str, Path]) -> None:
    if not overwrite:
        raise AxformError(f"{path}: the folder is not empty; name another --out, or replace it with --overwrite.")
    resolved = real_path(path)
    for name, other in keep.items():
        kept = real_path(other)
        if resolved == kept or resolved in kept.parents or kept in resolved.parents:
            raise AxformError(f"{path}: cannot be replaced, since it overlaps {name} ({other}); name another --out.")
    found = _kind_of(resolved)
    if found != kind:
        what = f"an axform {found}" if found else "not a folder that axform wrote"
        raise AxformError(
            f"{path}: is {what}, and --overwrite replaces only an axform {kind}; name another --out, or delete it "
            "yourself."
        )


def _kind_of(path: Path) -> str | None:
    if not (path / _MARKER).is_file():
        return None
    marker = read_json(path / _MARKER, "name another --out")
    return str(marker.get("kind")) if isinstance(marker, dict) else None
