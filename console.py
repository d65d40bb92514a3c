"""The two consoles of the command line and the form of its tables and progress bars."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

__all__ = ["out", "progress_bar", "table", "warn"]

out = Console(highlight=False)
_err = Console(stderr=True, highlight=False)


def warn(message: str) -> None:
    """Print a one-line note for the user on stderr."""
    _err.print(f"[yellow]note:[/yellow] {message}", soft_wrap=True)


def progress_bar() -> Progress:
    """A progress bar with counts and times; on stderr, so that stdout stays clean for tables and pipes."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
        console=_err,
    )


def table(title: str, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> Table:
    """A table whose first column is left-aligned text and whose other columns are right-aligned figures."""
    result = Table(title=title, title_justify="left", title_style="bold")
    for index, column in enumerate(columns):
        result.add_column(column, justify="left" if index == 0 else "right", overflow="fold")
    for row in rows:
        result.add_row(*row)
    return result
