"""Task data from the hub or from local files, split for training, selection and reporting, and tokenized."""

from __future__ import annotations

import reprlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..core.batches import EncodedSplit
from ..core.tasks import Task, task_named, with_columns
from ..errors import AxformError, listed
from .data_files import Rows, frame_of, has_split, read_split
from .labels import UNLABELLED, Classes, targets
from .options import OptimizeOptions
from .related import draw_together, effective_rows, related_rows, small_groups

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["TaskData", "encode", "encode_judging", "load_task_data", "settle_task_data"]

_HELD_BACK_SHARE, _LARGEST_SHARE, _HELD_BACK_ROWS = 0.15, 0.3, 3000
"""Part of train held back (AxFormer v1: 15 %); of a small task up to 30 %: 3,000 rows tell apart 1 %, 1,000 only 2 %.

Of related rows as many as they tell: the 67,349 phrases of SST-2 are a small task of 7,400."""
_UNLABELLED_SPLITS = ("unlabelled", "unlabeled")
_SMALLEST_TRAIN = 20
"""Rows; of fewer the held-back ones would be too few to judge anything."""


@dataclass(frozen=True)
class TaskData:
    """Texts and labels, before tokenization.

    Two halves are held back from train, related rows together: ``selection`` judges trials and epochs, which makes it
    optimistic; ``acceptance`` decides whether a round keeps the bound. ``report`` is never used to select anything.
    """

    task: Task
    """With its columns and label names settled."""
    train: pd.DataFrame
    selection: pd.DataFrame
    acceptance: pd.DataFrame
    report: pd.DataFrame
    remarks: tuple[str, ...] = ()
    """What is no error, but may surprise the user."""
    unlabelled: pd.DataFrame | None = None
    """More texts, with `UNLABELLED` or NaN in place of labels; none is related to a row that judges or reports."""

    @property
    def num_labels(self) -> int:
        return 1 if self.task.is_regression else len(self.task.labels)


def settle_task_data(options: OptimizeOptions) -> TaskData:
    """The task's data as the options ask for it."""
    task = task_named(options.task, options.text_columns, options.label_column)
    return load_task_data(
        task,
        Path(options.data) if options.data else None,
        Path(options.unlabelled) if options.unlabelled else None,
        train_samples=options.train_samples,
        report_samples=options.report_samples,
        seed=options.seed,
    )


def load_task_data(
    task: Task,
    data_dir: Path | None = None,
    unlabelled_dir: Path | None = None,
    *,
    train_samples: int | None = None,
    report_samples: int | None = None,
    seed: int = 0,
) -> TaskData:
    """Read the splits of a task, from ``data_dir`` when given, else from the hub.

    Args:
        unlabelled_dir: folder with texts that have no labels.
        train_samples: rows of train to use, chosen at random; a part of them is held back.
        report_samples: rows of the reported split to use.

    Raises:
        AxformError: a split or column is missing or empty, or texts or labels do not fit the task.
    """
    train, report = _read_hub(task) if data_dir is None else _read_local(data_dir, task)
    task = with_columns(task, list(train.frame.columns), train.source)
    with_columns(task, list(report.frame.columns), report.source)
    used = min(train_samples or len(train.frame), len(train.frame))
    if used < _SMALLEST_TRAIN:
        raise AxformError(
            f"{train.source}: {used} rows to train on are too few; a part of them is held back to judge what is removed, "
            f"so at least {_SMALLEST_TRAIN} are needed."
        )
    texts, report_texts = _texts(task, train), _texts(task, report)
    task, labels, report_labels = _labels(task, train, report)
    texts[task.label_column], report_texts[task.label_column] = labels, report_labels
    rows, report_frame = texts.sample(n=used, random_state=seed), report_texts
    selection, acceptance, train_frame = _held_back(rows, task.text_columns)
    if report_samples:
        report_frame = report_frame.sample(n=min(report_samples, len(report_frame)), random_state=seed)
    _check_varied(task, train_frame, train.source, "to train on")
    _check_varied(task, selection, train.source, "held back by --seed to judge trials")
    _check_varied(task, acceptance, train.source, "held back by --seed to judge rounds")
    remarks = [*train.remarks, *report.remarks, *_empty_texts(task, train), *_empty_texts(task, report)]
    if task.metric == "accuracy" and (label := _only_label(task, report_frame)):
        remarks.append(f"{report.source}: all rows have the label {label}; their accuracy says nothing of other labels")
    else:
        _check_varied(task, report_frame, report.source, "to report on")
    unlabelled = None
    if unlabelled_dir is not None:
        unlabelled, remark = _read_unlabelled(task, unlabelled_dir, [selection, acceptance, report_texts])
        remarks.append(remark)
    return TaskData(task, train_frame, selection, acceptance, report_frame, tuple(remarks), unlabelled)


def _held_back(rows: pd.DataFrame, text_columns: Sequence[str]) -> list[pd.DataFrame]:
    """Of rows in random order those that judge trials, those that judge rounds, and the others; related rows together."""
    groups = related_rows(rows[[*text_columns]].itertuples(index=False))
    share = max(_HELD_BACK_SHARE, min(_LARGEST_SHARE, _HELD_BACK_ROWS / effective_rows(groups)))
    held_back = round(share * len(rows))
    counts = [held_back // 2, held_back - held_back // 2]
    return [rows.iloc[part] for part in draw_together(groups, counts)]


def _read_local(data_dir: Path, task: Task) -> tuple[Rows, Rows]:
    with _readable(data_dir):
        folder = _data_folder(data_dir, task, "--data", "train")
        return read_split(folder, "train"), read_split(folder, task.validation, "validation")


def _read_unlabelled(task: Task, folder: Path, judging: Sequence[pd.DataFrame]) -> tuple[pd.DataFrame, str]:
    """Texts without labels, each once, and what became of those that judge: they must not be learnt, not even by answers."""
    import pandas as pd

    with _readable(folder):
        rows = read_split(_data_folder(folder, task, "--unlabelled", *_UNLABELLED_SPLITS), *_UNLABELLED_SPLITS)
    columns = [*task.text_columns]
    with_columns(task, list(rows.frame.columns), rows.source, labelled=False)
    texts = _texts(task, rows).drop_duplicates(ignore_index=True)
    judged = pd.concat([frame[columns] for frame in judging])
    groups = related_rows(pd.concat([judged, texts]).itertuples(index=False))
    chosen = texts[~np.isin(groups[len(judged) :], groups[: len(judged)])].reset_index(drop=True)
    if chosen.empty:
        raise AxformError(
            f"{rows.source}: {len(rows.frame)} rows, all of which say the same as rows that judge; give other texts."
        )
    chosen[task.label_column] = np.float32("nan") if task.is_regression else UNLABELLED
    remark = f"{rows.source}: {len(chosen)} of {len(rows.frame)} rows without labels teach"
    if len(chosen) < len(rows.frame):
        remark += "; the others are there twice, or say the same as rows that judge"
    return chosen, remark


@contextmanager
def _readable(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise AxformError(
            f"{error.filename or folder}: cannot be read ({error.strerror or error}); name a folder that you may read."
        ) from error


def _data_folder(folder: Path, task: Task, option: str, *splits: str) -> Path:
    """``folder`` itself, or the sub-folder named like the task when that is where the files of one of the splits are."""
    if not folder.is_dir():
        raise AxformError(
            f"{folder}: no such folder; {option} names the folder that holds the task's {splits[0]}.* file."
        )
    if not any(has_split(folder, split) for split in splits) and (folder / task.name).is_dir():
        return folder / task.name
    return folder


def _read_hub(task: Task) -> tuple[Rows, Rows]:
    if task.hub is None:
        raise AxformError(f"task {task.name} is for data of your own; name its folder with --data.")
    from datasets import load_dataset

    try:
        splits = load_dataset(*task.hub)
    except Exception as error:  # the hub client has no common base class for its network and cache errors
        raise AxformError(
            f"task {task.name}: cannot be read from the hub ({type(error).__name__}); "
            "check the network, or give local files with --data."
        ) from error

    def rows(split: str) -> Rows:
        return Rows(frame_of(splits[split].with_format("arrow")[:]), f"{task.name} {split}")

    return rows("train"), rows(task.validation)


def _texts(task: Task, rows: Rows) -> pd.DataFrame:
    """A copy of the text columns only; a text that is missing or something else is an error with its row."""
    frame = rows.frame[[*task.text_columns]].copy()
    for column in task.text_columns:
        for row, value in enumerate(frame[column]):
            if not isinstance(value, str):
                what = "the text is missing" if value is None else f"{reprlib.repr(value)} is not text"
                raise AxformError(
                    f"{rows.source}: row {row}, column {column}: {what}; give every row its texts, or drop the row."
                )
    return frame


def _empty_texts(task: Task, rows: Rows) -> list[str]:
    counts = [(column, int((rows.frame[column] == "").sum())) for column in task.text_columns]
    return [
        f"{rows.source}: {count} of {len(rows.frame)} rows have an empty {column}" for column, count in counts if count
    ]


def _labels(task: Task, train: Rows, report: Rows) -> tuple[Task, np.ndarray, np.ndarray]:
    """The task with its labels settled, and the labels of both splits as ids or targets."""
    values, report_values = (rows.frame[task.label_column].tolist() for rows in (train, report))
    if task.is_regression:
        return task, targets(values, task.name, train.source), targets(report_values, task.name, report.source)
    classes = Classes.named(task.labels) if task.labels else Classes.found_in(values, task.name, train.source)
    return (
        replace(task, labels=classes.names),
        classes.ids_of(values, task.name, train.source),
        classes.ids_of(report_values, task.name, report.source),
    )


def _only_label(task: Task, frame: pd.DataFrame) -> str | None:
    """The label that all rows have, if they do."""
    labels = frame[task.label_column]
    if labels.nunique() > 1:
        return None
    return f"{labels.iloc[0]:g}" if task.is_regression else task.labels[labels.iloc[0]]


def _check_varied(task: Task, frame: pd.DataFrame, source: str, purpose: str) -> None:
    """Refuse rows that are to decide something and cannot: over labels that never vary, a metric means nothing."""
    label = _only_label(task, frame)
    if label is None:
        return
    hint = ", as in the hub's unlabelled test splits" if label == str(UNLABELLED) else ""
    raise AxformError(
        f"{source}: all {len(frame)} rows {purpose} have the label {label}{hint}, so the {task.metric} of a model on them "
        "means nothing; give more rows, with other labels, too."
    )


def encode(task: Task, frame: pd.DataFrame, tokenizer: Any, inputs: Sequence[str], max_length: int) -> EncodedSplit:
    """Tokenize a split for a model whose forward takes ``inputs``; texts are cut to ``max_length`` tokens.

    Raises:
        AxformError: ``max_length`` leaves no room for the texts, or the tokenizer does not give all ``inputs``.
    """
    texts = [frame[column].tolist() for column in task.text_columns]
    special = tokenizer.num_special_tokens_to_add(pair=len(texts) == 2)
    if max_length < special + len(texts):
        raise AxformError(
            f"--max-length: {max_length} tokens are too few; {special} special tokens and one of each text need "
            f"{special + len(texts)}."
        )
    encoded = tokenizer(*texts, truncation=True, max_length=max_length)
    missing = [name for name in inputs if name not in encoded]
    if missing:
        raise AxformError(
            f"the tokenizer gives {listed(encoded)}, but the model needs {listed(missing)}, too; use the tokenizer that "
            "belongs to the model."
        )
    for row, tokens in zip(frame.index, encoded["input_ids"], strict=True):
        if not tokens:
            raise AxformError(f"row {row}: the tokenizer makes no token of its texts; drop the row.")
    pad_values = dict.fromkeys(inputs, 0)
    pad_values["input_ids"] = tokenizer.pad_token_id or 0
    if "token_type_ids" in pad_values:
        pad_values["token_type_ids"] = tokenizer.pad_token_type_id
    return EncodedSplit(
        {name: [np.asarray(sample, dtype=np.int64) for sample in encoded[name]] for name in inputs},
        frame[task.label_column].to_numpy(copy=True),
        pad_values,
    )


def encode_judging(
    task: Task, frame: pd.DataFrame, tokenizer: Any, inputs: Sequence[str], max_length: int
) -> EncodedSplit:
    """`encode` rows that a metric is measured on, whose interval has to know which of them are related."""
    split = encode(task, frame, tokenizer, inputs, max_length)
    groups = related_rows(frame[[*task.text_columns]].itertuples(index=False))
    return replace(split, groups=small_groups(groups, len(frame)))
