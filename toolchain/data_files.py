"""The files of a data folder: which of them are which split, and their rows exactly as they are written.

Nothing is guessed from a value's looks: what csv and tsv hold is text, JSON and parquet give the types they state. An
empty text is a text; a value that is not there is None.
"""

from __future__ import annotations

import csv
import io
import json
import re
import reprlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import AxformError, listed
from ..files import parse_json

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

__all__ = ["Rows", "frame_of", "has_split", "read_split"]

_PART = re.compile(r"-(?P<number>[0-9]{1,9})-of-(?P<total>[0-9]{1,9})(-[0-9a-f]+)?")
"""What follows the split's name in the name of a part, as the hub writes them; older ones end in a hash."""
_LONGEST_CELL = 2**31 - 1
"""Characters; csv's own limit of 131,072 is less than a long document."""

_JSON_ADVICE = "the file must hold a list of objects, or one object per line"


@dataclass(frozen=True)
class Rows:
    """One split as it was read."""

    frame: pd.DataFrame
    """Columns of Python objects, rows numbered from 0."""
    source: str
    """Where it comes from, for messages."""
    remarks: tuple[str, ...] = ()
    """What is no error, but may surprise the user."""


def has_split(folder: Path, name: str) -> bool:
    """Whether ``folder`` holds files that look like the split's."""
    return bool(_candidates(folder, name))


def read_split(folder: Path, *names: str) -> Rows:
    """Read the split from ``name.ext`` or its parts ``name-00000-of-00002.ext``, under the first name that has files.

    Raises:
        AxformError: there are no files, more than one reading of them, a part is missing, or a file is not readable.
    """
    for name in names:
        files = _candidates(folder, name)
        if files:
            return _joined([_READERS[path.suffix](path) for path in _in_order(name, files)], f"{folder / name}-*")
    found = listed(sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))) or "nothing"
    expected = " or ".join(f"{name}.*" for name in dict.fromkeys(names))
    raise AxformError(
        f"{folder}: split {names[0]!r} is missing; found {found}, expected {expected} "
        f"({', '.join(suffix[1:] for suffix in _READERS)})."
    )


def _candidates(folder: Path, split: str) -> list[Path]:
    """Every data file whose name starts like the split's, meant for it or not."""
    return sorted(
        path
        for path in folder.iterdir()
        if path.suffix in _READERS and re.split(r"[.-]", path.name, maxsplit=1)[0] == split
    )


def _in_order(split: str, files: list[Path]) -> list[Path]:
    """The files that make up the split: one, or all parts of one set in order. Anything else would be a guess."""
    if [path.stem for path in files] == [split]:
        return files
    matches = [_PART.fullmatch(path.stem, len(split)) for path in files]
    sets = {match and (path.suffix, int(match["total"])) for path, match in zip(files, matches, strict=True)}
    by_number = {int(match["number"]): path for path, match in zip(files, matches, strict=True) if match}
    found = listed(path.name for path in files)
    if len(sets) > 1 or len(by_number) < len(files):
        suffix = files[0].suffix
        raise AxformError(
            f"{files[0].parent}: split {split!r} is not clear, found {found}; keep one file {split}{suffix}, or all "
            f"numbered parts of one format ({split}-00000-of-00002{suffix}, ...), and move or rename the others."
        )
    total = max(int(match["total"]) for match in matches if match)
    if len(files) != total or max(by_number) >= total:
        raise AxformError(
            f"{files[0].parent}: split {split!r} must have its parts 0 to {total - 1}, found {found}; "
            "copy what is missing there, and move or rename what is too much."
        )
    return [path for _, path in sorted(by_number.items())]


def _joined(parts: Sequence[Rows], name: str) -> Rows:
    import pandas as pd

    source = parts[0].source if len(parts) == 1 else name
    frame = pd.concat([part.frame for part in parts], ignore_index=True)
    if frame.empty:
        raise AxformError(f"{source}: the split is empty; it must hold at least one row.")
    return Rows(frame, source, tuple(remark for part in parts for remark in part.remarks))


def _read_csv(path: Path) -> Rows:
    reader = csv.reader(io.StringIO(_text(path), newline=""), strict=True)
    lines: list[tuple[int, list[str]]] = []
    spanning = []
    usual_limit = csv.field_size_limit(_LONGEST_CELL)
    try:
        start = 1
        for cells in reader:
            if reader.line_num > start:
                spanning.append(start)
            lines.append((start, cells))
            start = reader.line_num + 1
    except csv.Error as error:
        raise AxformError(
            f"{path}: the row that begins on line {start} is not readable as csv ({error}); a text with quotes or commas "
            "stands in quotes, its own quotes doubled."
        ) from error
    finally:
        csv.field_size_limit(usual_limit)
    remark = ""
    if spanning:
        remark = (
            f"{path}: {len(spanning)} rows hold line breaks, the first on line {spanning[0]}; if they are several rows "
            "each, a quote is not closed there"
        )
    return _table(path, lines, "put texts with commas in quotes", remark)


def _read_tsv(path: Path) -> Rows:
    """One row a line, quotes being nothing special, as in GLUE's own files."""
    lines = _text(path).split("\n")  # not splitlines, which breaks at characters that texts may hold
    if lines[0].endswith("\r"):
        lines = [line.removesuffix("\r") for line in lines]
    numbered = ((number, line.split("\t") if line else []) for number, line in enumerate(lines, start=1))
    return _table(path, numbered, "texts in tsv hold neither tabs nor line breaks, quoted or not")


def _table(path: Path, lines: Iterable[tuple[int, list[str]]], advice: str, remark: str = "") -> Rows:
    """Rows from (line number, cells), of which the first are the names; blank lines hold nothing and are passed over."""
    import pandas as pd

    (_, names), *rows = [line for line in lines if line[1]] or [(1, [])]
    _check_names(path, [name for name in names if name])
    for number, cells in rows:
        if len(cells) != len(names):
            raise AxformError(
                f"{path}: line {number} has {len(cells)} cells, but the first line names {len(names)} columns; {advice}."
            )
    frame = pd.DataFrame([cells for _, cells in rows], columns=names, dtype=object)
    return Rows(frame.loc[:, [bool(name) for name in names]], str(path), (remark,) if remark else ())


def _read_json(path: Path) -> Rows:
    """A list of objects or one object per line, whichever the file holds."""
    text = _text(path)
    if text.lstrip().startswith("["):
        rows = _parsed(path, 1, text)
    else:
        lines = enumerate(text.split("\n"), start=1)
        rows = [_parsed(path, number, line) for number, line in lines if line.strip()]
    for number, row in enumerate(rows):
        if not isinstance(row, dict):
            raise AxformError(f"{path}: row {number} is {reprlib.repr(row)}; {_JSON_ADVICE}.")
    names = dict.fromkeys(name for row in rows for name in row)
    return Rows(_frame({name: [row.get(name) for row in rows] for name in names}), str(path))


def _parsed(path: Path, line: int, text: str) -> Any:
    """The JSON value that begins on ``line``."""
    try:
        return parse_json(text, object_pairs_hook=_object)
    except (ValueError, RecursionError) as error:
        if isinstance(error, json.JSONDecodeError):
            line += error.lineno - 1
        reason = getattr(error, "msg", error)
        raise AxformError(f"{path}: line {line} is not readable as JSON ({reason}); {_JSON_ADVICE}.") from None


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(dict(pairs)) < len(pairs):
        raise ValueError(f"a name is there twice among {listed(name for name, _ in pairs)}")
    return dict(pairs)


def _read_parquet(path: Path) -> Rows:
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            table = file.read()
        _check_names(path, table.column_names)
        return Rows(frame_of(table), str(path))
    except AxformError:
        raise
    except Exception as error:  # pyarrow raises many kinds; all mean that the user's file is not readable
        raise AxformError(f"{path}: cannot be read as parquet ({error}); write the file again.") from error


def frame_of(table: pa.Table) -> pd.DataFrame:
    """The columns of a table as Python objects: words of a category, whole numbers beside None."""
    return _frame({name: table[name].to_pylist() for name in table.column_names})


def _frame(columns: dict[str, list[Any]]) -> pd.DataFrame:
    import pandas as pd

    return pd.DataFrame({name: pd.Series(values, dtype=object) for name, values in columns.items()})


def _text(path: Path) -> str:
    try:
        return path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise AxformError(f"{path}: byte {error.start} is not UTF-8; save the file as UTF-8.") from None


def _check_names(path: Path, names: Sequence[str]) -> None:
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise AxformError(f"{path}: more than one column is named {listed(repeated)}; give each a name of its own.")


_READERS: dict[str, Callable[[Path], Rows]] = {
    ".parquet": _read_parquet,
    ".jsonl": _read_json,
    ".json": _read_json,
    ".csv": _read_csv,
    ".tsv": _read_tsv,
}
