"""Reading task data: the same from every format, nothing lost, nothing guessed; what it cannot mean is refused."""

from __future__ import annotations

import csv
import itertools
import json
import tempfile
from decimal import Decimal
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from axform.core.progress import Progress
from axform.core.tasks import TASKS, task_named, with_columns
from axform.errors import AxformError
from axform.toolchain.data import encode, load_task_data
from axform.toolchain.optimize import optimize
from axform.toolchain.options import OptimizeOptions
from hypothesis import given, settings
from hypothesis import strategies as st
from support import sentiment_rows, tiny_tokenizer
from tokenizers import processors

FORMS = ["parquet", "jsonl", "json", "csv", "tsv"]
CLASSIFICATION, REGRESSION = task_named("text-classification"), task_named("text-regression")


def write(path: Path, columns: dict[str, list]) -> None:
    """Write columns in the format that the suffix names, as plainly as that format allows."""
    rows = list(zip(*columns.values(), strict=True))
    if path.suffix == ".parquet":
        pq.write_table(pa.table(columns), path)
    elif path.suffix in (".json", ".jsonl"):
        records = [dict(zip(columns, row, strict=True)) for row in rows]
        lines = "\n".join(json.dumps(record, ensure_ascii=False) for record in records)
        path.write_bytes((json.dumps(records) if path.suffix == ".json" else lines).encode())
    elif path.suffix == ".csv":
        with path.open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([list(columns), *rows])
    else:
        path.write_bytes("\n".join("\t".join(map(str, row)) for row in [list(columns), *rows]).encode())


def save(folder: Path, labels: list, texts: list | None = None, form: str = "jsonl", **report: list) -> Path:
    """Write train and validation; ``report`` replaces columns of validation."""
    columns = {"text": texts or [f"text {row}" for row in range(len(labels))], "label": labels}
    write(folder / f"train.{form}", columns)
    write(folder / f"validation.{form}", columns | report)
    return folder


def rows_of(data) -> pd.DataFrame:
    return pd.concat([data.train, data.selection, data.acceptance]).sort_index()


def refused(folder: Path, task=CLASSIFICATION, **options) -> str:
    with pytest.raises(AxformError) as error:
        load_task_data(task, folder, **options)
    message = str(error.value)
    assert len(message) < 1000 and "\n" not in message
    return message


TEXTS = st.one_of(
    st.sampled_from(["null", "NA", "nan", "", "12345", "007", "1e5", "true", "2020-01-01", '"', 'a "b"', '"a', "a,b"]),
    st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=12),
)
LABELS = st.sampled_from(
    [[0, 1], [1, 5], [2, 10], [0.0, 1.0], ["cat", "dog"], ["null", "NA"], [False, True], ["01", "2"], ["3+", "2"]]
)


@settings(max_examples=40, deadline=None)
@given(texts=st.lists(TEXTS, min_size=1, max_size=8), labels=LABELS)
def test_every_format_gives_the_same_rows_and_labels(texts, labels):
    columns = {"text": texts * 30, "label": list(itertools.islice(itertools.cycle(labels), 30 * len(texts)))}
    forms = FORMS if not set("\t\n") & set("".join(texts)) else FORMS[:-1]
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        for form in forms:
            (Path(folder) / form).mkdir()
            for split in ("train", "validation"):
                write(Path(folder) / form / f"{split}.{form}", columns)
            found[form] = load_task_data(CLASSIFICATION, Path(folder) / form)
    for data in found.values():
        assert rows_of(data)["text"].tolist() == columns["text"]
        assert data.task.labels == found["parquet"].task.labels
        for split in ("train", "selection", "acceptance", "report"):
            pd.testing.assert_frame_equal(getattr(data, split), getattr(found["parquet"], split))


def test_rows_are_split_once_and_the_same_for_the_same_seed(sentiment):
    one, two, other = (load_task_data(task_named("sst2"), sentiment, seed=seed) for seed in (0, 0, 1))
    assert [len(split) for split in (one.train, one.selection, one.acceptance, one.report)] == [280, 60, 60, 80]
    assert sorted([*one.train.index, *one.selection.index, *one.acceptance.index]) == list(range(400))
    assert one.selection.equals(two.selection) and not one.selection.equals(other.selection)


def test_parts_and_folders_named_like_the_task(tmp_path):
    folder = tmp_path / "glue" / "sst2"
    folder.mkdir(parents=True)
    rows = sentiment_rows(1100)
    for part in range(11):
        rows[part * 100 : (part + 1) * 100].to_parquet(folder / f"train-{part:05}-of-00011.parquet")
    rows[:50].to_parquet(folder / "validation-00000-of-00001-0123456789abcdef.parquet")
    assert rows_of(load_task_data(task_named("sst2"), tmp_path))["sentence"].tolist() == rows["sentence"].tolist()
    data = load_task_data(task_named("sst2"), tmp_path, train_samples=20, report_samples=5)
    assert (len(rows_of(data)), len(data.report)) == (20, 5)


def test_mnli_reports_the_matched_split(tmp_path):
    rows = pd.DataFrame({"premise": ["a"] * 30, "hypothesis": ["b"] * 30, "label": [0, 1, 2] * 10})
    for name, count in (("train", 30), ("validation_matched", 6), ("validation_mismatched", 3)):
        rows[:count].to_parquet(tmp_path / f"{name}.parquet")
    assert len(load_task_data(task_named("mnli"), tmp_path).report) == 6


def test_the_hub_gives_the_same_rows_as_files(monkeypatch, tmp_path):
    import datasets

    columns = {"sentence": ["null", "12345", "", "good"] * 5, "label": [0, 1] * 10, "idx": list(range(20))}
    splits = {name: datasets.Dataset.from_dict(columns) for name in ("train", "validation")}
    monkeypatch.setattr(datasets, "load_dataset", lambda *_: splits)
    for name in splits:
        write(tmp_path / f"{name}.csv", columns)
    here, hub = load_task_data(TASKS["glue/sst2"], tmp_path), load_task_data(TASKS["glue/sst2"])
    assert rows_of(here).equals(rows_of(hub)) and here.selection.equals(hub.selection)


# Which files are a split


@pytest.mark.parametrize(
    "names",
    [
        ["train.csv", "train.jsonl"],
        ["train.csv", "train-backup.csv"],
        ["train.csv", "train.old.csv"],
        ["train-backup.csv"],
        ["train.csv", "train-00000-of-00001.csv"],
        ["train-00000-of-00002.csv", "train-00001-of-00002.jsonl"],
        ["train-00000-of-00002.csv", "train-00000-of-00002-abcdef.csv"],
        ["train-0-of-1.csv", "train-0-of-2.csv", "train-1-of-2.csv"],
        ["train-0.csv", "train-1.csv"],
    ],
)
def test_files_that_may_mean_several_splits_are_refused(tmp_path, names):
    for name in [*names, "validation.csv"]:
        write(tmp_path / name, {"text": ["a"] * 40, "label": ["x", "y"] * 20})
    message = refused(tmp_path)
    assert "split 'train' is not clear" in message and "move or rename the others" in message
    assert all(name in message for name in names)


@pytest.mark.parametrize(
    "names",
    [
        ["train-00000-of-00002.csv"],
        ["train-00001-of-00002.csv", "train-00002-of-00002.csv"],
        ["train-0-of-999999999.csv"],
    ],
)
def test_a_missing_part_is_an_error(tmp_path, names):
    for name in [*names, "validation.csv"]:
        write(tmp_path / name, {"text": ["a"] * 40, "label": ["x", "y"] * 20})
    message = refused(tmp_path)
    assert "split 'train' must have its parts 0 to " in message and all(name in message for name in names)


def test_other_splits_in_the_folder_are_no_concern(tmp_path):
    save(tmp_path, ["x", "y"] * 20)
    for name in ("test.jsonl", "training.jsonl", "validation_mismatched.jsonl", "train.jsonl.bak", "train_old.jsonl"):
        (tmp_path / name).write_text("not read")
    assert len(load_task_data(CLASSIFICATION, tmp_path).report) == 40


def test_a_folder_in_place_of_a_file(tmp_path):
    save(tmp_path, ["x", "y"] * 20)
    (tmp_path / "train.jsonl").unlink()
    (tmp_path / "train.csv").mkdir()
    assert "train.csv: cannot be read (Is a directory)" in refused(tmp_path)


def test_a_folder_that_cannot_be_looked_at(tmp_path):
    assert "cannot be read (File name too long)" in refused(tmp_path / ("x" * 300))


# What a file holds


def test_quotes_in_tsv_are_nothing_special(tmp_path):
    lines = ["sentence\tlabel", '"the film\t0', 'a "plot\t1', '"so so"\t0', 'music"\t1', "fine\t0"] + [
        "x\t0",
        "y\t1",
    ] * 10
    for split in ("train", "validation"):
        (tmp_path / f"{split}.tsv").write_bytes("\r\n".join(lines).encode())
    data = load_task_data(task_named("sst2"), tmp_path)
    assert rows_of(data)["sentence"].tolist()[:5] == ['"the film', 'a "plot', '"so so"', 'music"', "fine"]
    assert len(rows_of(data)) == 25 and data.remarks == ()


def test_csv_rows_over_several_lines_are_counted_and_said(tmp_path):
    body = 'text,label\nplain,x\n"two\nlines",y\n"unbalanced,x\nmore,y\nend",x\n' + "a,x\nb,y\n" * 10
    for split, text in (("train", body), ("validation", "text,label\na,x\nb,y\n")):
        (tmp_path / f"{split}.csv").write_text(text)
    data = load_task_data(CLASSIFICATION, tmp_path)
    assert rows_of(data)["text"].tolist()[:3] == ["plain", "two\nlines", "unbalanced,x\nmore,y\nend"]
    [remark] = data.remarks
    assert remark.startswith(f"{tmp_path / 'train.csv'}: 2 rows hold line breaks, the first on line 3")


def test_a_csv_text_longer_than_the_modules_limit(tmp_path):
    limit = csv.field_size_limit()
    save(tmp_path, ["x", "y"] * 10, texts=["long " * 40_000] * 20, form="csv")
    assert len(load_task_data(CLASSIFICATION, tmp_path).report["text"][0]) == 200_000
    assert csv.field_size_limit() == limit


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("train.csv", 'text,label\na,x\n"b,y\nc,x\n', "the row that begins on line 3 is not readable as csv"),
        ("train.csv", 'text,label\na,x\n"b"c,y\n', "the row that begins on line 3 is not readable as csv"),
        ("train.csv", "text,label\na,x\nb, c,y\n", "line 3 has 3 cells, but the first line names 2 columns"),
        ("train.tsv", "text\tlabel\na\tx\n\nb\n", "line 4 has 1 cells, but the first line names 2 columns"),
        ("train.csv", "text,text,label\na,b,x\n", "more than one column is named text"),
        ("train.csv", "", "the split is empty"),
        ("train.csv", "text,label\n", "the split is empty"),
        ("train.csv", b"text,label\ncaf\xe9,x\n", "byte 14 is not UTF-8; save the file as UTF-8"),
        ("train.json", '{"text": "a", "label": "x"', "line 1 is not readable as JSON"),
        ("train.json", '[{"text": "a"},\n {"text": "b" "label"}]', "line 2 is not readable as JSON"),
        ("train.jsonl", '{"text": "a", "label": 0}\n{"text"\n', "line 2 is not readable as JSON"),
        ("train.jsonl", '"text"\n', "row 0 is 'text'; the file must hold a list of objects, or one object per line"),
        ("train.json", "[[1, 2], [3, 4]]", "row 0 is [1, 2]; the file must hold a list of objects"),
        ("train.json", "[" * 100_000, "line 1 is not readable as JSON"),
        ("train.json", "[" + "1" * 5000 + "]", "line 1 is not readable as JSON"),
        ("train.jsonl", '{"text": "a", "text": "b", "label": 0}', "a name is there twice among text, text, label"),
        ("train.jsonl", '{"text": "\\ud800", "label": 0}', "surrogates not allowed"),
        ("train.json", "[]", "the split is empty"),
        ("train.parquet", "not parquet", "train.parquet: cannot be read as parquet"),
    ],
)
def test_files_that_are_not_what_their_name_says(tmp_path, name, content, message):
    save(tmp_path, ["x", "y"] * 10)
    (tmp_path / "train.jsonl").unlink()
    (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    text = refused(tmp_path)
    assert str(tmp_path / name) in text and message in text


def test_json_in_either_form_under_either_name(tmp_path):
    save(tmp_path, ["x", "y"] * 10, form="jsonl")
    save(tmp_path, ["x", "y"] * 10, form="json")
    lines, listed = (tmp_path / "train.jsonl").read_text(), (tmp_path / "train.json").read_text()
    for suffix in ("json", "jsonl"):
        folder = tmp_path / suffix
        folder.mkdir()
        (folder / f"train.{suffix}").write_text(listed if suffix == "jsonl" else lines)
        (folder / f"validation.{suffix}").write_text("\ufeff" + lines, encoding="utf-8")
        assert rows_of(load_task_data(CLASSIFICATION, folder))["text"].tolist() == [f"text {row}" for row in range(20)]


def test_columns_without_a_name_are_passed_over(tmp_path):
    for split in ("train", "validation"):
        pd.DataFrame({"text": ["a", "b"] * 10, "label": ["x", "y"] * 10, "": "", " ": ""}).to_csv(
            tmp_path / f"{split}.csv"
        )
    assert rows_of(load_task_data(CLASSIFICATION, tmp_path))["text"].tolist() == ["a", "b"] * 10


def test_columns_of_several_levels_are_named_as_they_are_stored(tmp_path):
    columns = pd.MultiIndex.from_tuples([("text", "en"), ("label", "")])
    frame = pd.DataFrame([["a", "x"], ["b", "y"]] * 10, columns=columns)
    for split in ("train", "validation"):
        frame.to_parquet(tmp_path / f"{split}.parquet")
    assert "found columns ('text', 'en'), ('label', '')" in refused(tmp_path)


def test_repeated_columns_in_parquet(tmp_path):
    table = pa.table([["a"], ["b"], ["x"]], names=["text", "text", "label"])
    for split in ("train", "validation"):
        pq.write_table(table, tmp_path / f"{split}.parquet")
    assert "more than one column is named text" in refused(tmp_path)


@pytest.mark.parametrize("value", [None, 7, ["a"], {"a": 1}, True])
def test_what_is_not_text_is_refused_with_its_row(tmp_path, value):
    save(tmp_path, ["x", "y"] * 10, texts=["a"] * 17 + [value] + ["b"] * 2)
    what = "the text is missing" if value is None else f"{value!r} is not text"
    assert f"train.jsonl: row 17, column text: {what}" in refused(tmp_path)


@pytest.mark.parametrize("form", FORMS)
def test_an_empty_text_is_a_text_and_said(tmp_path, form):
    data = load_task_data(CLASSIFICATION, save(tmp_path, ["x", "y"] * 10, texts=["", "b", "c", "d"] * 5, form=form))
    assert rows_of(data)["text"].tolist() == ["", "b", "c", "d"] * 5
    assert data.remarks[0] == f"{tmp_path / f'train.{form}'}: 5 of 20 rows have an empty text"


# What labels mean


@pytest.mark.parametrize(
    ("labels", "names"),
    [
        ([0, 1, 2], ("LABEL_0", "LABEL_1", "LABEL_2")),
        ([5, 1], ("1", "5")),
        ([10, 2, 1], ("1", "2", "10")),
        ([0.0, 1.0], ("LABEL_0", "LABEL_1")),
        ([1.5, 0.5, 10.0], ("0.5", "1.5", "10")),
        ([True, False], ("False", "True")),
        (["b", "a"], ("a", "b")),
        (["10", "9"], ("9", "10")),
        (["02", "01", "10"], ("01", "02", "10")),
        (["1", "2", "3+"], ("1", "2", "3+")),
        ([1, "2"], ("1", "2")),
    ],
)
def test_classes_are_the_distinct_labels_in_order(tmp_path, labels, names):
    data = load_task_data(CLASSIFICATION, save(tmp_path, labels * 20))
    assert data.task.labels == names and data.num_labels == len(names)
    spelled = [str(label) if isinstance(label, bool | str) else f"{label:g}" for label in labels]
    order = [name.removeprefix("LABEL_") for name in names]
    assert rows_of(data)["label"].tolist() == [order.index(label) for label in spelled] * 20


@pytest.mark.parametrize(
    "column",
    [
        pd.Series(["x", "y"] * 10, dtype="category"),
        pd.Series([0, 1] * 10, dtype="Int64"),
        pd.Series([0, 1] * 10, dtype="uint8"),
        pd.Series([False, True] * 10, dtype="boolean"),
        pd.Series([Decimal("0"), Decimal("1")] * 10),
    ],
    ids=lambda column: str(column.dtype),
)
def test_column_types_of_pandas(tmp_path, column):
    for split in ("train", "validation"):
        pd.DataFrame({"text": "a", "label": column}).to_parquet(tmp_path / f"{split}.parquet")
    assert rows_of(load_task_data(CLASSIFICATION, tmp_path))["label"].tolist() == [0, 1] * 10


@pytest.mark.parametrize("labels", [["0", "1"], [0.0, 1.0], [False, True], ["False", "True"], ["negative", "positive"]])
def test_labels_of_a_known_task_by_name_and_by_number(tmp_path, labels):
    data = load_task_data(task_named("sst2", ("text",)), save(tmp_path, labels * 10))
    assert data.task.labels == ("negative", "positive") and rows_of(data)["label"].tolist() == [0, 1] * 10


@pytest.mark.parametrize("value", [None, float("nan"), [1], {"a": 1}, float("inf"), ""])
@pytest.mark.parametrize(
    "task", [CLASSIFICATION, REGRESSION, task_named("sst2", ("text",))], ids=lambda task: task.name
)
def test_labels_that_say_nothing_are_refused_with_their_row(tmp_path, task, value):
    message = refused(save(tmp_path, [0, 1] * 10, label=[0, 1, value] + [1] * 17), task)
    is_missing = value is None or value == "" or value != value
    assert (
        f"validation.jsonl: row 2: {'a missing label' if is_missing else f'label {value!r}'} does not match" in message
    )


def test_a_gap_in_a_nullable_column(tmp_path):
    for split in ("train", "validation"):
        labels = pd.Series([0, 1, None, 1] * 5, dtype="Int64")
        pd.DataFrame({"text": "a", "label": labels}).to_parquet(tmp_path / f"{split}.parquet")
    assert "train.parquet: row 2: a missing label does not match task text-classification" in refused(tmp_path)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([0, 1, "oops"], "the labels mix numbers (0, 1) and words (oops)"),
        ([True, 1], "the labels mix numbers (1) and words (True)"),
        ([0, 1, 50_000_000], "label 50000000 is too far off to be one of 3 classes"),
        ([0, -(10**400)], "is too far off to be one of 2 classes"),
        (
            [0, 1, -1],
            "row 2: label -1 stands for a row without a label, as in the hub's unlabelled test splits (20 of 60",
        ),
    ],
)
def test_labels_that_cannot_be_classes(tmp_path, labels, message):
    assert message in refused(save(tmp_path, labels * 20))


def test_a_column_of_keys_is_not_one_of_classes(tmp_path):
    message = refused(save(tmp_path, list(range(1000))))
    assert "1000 different labels in 1000 rows are too many for classes" in message and "and 988 more" in message


@pytest.mark.parametrize(
    ("task", "value", "expected"),
    [
        (task_named("sst2", ("text",)), 2, "one of 0-1 (negative, positive)"),
        (task_named("sst2", ("text",)), 0.5, "one of 0-1 (negative, positive)"),
        (task_named("mnli", ("text",)), True, "one of 0-2 (entailment, neutral, contradiction)"),
        (CLASSIFICATION, "LABEL_2", "one of 0-1 (LABEL_0, LABEL_1)"),
        (REGRESSION, True, "a finite number"),
        (REGRESSION, 10**400, "a finite number"),
        (REGRESSION, 1e300, "a finite number"),
        (REGRESSION, "many", "a finite number"),
    ],
)
def test_labels_that_the_task_does_not_have(tmp_path, task, value, expected):
    message = refused(save(tmp_path, [0, 1] * 10, label=[0, 1] * 9 + [0, value]), task)
    assert (
        "validation.jsonl: row 19: label " in message
        and f"does not match task {task.name}; expected {expected}" in message
    )


@pytest.mark.parametrize("task", [CLASSIFICATION, task_named("sst2", ("text",)), task_named("cola", ("text",))])
@pytest.mark.parametrize("split", ["train", "validation"])
def test_the_labels_of_an_unlabelled_split(tmp_path, task, split):
    save(tmp_path, [0, 1] * 10)
    write(tmp_path / f"{split}.jsonl", {"text": ["a"] * 20, "label": [-1] * 20})
    message = refused(tmp_path, task)
    assert f"{split}.jsonl: row 0: label -1" in message and "unlabelled test splits (20 of 20 rows here)" in message


@pytest.mark.parametrize("label", [-1.0, 2.5])
@pytest.mark.parametrize("split", ["train", "validation"])
def test_a_regression_on_one_value(tmp_path, split, label):
    save(tmp_path, [0.5, 1.5] * 10)
    write(tmp_path / f"{split}.jsonl", {"text": ["a"] * 20, "label": [label] * 20})
    message = refused(tmp_path, REGRESSION)
    assert f"{split}.jsonl: all " in message and "the pearson of a model on them means nothing" in message
    assert ("as in the hub's unlabelled test splits" in message) == (label == -1)


@pytest.mark.parametrize(("task", "common", "rare"), [(CLASSIFICATION, "x", "y"), (REGRESSION, 1.0, 2.0)])
def test_held_back_rows_of_one_label_decide_nothing(tmp_path, task, common, rare):
    """Of 20 rows, 3 and 3 are held back: the rare label is where this seed does not, then only where it does hold back."""
    data = load_task_data(CLASSIFICATION, save(tmp_path, ["x", "y"] * 10))
    held_back = [*data.selection.index, *data.acceptance.index]
    save(
        tmp_path,
        [common if row in held_back else rare if row % 2 else common for row in range(20)],
        label=[common, rare] * 10,
    )
    assert "all 3 rows held back by --seed to judge trials have the label" in refused(tmp_path, task)
    labels = [common] * 20
    labels[held_back[0]] = rare
    assert "all 14 rows to train on have the label" in refused(save(tmp_path, labels, label=[common, rare] * 10), task)


def test_labels_as_long_as_documents_do_not_flood_the_message(tmp_path):
    message = refused(save(tmp_path, ["x" * 5000, "y" * 5000] * 10, label=["z" * 5000] * 20))
    assert "does not match task text-classification; expected one of xxx" in message


def test_data_of_one_class(tmp_path):
    assert "all 14 rows to train on have the label x" in refused(save(tmp_path, ["x"] * 20))


def test_a_report_of_one_class_is_said_or_refused(tmp_path):
    save(tmp_path, [0, 1] * 10, label=[1] * 20)
    [remark] = load_task_data(task_named("sst2", ("text",)), tmp_path).remarks
    assert "validation.jsonl: all rows have the label positive" in remark
    assert "all 20 rows to report on have the label acceptable, so the matthews" in refused(
        tmp_path, task_named("cola", ("text",))
    )


@pytest.mark.parametrize(("rows", "samples"), [(9, None), (40, 19)])
def test_too_few_rows_to_hold_some_back(tmp_path, rows, samples):
    message = refused(save(tmp_path, ["x", "y", "x"] * rows if samples else ["x", "y", "y"] * 3), train_samples=samples)
    assert (
        f"train.jsonl: {samples or rows} rows to train on are too few" in message
        and "at least 20 are needed" in message
    )


# Tokenizing


@pytest.mark.parametrize(("texts", "shortest"), [(1, 3), (2, 5)])
def test_a_length_with_no_room_for_the_texts(texts, shortest):
    names = ("first", "second")[:texts]
    frame = pd.DataFrame({name: ["great film", "dull plot"] for name in names} | {"label": [1, 0]})
    task = with_columns(task_named("text-classification", names), [*frame], "test")
    inputs = ["input_ids", "attention_mask"]
    with pytest.raises(AxformError, match=f"--max-length: {shortest - 1} tokens are too few; .* need {shortest}"):
        encode(task, frame, tiny_tokenizer(), inputs, shortest - 1)
    assert encode(task, frame, tiny_tokenizer(), inputs, shortest).lengths.tolist() == [shortest] * 2


def test_a_tokenizer_that_does_not_give_what_the_model_needs():
    tokenizer = tiny_tokenizer()
    tokenizer.model_input_names = ["input_ids"]
    frame = sentiment_rows(4)
    task = with_columns(TASKS["glue/sst2"], [*frame], "test")
    with pytest.raises(AxformError, match="the tokenizer gives input_ids, but the model needs attention_mask, too"):
        encode(task, frame, tokenizer, ["input_ids", "attention_mask"], 16)


def test_a_text_without_tokens():
    tokenizer = tiny_tokenizer()
    plain = processors.TemplateProcessing(single="$A", pair="$A $B", special_tokens=[])
    tokenizer.backend_tokenizer.post_processor = plain
    frame = pd.DataFrame({"sentence": ["great film", ""], "label": [1, 0]}, index=[7, 9])
    task = with_columns(TASKS["glue/sst2"], [*frame], "test")
    with pytest.raises(AxformError, match="row 9: the tokenizer makes no token of its texts"):
        encode(task, frame, tokenizer, ["input_ids"], 16)


def test_labels_come_out_in_the_types_that_losses_take(tmp_path):
    for task, labels, kind in ((CLASSIFICATION, ["1", "0"], np.int64), (REGRESSION, ["1.5", "0"], np.float32)):
        data = load_task_data(task, save(tmp_path, labels * 10))
        encoded = encode(data.task, data.report, tiny_tokenizer(), ["input_ids"], 16)
        assert encoded.labels.dtype == kind and encoded.labels.tolist() == [float(label) for label in labels] * 10


def test_a_label_column_of_any_name(tmp_path):
    for split in ("train", "validation"):
        sentiment_rows(40).rename(columns={"label": "self"}).to_csv(tmp_path / f"{split}.csv", index=False)
    data = load_task_data(task_named("text-classification", label_column="self"), tmp_path)
    assert set(data.train["self"]) == {0, 1}


def test_remarks_reach_the_user(tmp_path):
    heard = []
    progress = Progress()
    progress.message = heard.append
    save(tmp_path, [0, 1] * 10, texts=["", "b", "c", "d"] * 5)
    options = OptimizeOptions(model=str(tmp_path), task="text-classification", data=str(tmp_path))
    with pytest.raises(AxformError, match="not a loadable model"):  # read after the data
        optimize(options, tmp_path / "run", progress=progress)
    assert [message.split(": ")[1] for message in heard] == ["5 of 20 rows have an empty text"] * 2
