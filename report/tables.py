"""Tables and figures of the report as plain data, and how its numbers are written."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

__all__ = [
    "Fact",
    "Table",
    "change_of",
    "count",
    "interval",
    "megabytes",
    "metric_name",
    "milliseconds",
    "percent",
    "points",
    "ratio",
    "signed_points",
    "threads_of",
]

_METRICS = {"accuracy": "accuracy", "matthews": "Matthews correlation", "pearson": "Pearson correlation"}


@dataclass(frozen=True)
class Table:
    """The first column names the rows; the others are figures, but for those that ``text`` names by position."""

    caption: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str = ""
    text: tuple[int, ...] = ()
    is_folded: bool = False
    """Shown when asked for."""

    @classmethod
    def of(
        cls, caption: str, columns: Sequence[str], rows: Iterable[Sequence[str]], note: str = "", **form: Any
    ) -> Table:
        return cls(caption, tuple(columns), tuple(tuple(row) for row in rows), note, **form)


@dataclass(frozen=True)
class Fact:
    """One figure with what it is."""

    name: str
    value: str
    detail: str = ""
    tone: str = ""
    """``good`` or ``bad`` where it is a verdict."""


def metric_name(metric: str) -> str:
    return _METRICS.get(metric, metric)


def points(metric: float) -> str:
    """A metric as a hundredfold, as papers print it."""
    return f"{100 * metric:.2f}"


def signed_points(change: float) -> str:
    return f"{100 * change:+.2f}"


def interval(low: float, high: float) -> str:
    """Of a metric's change."""
    return f"{signed_points(low)} to {signed_points(high)}"


def milliseconds(value: float) -> str:
    """Three significant digits, so that short and long runs stand in one column."""
    if not math.isfinite(value) or value <= 0:
        return f"{value:g}"
    return f"{value:.{max(0, 2 - math.floor(math.log10(value)))}f}" if value < 1000 else f"{value:,.0f}"


def ratio(value: float, low: float | None = None, high: float | None = None) -> str:
    """How many times faster, with the interval where there is one."""
    if low is None or high is None:
        return f"{value:.2f}x"
    return f"{value:.2f}x ({low:.2f} to {high:.2f})"


def percent(part: float, whole: float, digits: int = 0) -> str:
    return f"{100 * part / whole:.{digits}f} %" if whole else "unknown"


def change_of(after: float, before: float) -> str:
    """In words: 31 % smaller."""
    if not before:
        return "unknown"
    change = 100 * (after - before) / before
    if abs(change) < 0.5:
        return "the same size"
    return f"{abs(change):.0f} % {'smaller' if change < 0 else 'larger'}"


def megabytes(size: int) -> str:
    return f"{size / 1e6:,.1f} MB" if size >= 100_000 else f"{size:,} bytes"


def threads_of(number: int) -> str:
    return f"{number} thread" + ("s" if number != 1 else "")


def count(number: int) -> str:
    return f"{number:,}"
