"""Which bundles on disk are others than those that were loaded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ..errors import AxformError
from ..files import read_json

__all__ = ["Watcher"]

_MANIFEST = "axform.json"


@dataclass(frozen=True)
class _Print:
    """By which a folder is known again."""

    stats: tuple[tuple[str, int, int, int], ...]
    """Of each file but the manifest: name, inode, bytes, time of the last change."""
    manifest: tuple[int, int, int]
    """Of axform.json, the same."""


class Watcher:
    """Compares folders with how they were.

    Attributes:
        seconds: between two looks.
    """

    seconds = 0.5

    def __init__(self, bundles: Mapping[str, str]) -> None:
        self._bundles = {name: Path(folder) for name, folder in bundles.items()}
        self._known = {name: _print_of(path) for name, path in self._bundles.items()}
        self._files = {name: _files_of(path) for name, path in self._bundles.items()}
        self._seen = dict(self._known)

    def changed(self) -> list[str]:
        """Models whose bundle has changed since it was last named, and was the same at the last two looks.

        A result that is recorded in axform.json changes no model. A folder that is gone has not changed: another one is
        about to take its place.
        """
        names = []
        for name, path in self._bundles.items():
            now, known = _print_of(path), self._known[name]
            settled, self._seen[name] = now == self._seen[name], now
            if now is None or not settled or now == known:
                continue
            files = _files_of(path)
            if known is None or now.stats != known.stats or files != self._files[name]:
                names.append(name)
            self._known[name], self._files[name] = now, files
        return names


def _print_of(path: Path) -> _Print | None:
    """None where there is no bundle at this moment."""
    stats = {}
    try:
        for file in sorted(path.iterdir()):
            if not file.name.startswith("."):
                found = file.stat()
                stats[file.name] = (found.st_ino, found.st_size, found.st_mtime_ns)
    except OSError:
        return None
    manifest = stats.pop(_MANIFEST, None)
    return None if manifest is None else _Print(tuple((name, *known) for name, known in stats.items()), manifest)


def _files_of(path: Path) -> object:
    """The checksums that axform.json names; None where it cannot be read."""
    try:
        manifest = read_json(path / _MANIFEST, "it is not whole")
    except AxformError:
        return None
    return manifest.get("files") if isinstance(manifest, dict) else None
