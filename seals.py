"""Checksums of the files in a folder, so that what is resumed from or shipped is known to be whole."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from .errors import AxformError
from .files import read_json, write_json

__all__ = ["FileRecord", "damage", "file_record", "first_damage", "record_files", "seal", "touched"]

_SEAL = "seal.json"
_NO_SEAL = f"{_SEAL} is missing or damaged"


class FileRecord(BaseModel):
    model_config = ConfigDict(strict=True)

    sha256: str
    bytes: int


_RECORDS = TypeAdapter(dict[str, FileRecord])


def file_record(path: Path) -> FileRecord:
    """Size in bytes and SHA-256 of a file."""
    digest = hashlib.sha256()
    with path.open("rb") as handle:
        while chunk := handle.read(1 << 22):
            digest.update(chunk)
    return FileRecord(sha256=digest.hexdigest(), bytes=path.stat().st_size)


def record_files(folder: Path) -> dict[str, FileRecord]:
    """The record of every file in ``folder`` and the folders in it, by its path from there."""
    return {
        path.relative_to(folder).as_posix(): file_record(path) for path in sorted(folder.rglob("*")) if path.is_file()
    }


def first_damage(folder: Path, records: Mapping[str, FileRecord]) -> str | None:
    """What is wrong with the first recorded file that is not as it was; None when all are."""
    for name, record in records.items():
        path = folder / name
        if not path.is_file():
            return f"{name} is missing"
        if path.stat().st_size != record.bytes or file_record(path) != record:
            return f"{name} is not as it was written"
    return None


def seal(folder: Path) -> None:
    """Record the files of ``folder`` in it; the last thing that is written there."""
    records = record_files(folder)
    records.pop(_SEAL, None)
    write_json(folder / _SEAL, {name: record.model_dump() for name, record in records.items()})


def damage(folder: Path) -> str | None:
    """What is wrong with a sealed folder; None when it is whole."""
    if not folder.is_dir():
        return "is missing"
    records = _sealed(folder)
    return _NO_SEAL if records is None else first_damage(folder, records)


def touched(folder: Path) -> str | None:
    """What somebody added to a sealed folder or changed in it, so that it would be lost with it; None when nothing."""
    records = _sealed(folder)
    if records is None:
        return _NO_SEAL
    for name, record in record_files(folder).items():
        if name == _SEAL:
            continue
        if name not in records:
            return f"{name} was added since it was written"
        if record != records[name]:
            return f"{name} was changed since it was written"
    return None


def _sealed(folder: Path) -> dict[str, FileRecord] | None:
    """The files that were sealed, as they were; None where that cannot be read."""
    try:
        return _RECORDS.validate_python(read_json(folder / _SEAL, "it is not whole"))
    except (AxformError, ValidationError):
        return None
