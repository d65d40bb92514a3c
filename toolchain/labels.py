"""What the labels in a column mean: ids of classes, or the targets of a regression.

csv and tsv hold text only, so "2", 2 and 2.0 are the same label in every format. A column of numbers makes classes in
numeric order, any other column in alphabetic order.
"""

from __future__ import annotations

import math
import re
import reprlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import numpy as np

from ..errors import AxformError, listed

__all__ = ["UNLABELLED", "Classes", "targets"]

UNLABELLED = -1
"""What the hub writes in place of the labels of its test splits."""
_NUMBER = re.compile(r"-?(0|[1-9][0-9]{0,17})(\.[0-9]{1,17})?")
"""A number as programs write it. Leading zeros make it a code, and so do more digits than numbers keep."""
_LARGEST_NUMBER_PER_CLASS = 100_000
"""Numbers beyond this are amounts, times or keys, not the numbers of classes."""
_FEWEST_ROWS_PER_CLASS = 2
"""On average; with fewer, a column holds keys, scores or texts."""
_LARGEST_TARGET = float(np.finfo(np.float32).max)

_Label = int | float | str


@dataclass(frozen=True)
class Classes:
    """The classes of a task and how data may spell them."""

    names: tuple[str, ...]
    """By id."""
    ids: Mapping[_Label, int]
    """Spelling -> id."""
    expected: str
    """The spellings, for messages."""

    @classmethod
    def named(cls, names: tuple[str, ...]) -> Classes:
        """The classes of a task that knows them; a label is a name or an id, of two classes also False or True."""
        numbers = range(len(names))
        ids: dict[_Label, int] = {**dict(zip(names, numbers, strict=True)), **dict(zip(numbers, numbers, strict=True))}
        if len(names) == 2:
            ids |= {"False": 0, "True": 1}
        return cls(names, ids, f"0-{len(names) - 1} ({listed(names)})")

    @classmethod
    def found_in(cls, values: Sequence[Any], task: str, source: str) -> Classes:
        """The distinct labels of a column.

        Whole numbers from 0 on without gaps are named ``LABEL_0`` and so on, as in transformers; all other labels are
        names themselves.

        Raises:
            AxformError: a label is missing, neither word nor number, or these cannot be the labels of classes.
        """
        labels = set(_labels(values, task, source))
        if len(labels) * _FEWEST_ROWS_PER_CLASS > len(values):
            raise AxformError(
                f"{source}: {len(labels)} different labels in {len(values)} rows are too many for classes "
                f"({listed(sorted(map(str, labels)))}); name the column of the classes with --label-column, or use "
                "text-regression when the labels are scores."
            )
        words = sorted(label for label in labels if isinstance(label, str))
        numbers = {number for label in labels if (number := _number(label)) is not None}
        if all(_number(word) is not None for word in words):
            return cls._numbered(sorted(numbers), source)
        if len(words) < len(labels):
            raise AxformError(
                f"{source}: the labels mix numbers ({listed(sorted(labels.difference(words)))}) and words "
                f"({listed(words)}); write all as words (text in the file) or all as numbers."
            )
        return cls(tuple(words), {word: index for index, word in enumerate(words)}, listed(words))

    @classmethod
    def _numbered(cls, numbers: list[int | float], source: str) -> Classes:
        if numbers == list(range(len(numbers))):
            return cls.named(tuple(f"LABEL_{number}" for number in numbers))
        if max(map(abs, numbers)) > _LARGEST_NUMBER_PER_CLASS * len(numbers):
            raise AxformError(
                f"{source}: label {reprlib.repr(max(numbers, key=abs))} is too far off to be one of {len(numbers)} "
                "classes; number them from 0, or write them as words."
            )
        names = tuple(map(str, numbers))
        return cls(names, {number: index for index, number in enumerate(numbers)}, listed(names))

    def ids_of(self, values: Sequence[Any], task: str, source: str) -> np.ndarray:
        """The class ids of a column of labels, (rows,) int64.

        Raises:
            AxformError: a label is missing or none of the classes.
        """
        found = []
        for row, label in enumerate(_labels(values, task, source)):
            key = label if label in self.ids else _number(label)
            if key is None or key not in self.ids:
                raise _mismatch(source, row, values[row], task, f"one of {self.expected}")
            found.append(self.ids[key])
        return np.array(found, dtype=np.int64)


def targets(values: Sequence[Any], task: str, source: str) -> np.ndarray:
    """The targets of a regression, (rows,) float32.

    Raises:
        AxformError: a value is missing, not a number, or not finite.
    """
    found = []
    for row, value in enumerate(values):
        try:
            target = math.nan if value is None or isinstance(value, bool) else float(value)
        except (TypeError, ValueError, OverflowError):
            target = math.nan
        if not abs(target) <= _LARGEST_TARGET:
            raise _mismatch(source, row, value, task, "a finite number")
        found.append(target)
    return np.array(found, dtype=np.float32)


def _mismatch(source: str, row: int, value: Any, task: str, expected: str) -> AxformError:
    is_missing = value is None or value == "" or value != value
    what = "a missing label" if is_missing else f"label {reprlib.repr(value)}"
    return AxformError(f"{source}: row {row}: {what} does not match task {task}; expected {expected}.")


def _labels(values: Sequence[Any], task: str, source: str) -> list[_Label]:
    """Labels with one spelling for one value: whole numbers as int, booleans by name."""
    labels = []
    for row, value in enumerate(values):
        label = _label(value)
        if label is None:
            raise _mismatch(source, row, value, task, "a word or a number")
        labels.append(label)
    unlabelled = [row for row, label in enumerate(labels) if _number(label) == UNLABELLED]
    if unlabelled:
        raise AxformError(
            f"{source}: row {unlabelled[0]}: label {UNLABELLED} stands for a row without a label, as in the hub's "
            f"unlabelled test splits ({len(unlabelled)} of {len(values)} rows here), on which no metric can be measured; "
            "give a labelled split, or give the class a name if it is one."
        )
    return labels


def _label(value: Any) -> _Label | None:
    if isinstance(value, bool):
        return str(value)
    if isinstance(value, str):
        return value or None
    if isinstance(value, int):
        return value
    if isinstance(value, float | Decimal) and math.isfinite(value):
        return int(value) if value == int(value) else float(value)
    return None


def _number(label: _Label) -> int | float | None:
    if not isinstance(label, str):
        return label
    if not _NUMBER.fullmatch(label):
        return None
    number = float(label)
    return int(number) if number.is_integer() else number
