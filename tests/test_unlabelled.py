"""Texts without labels: which of them are used, what rounds learn from them, and what cannot be."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from axform.core.batches import EncodedSplit
from axform.core.tasks import TASKS, task_named, with_columns
from axform.errors import AxformError
from axform.toolchain.apply import apply_plan
from axform.toolchain.data import encode, load_task_data
from axform.toolchain.finetune import _DistillingTrainer, fine_tune
from axform.toolchain.optimize import optimize
from axform.toolchain.options import FineTuneOptions, OptimizeOptions
from axform.toolchain.teacher import Committee, recorded
from support import plan_of, save_pretrained_only, save_sentiment, sentiment_rows, tiny_model

TASK = with_columns(TASKS["glue/sst2"], ["sentence", "label"], "test")
CLASSIFICATION, REGRESSION = task_named("text-classification"), task_named("text-regression")


def labelled(folder: Path, labels: list) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    rows = [f"a wholly new sentence of number {row}" for row in range(len(labels))]
    for split in ("train", "validation"):
        texts = [f"{text} in {split}" for text in rows]
        pd.DataFrame({"text": texts, "label": labels}).to_json(folder / f"{split}.jsonl", orient="records", lines=True)
    return folder


def texts(folder: Path, values: list[str], column: str = "text", name: str = "unlabelled") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.jsonl").write_text("".join(json.dumps({column: value}) + "\n" for value in values))
    return folder


@pytest.mark.parametrize(("task", "labels"), [(CLASSIFICATION, [0, 1] * 20), (REGRESSION, [0.5, 1.5] * 20)])
def test_a_text_counts_once_and_not_where_it_says_what_a_judging_row_says(tmp_path, task, labels):
    data_dir = labelled(tmp_path / "data", labels)
    before = load_task_data(task, data_dir)
    judging = [frame["text"].iloc[0] for frame in (before.selection, before.acceptance, before.report)]
    part_of_one = " ".join(judging[1].split()[2:])
    other = [f"nothing of the kind, said for the time {row}" for row in range(6)]
    taught = before.train["text"].iloc[0]
    folder = texts(tmp_path / "more", [*other, other[0], *judging, part_of_one, f"it says that {judging[2]}", taught])
    data = load_task_data(task, data_dir, folder)
    assert data.unlabelled["text"].tolist() == [*other, taught]
    assert any("7 of 13 rows without labels teach; the others" in remark for remark in data.remarks)
    for split in ("train", "selection", "acceptance", "report"):
        pd.testing.assert_frame_equal(getattr(data, split), getattr(before, split))
    values = data.unlabelled["label"].to_numpy()
    assert np.isnan(values).all() if task.is_regression else (values == -1).all()


def test_labels_of_texts_without_labels_are_not_read(tmp_path):
    data_dir, folder = labelled(tmp_path / "data", [0, 1] * 20), tmp_path / "more"
    folder.mkdir()
    rows = {"text": [f"some other text of number {row}" for row in range(4)], "label": ["x", None, "y", "z"]}
    pd.DataFrame(rows).to_parquet(folder / "unlabeled.parquet")
    data = load_task_data(CLASSIFICATION, data_dir, folder)
    assert data.unlabelled["label"].tolist() == [-1] * 4 and data.task.labels == ("LABEL_0", "LABEL_1")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda folder: folder,
            "no such folder; --unlabelled names the folder that holds the task's unlabelled.* file",
        ),
        (lambda folder: texts(folder, ["one text"], name="test"), "split 'unlabelled' is missing; found test.jsonl"),
        (lambda folder: texts(folder, ["one text"], column="body"), "column text missing"),
        (lambda folder: texts(folder, [3]), "row 0, column text: 3 is not text"),
        (
            lambda folder: texts(folder, ["a wholly new sentence of number 7 in validation"]),
            "1 rows, all of which say the same as rows that judge",
        ),
    ],
)
def test_texts_that_cannot_teach(tmp_path, make, message):
    data_dir, folder = labelled(tmp_path / "data", [0, 1] * 20), make(tmp_path / "more")
    task = with_columns(CLASSIFICATION, ["text", "label"], "test")
    with pytest.raises(AxformError) as error:
        load_task_data(task, data_dir, folder)
    assert message in str(error.value) and str(tmp_path / "more") in str(error.value)


@pytest.mark.parametrize("has_labels", [[True] * 6, [False] * 6, [True, False, False, True, True, False]])
@pytest.mark.parametrize("labels", [2, 1])
def test_the_loss_is_the_teachers_and_that_of_the_labels_that_are_there(tmp_path, monkeypatch, labels, has_labels):
    """Against the same in float64, sample by sample."""
    task = TASK if labels == 2 else with_columns(REGRESSION, ["sentence", "label"], "test")
    loaded, teacher = (tiny_model("bert", num_labels=labels, seed=seed) for seed in (0, 1))
    rows = sentiment_rows(6, 3)
    if labels == 1:
        rows["label"] = np.linspace(-1, 2, 6, dtype=np.float32)
    split = encode(task, rows, loaded.tokenizer, loaded.inputs, 64)
    split.labels[~np.array(has_labels)] = np.nan if labels == 1 else -1
    seen = []
    compute = _DistillingTrainer.compute_loss

    def noted(trainer, model, inputs, *rest, **options):
        wanted = {"rows": inputs["rows"].clone(), "labels": inputs["labels"].clone()}
        loss, outputs = compute(trainer, model, inputs, True, **options)
        seen.append((loss.item(), outputs.logits.detach().double(), wanted))
        return (loss, outputs) if rest and rest[0] else loss

    monkeypatch.setattr(_DistillingTrainer, "compute_loss", noted)
    options = FineTuneOptions(epochs=1, batch_size=6, teacher_weight=0.6, hidden_weight=0.0)
    judging = encode(task, rows, loaded.tokenizer, loaded.inputs, 64)
    fine_tune(loaded, task, split, judging, options, tmp_path / "work", teacher=recorded(Committee(teacher), split, 6))
    loss, logits, inputs = seen[0]
    answers = recorded(Committee(teacher), split, 6).answer(inputs["rows"], {}).logits.double()
    expected = 0.0
    for ours, theirs, label in zip(logits, answers, inputs["labels"], strict=True):
        if labels == 1:
            expected += 0.6 * float((ours - theirs) ** 2)
            expected += 0.0 if torch.isnan(label) else 0.4 * float((ours[0] - label) ** 2)
        else:
            soft, hard = (theirs / 2).log_softmax(-1), (ours / 2).log_softmax(-1)
            expected += 0.6 * 4 * float((soft.exp() * (soft - hard)).sum())
            expected += 0.0 if label == -1 else -0.4 * float(ours.log_softmax(-1)[label])
    assert loss == pytest.approx(expected / 6, rel=1e-5)


def test_a_student_comes_nearer_to_its_teacher_with_texts_that_nobody_labelled(tmp_path):
    teacher = tiny_model("bert")
    few, many, judging = (
        encode(TASK, sentiment_rows(count, seed), teacher.tokenizer, teacher.inputs, 64)
        for count, seed in ((16, 1), (400, 2), (200, 3))
    )
    many = replace(many, labels=np.full(len(many), -1))
    distances = []
    for lessons, epochs in ((few, 26), (few.followed_by(many), 1)):
        student = tiny_model("bert")
        plan = plan_of(student.identity(), 8, "layer.1.ffn")
        options = FineTuneOptions(epochs=epochs, learning_rate=3e-3, batch_size=8, teacher_weight=1.0)
        asked = recorded(Committee(teacher), lessons, 8)
        batch = {name: torch.from_numpy(value) for name, value in judging.batch(range(len(judging))).items()}
        with apply_plan(student.model, plan):
            fine_tune(student, TASK, lessons, judging, options, tmp_path / str(epochs), teacher=asked)
            with torch.inference_mode():
                away = student.model(**batch).logits - teacher.model(**batch).logits
        distances.append(float(away.square().mean()))
    assert distances[1] < distances[0]


def test_splits_that_follow_each_other():
    first, second = (
        EncodedSplit({"input_ids": [np.full(2, row) for row in rows]}, np.array(rows), {"input_ids": 0})
        for rows in ([1, 2], [3])
    )
    both = first.followed_by(second)
    assert both.labels.tolist() == [1, 2, 3] and [int(one[0]) for one in both.features["input_ids"]] == [1, 2, 3]


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> OptimizeOptions:
    folder = tmp_path_factory.mktemp("unlabelled")
    return OptimizeOptions(
        model=str(save_pretrained_only(folder / "pretrained")),
        task="text-classification",
        data=str(save_sentiment(folder / "data", 160, 40)),
        unlabelled=str(texts(folder / "more", sentiment_rows(80, 9)["sentence"].tolist(), "sentence")),
        learning_rate=3e-3,
        baseline_epochs=1,
        final_epochs=1,
        rounds=1,
        group_size=16,
        max_drop=1.0,
        prune_threshold=0.1,
        approximate_threshold=0.3,
    )


def test_a_run_with_them_from_its_start_to_another_that_goes_on(data, tmp_path, monkeypatch):
    taught = []

    def noted(loaded, task, train, *rest, **options):
        taught.append(len(train))
        return fine_tune(loaded, task, train, *rest, **options)

    monkeypatch.setattr("axform.toolchain.context.fine_tune", noted)
    run = tmp_path / "run"
    record = optimize(data, run)
    without = record.train_rows
    assert taught[0] == without and without < taught[1] <= without + 80
    assert optimize(data, run, resume=True) == record

    more = data.model_copy(update={"model": str(run), "baseline_epochs": None, "unlabelled": None})
    optimize(more, tmp_path / "goes-on")  # what teaches is each run's own affair

    texts(Path(data.unlabelled), ["the film was dull, once more"], "sentence")
    (run / "run.json").unlink()
    with pytest.raises(AxformError, match="the rows of the unlabelled split are not those that the run was started on"):
        optimize(data, run, resume=True)


@pytest.mark.parametrize(
    ("options", "why"), [({"distill": False}, "--no-distill"), ({"final_epochs": 0}, "--final-epochs 0")]
)
def test_texts_that_nobody_answers(data, tmp_path, options, why):
    with pytest.raises(AxformError, match=f"--unlabelled: nothing is taught with {why}; leave one of them out"):
        optimize(data.model_copy(update=options), tmp_path / "run")
    assert not (tmp_path / "run").exists()
