"""The two consoles of the command line, its tables and progress, and its way to end."""

from __future__ import annotations

import errno
import os
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bars
from rich.table import Table
from rich.text import Text

from .core.progress import Progress
from .errors import AxformError

__all__ = ["BarProgress", "LogProgress", "note", "out", "run_app", "showing_progress", "table"]

_NARROWEST = 40
"""Columns below which tables are cut off rather than folded into single letters."""
_BETWEEN_LINES = 30.0
"""Seconds between two lines of progress in a log."""
_BEFORE = "getting ready"
_READER_LEFT = 128 + 13
"""How a shell reports a process that SIGPIPE ended."""
_USER_OR_MACHINE = {
    errno.EACCES,
    errno.EDQUOT,
    errno.EIO,
    errno.ELOOP,
    errno.EMFILE,
    errno.ENAMETOOLONG,
    errno.ENOSPC,
    errno.EPERM,
    errno.EROFS,
}
"""Reasons of the operating system that are never a bug of ours."""


class _Console(Console):
    """Prints names of files and columns as they are, square brackets and all."""

    def __init__(self, stderr: bool = False) -> None:
        super().__init__(stderr=stderr, highlight=False, markup=False, emoji=False)
        if self.width < _NARROWEST:
            self.width = _NARROWEST


out = _Console()
_err = _Console(stderr=True)


def note(message: str) -> None:
    """A line for the user on stderr, so that stdout stays clean for tables and pipes."""
    _err.print(message, soft_wrap=True)


def table(title: str, columns: Sequence[str], rows: Iterable[Sequence[str | Text]]) -> Table:
    """A table whose first column is left-aligned text and whose other columns are right-aligned figures."""
    result = Table(title=title, title_justify="left", title_style="bold", min_width=min(len(title), out.width))
    for index, column in enumerate(columns):
        result.add_column(column, justify="left" if index == 0 else "right", overflow="fold")
    for row in rows:
        result.add_row(*row)
    return result


class BarProgress(Progress):
    """One bar per stage, on a terminal."""

    def __init__(self, bars: Bars) -> None:
        self._bars = bars
        self._task: TaskID | None = None

    def stage(self, title: str) -> None:
        self.finish()
        self._task = self._bars.add_task(title, total=None, note="")

    def step(self, done: int, total: int, note: str = "") -> None:
        if self._task is not None:
            self._bars.update(self._task, completed=done, total=total, note=note)

    def message(self, text: str) -> None:
        self._bars.console.print(text, soft_wrap=True)

    def finish(self) -> None:
        """Show the current stage as complete."""
        if self._task is not None:
            task = self._bars.tasks[self._task]
            total = task.total or 1
            self._bars.update(self._task, total=total, completed=total)
            self._task = None


class LogProgress(Progress):
    """Lines for a log: where a stage begins and ends, and every so often how far it is, even within a long step.

    What takes long before the first stage, such as imports and downloads, is said to be under way, too.

    Args:
        write: takes a line.
        between: seconds between two lines of a stage.
    """

    def __init__(self, write: Callable[[str], None] = note, between: float = _BETWEEN_LINES) -> None:
        self._write = write
        self._between = between
        self._lock = threading.Lock()
        self._is_stage = False
        self._ended = threading.Event()
        self._begin(_BEFORE)
        self._next = self._started + between
        self._talk()

    def stage(self, title: str) -> None:
        with self._lock:
            self._say_done()
            self._begin(title)
            self._is_stage = True
            self._line("begins")
        if self._ended.is_set():
            self._ended = threading.Event()
            self._talk()

    def step(self, done: int, total: int, note: str = "") -> None:
        self._state, self._total = f"{done}/{total}" + (f", {note}" if note else ""), total

    def message(self, text: str) -> None:
        self._write(text)

    def finish(self) -> None:
        """Say that the current stage has ended, and no more."""
        with self._lock:
            self._say_done()
            self._ended.set()

    def stop(self) -> None:
        """Say no more."""
        with self._lock:
            self._ended.set()

    def _begin(self, title: str) -> None:
        self._title, self._state, self._total, self._started = title, "", 0, time.monotonic()

    def _say_done(self) -> None:
        if self._is_stage:
            self._line("done" + (f", {self._total}/{self._total}" if self._total else ""))
            self._is_stage = False

    def _talk(self) -> None:
        threading.Thread(target=self._repeat, args=(self._ended,), daemon=True).start()

    def _repeat(self, ended: threading.Event) -> None:
        while not ended.wait(max(0.0, self._next - time.monotonic())):
            with self._lock:
                if not ended.is_set() and time.monotonic() >= self._next:
                    self._line(self._state or "under way")

    def _line(self, what: str) -> None:
        self._next = time.monotonic() + self._between
        elapsed = int(time.monotonic() - self._started)
        self._write(f"{self._title}: {what} ({elapsed // 60}:{elapsed % 60:02d})")


@contextmanager
def showing_progress() -> Iterator[Progress]:
    """What is going on, on stderr while the block runs: bars with counts and times, or lines where it is no terminal."""
    if not _err.file.isatty() or _err.is_dumb_terminal:
        log = LogProgress(between=_BETWEEN_LINES)
        try:
            yield log
            log.finish()
        finally:
            log.stop()
        return
    bars = Bars(
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=20),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}", markup=False),
        console=_err,
    )
    with bars:
        progress = BarProgress(bars)
        yield progress
        progress.finish()


class _Outlet:
    """A standard stream whose reader may leave and whose disk may be full.

    Args:
        failed: called with the first error, after which the stream leads nowhere.
    """

    def __init__(self, stream: Any, failed: Callable[[OSError], None]) -> None:
        self._stream = stream
        self._failed = failed

    def write(self, text: str) -> int:
        with self._guarded():
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        with self._guarded():
            self._stream.flush()

    @contextmanager
    def _guarded(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self._stream.fileno())  # Python flushes what is left when it ends
            os.close(nowhere)
            self._failed(error)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def _results_lost(error: OSError) -> None:
    if error.errno == errno.EPIPE:
        sys.exit(_READER_LEFT)
    raise AxformError(f"stdout: cannot be written ({error.strerror}); send it elsewhere.")


def _comments_lost(_: OSError) -> None:
    """The work goes on without anybody who is told about it."""


@contextmanager
def _safe_streams() -> Iterator[None]:
    """Standard streams that take any text, whatever is at their other end."""
    while (descriptor := os.open(os.devnull, os.O_RDWR)) < 3:
        pass  # a standard stream is closed: no file of ours may get its number
    os.close(descriptor)
    with redirect_stdout(_outlet(sys.stdout, _results_lost)), redirect_stderr(_outlet(sys.stderr, _comments_lost)):
        yield


def _outlet(stream: Any, failed: Callable[[OSError], None]) -> Any:
    if stream is None:
        return None
    if hasattr(stream, "reconfigure"):
        stream.reconfigure(errors="backslashreplace")  # the names of files may be no text
    return _Outlet(stream, failed)


def run_app(app: Callable[[], object]) -> None:
    """Run a command: a user's mistake is one line on stderr and exit code 2, never a traceback."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    with _safe_streams():
        try:
            app()
        except AxformError as error:
            _fail(str(error))
        except OSError as error:
            if error.filename is None or error.errno not in _USER_OR_MACHINE:
                raise
            _fail(f"{error.filename}: {error.strerror}; name another, or put this right.")


def _fail(message: str) -> None:
    _err.print(Text("error: ", style="red") + Text(message), soft_wrap=True)
    sys.exit(2)
