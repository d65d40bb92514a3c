"""The tasks axform knows: their text columns, their labels and the metric they are judged by."""

from __future__ import annotations

from dataclasses import dataclass, replace

from ..errors import AxformError, listed
from .metrics import Metric

__all__ = ["TASKS", "Task", "task_named", "with_columns"]


@dataclass(frozen=True)
class Task:
    """A sequence classification or regression task over one text or a pair of texts."""

    name: str
    text_columns: tuple[str, ...] = ()
    """One or two columns; empty = found among `_COMMON_COLUMNS` when the data is read."""
    labels: tuple[str, ...] = ()
    """Label names by id; empty = taken from the data (or a regression)."""
    metric: Metric = "accuracy"
    label_column: str = "label"
    hub: tuple[str, str] | None = None
    """Dataset and configuration on the hub."""
    validation: str = "validation"
    """Name of the split that is reported."""
    max_length: int = 128
    """Tokens per sample (AxFormer v1: 128 for GLUE)."""

    @property
    def is_regression(self) -> bool:
        return self.metric == "pearson"


def _glue(name: str, columns: tuple[str, ...], labels: tuple[str, ...], metric: Metric = "accuracy") -> Task:
    validation = "validation_matched" if name == "mnli" else "validation"
    return Task(f"glue/{name}", columns, labels, metric, hub=("nyu-mll/glue", name), validation=validation)


TASKS: dict[str, Task] = {
    task.name: task
    for task in (
        _glue("cola", ("sentence",), ("unacceptable", "acceptable"), "matthews"),
        _glue("sst2", ("sentence",), ("negative", "positive")),
        _glue("mrpc", ("sentence1", "sentence2"), ("not_equivalent", "equivalent")),
        _glue("stsb", ("sentence1", "sentence2"), (), "pearson"),
        _glue("qqp", ("question1", "question2"), ("not_duplicate", "duplicate")),
        _glue("mnli", ("premise", "hypothesis"), ("entailment", "neutral", "contradiction")),
        _glue("qnli", ("question", "sentence"), ("entailment", "not_entailment")),
        _glue("rte", ("sentence1", "sentence2"), ("entailment", "not_entailment")),
        _glue("wnli", ("sentence1", "sentence2"), ("not_entailment", "entailment")),
        Task("text-classification"),
        Task("text-regression", metric="pearson"),
    )
}

_COMMON_COLUMNS: tuple[tuple[str, ...], ...] = (
    ("premise", "hypothesis"),
    ("sentence1", "sentence2"),
    ("question1", "question2"),
    ("question", "sentence"),
    ("text",),
    ("sentence",),
)


def task_named(name: str, text_columns: tuple[str, ...] = (), label_column: str | None = None) -> Task:
    """The task of that name (``sst2`` is short for ``glue/sst2``), with the columns overridden where given.

    Raises:
        AxformError: no such task, more than two text columns, one of them twice, or a name that is empty.
    """
    task = TASKS.get(name) or TASKS.get(f"glue/{name}")
    if task is None:
        raise AxformError(
            f"task {name!r} is not known; known tasks: {', '.join(TASKS)}. "
            "For data of your own use text-classification or text-regression with --data DIR."
        )
    if len(text_columns) > 2:
        raise AxformError(
            f"--text-columns names {len(text_columns)} columns ({listed(text_columns)}); give one or two."
        )
    if len(set(text_columns)) < len(text_columns):
        raise AxformError(f"--text-columns names {text_columns[0]} twice; a pair has two columns.")
    if "" in (*text_columns, label_column):
        flag = "--label-column" if label_column == "" else "--text-columns"
        raise AxformError(f"{flag} names a column without a name; give names of columns, two of them as a,b.")
    return replace(task, text_columns=text_columns or task.text_columns, label_column=label_column or task.label_column)


def with_columns(task: Task, available: list[str], source: str, *, labelled: bool = True) -> Task:
    """``task`` with its text columns settled for data that has the columns ``available``.

    Args:
        labelled: the column of the labels has to be there, too.

    Raises:
        AxformError: a needed column is missing, or is needed both as text and as label; the message names what was found
            and what is expected.
    """
    columns = task.text_columns
    if not columns:
        columns = next((known for known in _COMMON_COLUMNS if set(known) <= set(available)), ())
        if not columns:
            known = " or ".join("+".join(option) for option in _COMMON_COLUMNS)
            raise AxformError(
                f"{source}: no text column recognised; found columns {listed(available)}, expected {known}; "
                "name yours with --text-columns."
            )
    if task.label_column in columns:
        raise AxformError(
            f"{source}: column {task.label_column} cannot be both text and label; "
            "name the right ones with --text-columns and --label-column."
        )
    wanted = (*columns, task.label_column) if labelled else columns
    missing = [column for column in wanted if column not in available]
    if missing:
        raise AxformError(
            f"{source}: column{'s' if len(missing) > 1 else ''} {listed(missing)} missing for task {task.name}; "
            f"found {listed(available)}, expected {listed(wanted)}."
        )
    return replace(task, text_columns=columns)
