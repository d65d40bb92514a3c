"""The two consoles of the command line, its tables and progress bars, and its way to end."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bars
from rich.table import Table

from .core.progress import Progress
from .errors import AxformError

__all__ = ["ConsoleProgress", "note", "out", "run_app", "showing_progress", "table"]

out = Console(highlight=False)
_err = Console(stderr=True, highlight=False)


def note(message: str) -> None:
    """A line for the user on stderr, so that stdout stays clean for tables and pipes."""
    _err.print(escape(message), soft_wrap=True)


def table(title: str, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> Table:
    """A table whose first column is left-aligned text and whose other columns are right-aligned figures."""
    result = Table(title=title, title_justify="left", title_style="bold", min_width=len(title))
    for index, column in enumerate(columns):
        result.add_column(column, justify="left" if index == 0 else "right", overflow="fold")
    for row in rows:
        result.add_row(*row)
    return result


class ConsoleProgress(Progress):
    """One bar per stage, on stderr."""

    def __init__(self, bars: Bars) -> None:
        self._bars = bars
        self._task: TaskID | None = None

    def stage(self, title: str) -> None:
        self.finish()
        self._task = self._bars.add_task(escape(title), total=None, note="")

    def step(self, done: int, total: int, note: str = "") -> None:
        if self._task is not None:
            self._bars.update(self._task, completed=done, total=total, note=escape(note))

    def message(self, text: str) -> None:
        self._bars.console.print(escape(text), soft_wrap=True)

    def finish(self) -> None:
        """Show the current stage as complete."""
        if self._task is not None:
            task = self._bars.tasks[self._task]
            total = task.total or 1
            self._bars.update(self._task, total=total, completed=total)
            self._task = None


@contextmanager
def showing_progress() -> Iterator[ConsoleProgress]:
    """Bars with counts, elapsed and remaining time while the block runs."""
    bars = Bars(
        TextColumn("{task.description}"),
        BarColumn(bar_width=20),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
        console=_err,
    )
    with bars:
        progress = ConsoleProgress(bars)
        yield progress
        progress.finish()


def run_app(app: Callable[..., object]) -> None:
    """Run a typer application: a user's mistake is one line on stderr and exit code 2, never a traceback."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    try:
        app()
    except AxformError as error:
        _err.print(f"[red]error:[/red] {escape(str(error))}", soft_wrap=True)
        sys.exit(2)
