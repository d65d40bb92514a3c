"""The tasks with their columns, the metrics, and a regression from end to end."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from axform.core.metrics import compute_metric
from axform.core.tasks import TASKS, task_named, with_columns
from axform.errors import AxformError
from axform.runtime.check_data import CheckData
from axform.toolchain.optimize import optimize
from axform.toolchain.options import OptimizeOptions
from scipy.stats import pearsonr
from sklearn.metrics import matthews_corrcoef
from support import save_pretrained_only, sentiment_rows


def test_metrics_agree_with_the_libraries():
    generator = np.random.default_rng(0)
    logits, labels = generator.standard_normal((200, 2)), generator.integers(0, 2, 200)
    assert compute_metric("accuracy", logits, labels) == np.mean(logits.argmax(1) == labels)
    assert compute_metric("matthews", logits, labels) == pytest.approx(matthews_corrcoef(labels, logits.argmax(1)))
    scores, targets = generator.standard_normal((200, 1)), generator.standard_normal(200)
    assert compute_metric("pearson", scores, targets) == pytest.approx(pearsonr(scores[:, 0], targets)[0])
    assert compute_metric("pearson", np.ones((200, 1)), targets) == 0.0


def test_short_and_full_task_names():
    assert task_named("sst2") is not None and task_named("sst2") == task_named("glue/sst2")
    assert {name.split("/")[1] for name in TASKS if "/" in name} == {
        "cola", "sst2", "mrpc", "stsb", "qqp", "mnli", "qnli", "rte", "wnli",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("text_columns", "label_column", "message"),
    [
        (("text", "text"), None, "--text-columns names text twice"),
        (("a", "", "b"), None, "--text-columns names 3 columns"),
        (("a", ""), None, "--text-columns names a column without a name"),
        (("",), None, "--text-columns names a column without a name"),
        ((), "", "--label-column names a column without a name"),
    ],
)
def test_column_options_that_name_no_columns(text_columns, label_column, message):
    with pytest.raises(AxformError, match=message):
        task_named("text-classification", text_columns, label_column)


@pytest.mark.parametrize(
    ("text_columns", "label_column"), [(("label",), None), (("text", "label"), None), ((), "text")]
)
def test_a_column_is_not_both_text_and_label(text_columns, label_column):
    task = task_named("text-classification", text_columns, label_column)
    with pytest.raises(AxformError, match=r"train\.csv: column (label|text) cannot be both text and label"):
        with_columns(task, ["text", "label"], "train.csv")


def test_a_table_of_many_columns_does_not_flood_the_message():
    with pytest.raises(AxformError, match=r"c0, c1, .* and 988 more") as error:
        with_columns(task_named("sst2"), [f"c{number}" for number in range(1000)], "train.csv")
    assert len(str(error.value)) < 300


def test_a_regression_over_pairs_runs_through(tmp_path):
    """STS-B's form: two texts, a score, Pearson's correlation; here the score is the number of words in the second."""
    rows = sentiment_rows(120)
    frame = pd.DataFrame({"sentence1": rows["sentence"], "sentence2": rows["sentence"].str[:60]})
    frame["label"] = frame["sentence2"].str.count(" ") / 4.0
    (tmp_path / "data").mkdir()
    for split in ("train", "validation"):
        frame.to_parquet(tmp_path / "data" / f"{split}.parquet")
    from axform.exporters.export import export
    from axform.runtime.parity import check_bundle

    options = OptimizeOptions(
        model=str(save_pretrained_only(tmp_path / "model", "roberta")),
        task="stsb",
        data=str(tmp_path / "data"),
        learning_rate=5e-3,
        baseline_epochs=2,
        final_epochs=1,
        group_size=16,
    )
    record = optimize(options, tmp_path / "run")
    assert record.metric == "pearson" and record.labels == ()
    bundle, _ = export(tmp_path / "run", tmp_path / "bundle")
    report = check_bundle(bundle)
    assert report.numeric.passed
    assert report.task.baseline == pytest.approx(record.report.before, abs=1e-3)
    assert CheckData.load(bundle.check_data).split.labels.dtype == np.float32
