"""Reading task data in all its forms, and the metrics."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from axform.core.metrics import compute_metric
from axform.core.tasks import TASKS, task_named
from axform.runtime.check_data import CheckData
from axform.toolchain.data import load_task_data
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


@pytest.mark.parametrize("form", ["parquet", "jsonl", "json", "csv", "tsv"])
def test_every_file_form_reads_the_same(tmp_path, form):
    for split, rows in (("train", sentiment_rows(60, 1)), ("validation", sentiment_rows(20, 2))):
        path = tmp_path / f"{split}.{form}"
        if form == "parquet":
            rows.to_parquet(path)
        elif form.startswith("json"):
            rows.to_json(path, orient="records", lines=form == "jsonl")
        else:
            rows.to_csv(path, index=False, sep="\t" if form == "tsv" else ",")
    data = load_task_data(task_named("sst2"), tmp_path)
    assert (len(data.train), len(data.selection), len(data.report)) == (51, 9, 20)
    assert sorted(pd.concat([data.train, data.selection])["sentence"]) == sorted(sentiment_rows(60, 1)["sentence"])
    assert not set(data.train.index) & set(data.selection.index)


def test_parts_and_folders_named_like_the_task(tmp_path):
    folder = tmp_path / "glue" / "sst2"
    folder.mkdir(parents=True)
    rows = sentiment_rows(40)
    rows[:25].to_parquet(folder / "train-00000-of-00002.parquet")
    rows[25:].to_parquet(folder / "train-00001-of-00002.parquet")
    rows[:10].to_parquet(folder / "validation.parquet")
    data = load_task_data(task_named("sst2"), tmp_path, train_samples=20, report_samples=5)
    assert (len(data.train) + len(data.selection), len(data.report)) == (20, 5)


def test_mnli_reports_the_matched_split(tmp_path):
    rows = pd.DataFrame({"premise": ["a"] * 12, "hypothesis": ["b"] * 12, "label": [0, 1, 2] * 4})
    for name, count in (("train", 12), ("validation_matched", 6), ("validation_mismatched", 3)):
        rows[:count].to_parquet(tmp_path / f"{name}.parquet")
    assert len(load_task_data(task_named("mnli"), tmp_path).report) == 6


def test_labels_that_are_names(tmp_path):
    rows = pd.DataFrame({"text": ["x"] * 12, "label": ["cat", "dog", "eel"] * 4})
    for split in ("train", "validation"):
        rows.to_csv(tmp_path / f"{split}.csv", index=False)
    data = load_task_data(task_named("text-classification"), tmp_path)
    assert data.task.labels == ("cat", "dog", "eel") and data.num_labels == 3
    assert set(data.report["label"]) == {0, 1, 2}


def test_the_same_seed_holds_back_the_same_rows(sentiment):
    one, two, other = (load_task_data(task_named("sst2"), sentiment, seed=seed) for seed in (0, 0, 1))
    assert one.selection.equals(two.selection) and not one.selection.equals(other.selection)


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
    assert report.task.baseline == pytest.approx(record.baseline.report_metric, abs=1e-3)
    assert CheckData.load(bundle.check_data).split.labels.dtype == np.float32
