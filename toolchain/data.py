"""Task data from the hub or from local files, split for training, selection and reporting, and tokenized."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..core.batches import EncodedSplit
from ..core.tasks import Task, with_columns
from ..errors import AxformError

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["TaskData", "encode", "load_task_data"]

_SUFFIXES = (".parquet", ".jsonl", ".json", ".csv", ".tsv")
_SELECTION_SHARE = 0.15
"""Part of train held back to judge trials (AxFormer v1)."""


@dataclass(frozen=True)
class TaskData:
    """Texts and labels, before tokenization. ``report`` is never used to select anything."""

    task: Task
    """With its columns and label names settled."""
    train: pd.DataFrame
    selection: pd.DataFrame
    report: pd.DataFrame

    @property
    def num_labels(self) -> int:
        return 1 if self.task.is_regression else len(self.task.labels)


def load_task_data(
    task: Task,
    data_dir: Path | None = None,
    *,
    train_samples: int | None = None,
    report_samples: int | None = None,
    seed: int = 0,
) -> TaskData:
    """Read the splits of a task, from ``data_dir`` when given, else from the hub.

    Args:
        train_samples: rows of train to use, chosen at random; 15 % of them become the selection split.
        report_samples: rows of the reported split to use.

    Raises:
        AxformError: a split or column is missing or empty, or the labels do not fit the task.
    """
    if data_dir is not None:
        folder = _data_folder(data_dir, task)
        train, train_source = _read_split(folder, "train")
        report, report_source = _read_split(folder, task.validation, "validation")
    else:
        train, report = _read_hub(task)
        train_source, report_source = f"{task.name} train", f"{task.name} {task.validation}"
    task = with_columns(task, list(train.columns), train_source)
    with_columns(task, list(report.columns), report_source)
    task = _settle_labels(task, train, train_source)
    train, report = _clean(task, train, train_source), _clean(task, report, report_source)
    train = train.sample(n=min(train_samples or len(train), len(train)), random_state=seed)
    report = report.sample(n=min(report_samples, len(report)), random_state=seed) if report_samples else report
    held_back = round(_SELECTION_SHARE * len(train))
    if held_back == 0:
        raise AxformError(f"{train_source}: {len(train)} rows are too few; at least 4 are needed to hold some back.")
    return TaskData(task, train.iloc[held_back:], train.iloc[:held_back], report)


def _data_folder(data_dir: Path, task: Task) -> Path:
    """``data_dir`` itself, or the sub-folder named like the task when that is where the files are."""
    if not data_dir.is_dir():
        raise AxformError(f"{data_dir}: no such folder; --data names the folder that holds the task's train.* file.")
    if not _files_of(data_dir, "train") and (data_dir / task.name).is_dir():
        return data_dir / task.name
    return data_dir


def _files_of(folder: Path, split: str) -> list[Path]:
    """``split.ext`` or its parts ``split-00000-of-00002.ext``, in order."""
    return sorted(
        path
        for path in folder.iterdir()
        if path.suffix in _SUFFIXES and (path.name.split(".")[0] == split or path.name.startswith(f"{split}-"))
    )


def _read_split(folder: Path, *names: str) -> tuple[pd.DataFrame, str]:
    import pandas as pd

    for name in names:
        files = _files_of(folder, name)
        if files:
            frame = pd.concat([_read_file(path) for path in files], ignore_index=True)
            source = str(files[0]) if len(files) == 1 else f"{folder / name}-*"
            if frame.empty:
                raise AxformError(f"{source}: the split is empty; it must hold at least one row.")
            return frame, source
    found = ", ".join(sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))) or "nothing"
    expected = " or ".join(f"{name}.*" for name in dict.fromkeys(names))
    raise AxformError(
        f"{folder}: split {names[0]!r} is missing; found {found}, expected {expected} "
        f"({', '.join(suffix[1:] for suffix in _SUFFIXES)})."
    )


def _read_file(path: Path) -> pd.DataFrame:
    import pandas as pd

    try:
        if path.suffix == ".parquet":
            return pd.read_parquet(path)
        if path.suffix in (".jsonl", ".json"):
            return pd.read_json(path, lines=path.suffix == ".jsonl")
        return pd.read_csv(path, sep="\t" if path.suffix == ".tsv" else ",")
    except Exception as error:  # pandas and pyarrow raise many kinds; all mean that the user's file is not readable
        raise AxformError(f"{path}: cannot be read as {path.suffix[1:]} ({error}).") from error


def _read_hub(task: Task) -> tuple[pd.DataFrame, pd.DataFrame]:
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
    return splits["train"].to_pandas(), splits[task.validation].to_pandas()


def _settle_labels(task: Task, train: pd.DataFrame, source: str) -> Task:
    from dataclasses import replace

    if task.is_regression or task.labels:
        return task
    values = sorted(train[task.label_column].dropna().unique().tolist())
    if len(values) < 2:
        raise AxformError(
            f"{source}: column {task.label_column} holds only the label {values}; a task needs two or more."
        )
    if all(isinstance(value, int) for value in values):
        return replace(task, labels=tuple(f"LABEL_{value}" for value in range(max(values) + 1)))
    return replace(task, labels=tuple(str(value) for value in values))


def _clean(task: Task, frame: pd.DataFrame, source: str) -> pd.DataFrame:
    """The needed columns only, labels as numbers, texts as strings; every violation is an error with its row."""
    import pandas as pd

    frame = frame[[*task.text_columns, task.label_column]].reset_index(drop=True)
    for column in task.text_columns:
        bad = frame.index[~frame[column].map(lambda value: isinstance(value, str))]
        if len(bad):
            raise AxformError(f"{source}: row {bad[0]}, column {column}: {frame[column][bad[0]]!r} is not text.")
    labels = frame[task.label_column]
    if not task.is_regression and not pd.api.types.is_integer_dtype(labels):
        ids = {name: index for index, name in enumerate(task.labels)}
        mapped = labels.map(lambda value: ids.get(str(value), -1))
    else:
        mapped = pd.to_numeric(labels, errors="coerce")
    invalid = mapped.isna() if task.is_regression else ~mapped.between(0, len(task.labels) - 1)
    if invalid.any():
        row = int(np.flatnonzero(invalid)[0])
        expected = "a number" if task.is_regression else f"one of 0-{len(task.labels) - 1} ({', '.join(task.labels)})"
        raise AxformError(
            f"{source}: row {row}: label {labels.iloc[row]!r} does not match task {task.name}; expected {expected}."
        )
    frame[task.label_column] = mapped.astype("float32" if task.is_regression else "int64")
    return frame


def encode(task: Task, frame: pd.DataFrame, tokenizer: Any, inputs: Sequence[str], max_length: int) -> EncodedSplit:
    """Tokenize a split for a model whose forward takes ``inputs``; texts are cut to ``max_length`` tokens."""
    texts = [frame[column].tolist() for column in task.text_columns]
    encoded = tokenizer(*texts, truncation=True, max_length=max_length)
    names = [name for name in inputs if name in encoded]
    pad_values = dict.fromkeys(names, 0)
    pad_values["input_ids"] = tokenizer.pad_token_id or 0
    if "token_type_ids" in pad_values:
        pad_values["token_type_ids"] = tokenizer.pad_token_type_id
    return EncodedSplit(
        {name: [np.asarray(sample, dtype=np.int64) for sample in encoded[name]] for name in names},
        frame[task.label_column].to_numpy(copy=True),
        pad_values,
    )
