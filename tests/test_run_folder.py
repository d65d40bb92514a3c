"""What a run continues from and is exported from: whole, of this run, or said."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from axform.core.batches import EncodedSplit
from axform.core.progress import Progress
from axform.core.targets import Target
from axform.errors import AxformError
from axform.exporters.export import export
from axform.exporters.finished_run import FinishedRun
from axform.runtime.bundle import Bundle
from axform.seals import seal
from axform.toolchain import context, rounds, searches, stages
from axform.toolchain.data import encode, settle_task_data
from axform.toolchain.evaluation import Evaluator
from axform.toolchain.finetune import fine_tune
from axform.toolchain.journal import TrialRecord
from axform.toolchain.models import load_fine_tuned
from axform.toolchain.optimize import optimize
from axform.toolchain.options import OptimizeOptions
from axform.toolchain.run_folder import RunFolder
from axform.toolchain.significance import Thresholds, Verdict
from axform.toolchain.trials import SearchResult
from support import save_pretrained_only, save_sentiment


class Messages(Progress):
    def __init__(self):
        self.seen = []

    def message(self, text):
        self.seen.append(text)


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """(options, run folder) of a quick finished run; tests work on copies."""
    folder = tmp_path_factory.mktemp("small")
    options = OptimizeOptions(
        model=str(save_pretrained_only(folder / "pretrained")),
        task="text-classification",
        data=str(save_sentiment(folder / "data", 160, 40)),
        learning_rate=3e-3,
        baseline_epochs=2,
        final_epochs=1,
        group_size=16,
        max_drop=1.0,  # so few rows decide nothing else
        prune_threshold=0.1,
        approximate_threshold=0.3,
    )
    optimize(options, folder / "run")
    return options, folder / "run"


@pytest.fixture
def copy(small, tmp_path):
    return RunFolder(Path(shutil.copytree(small[1], tmp_path / "run")))


def outcome(run):
    return run.read_record().model_dump(exclude={"search_seconds", "versions"}), run.read_plan()


def truncate(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@pytest.mark.parametrize(
    "harm",
    [
        lambda run: shutil.rmtree(run.round(1).model),
        lambda run: run.round(1).plan_path.unlink(),
        lambda run: truncate(run.round(1).model / "model.safetensors"),
        lambda run: shutil.rmtree(run.baseline),
        lambda run: (run.baseline / "tokenizer.json").unlink(),
        lambda run: truncate(run.inputs / "report.npz"),
    ],
    ids=["no model", "no plan", "cut weights", "no baseline", "no tokenizer", "cut split"],
)
def test_what_is_missing_is_made_again_identically(small, copy, harm):
    wanted = outcome(copy)
    harm(copy)
    with pytest.raises(AxformError, match="with --resume makes it again"):
        FinishedRun(copy)
    messages = Messages()
    optimize(small[0], copy.path, resume=True, progress=messages)
    assert "it is made again" in messages.seen[0]
    assert outcome(copy) == wanted and copy.missing() is None


def test_a_run_made_again_under_another_torch_says_so(small, copy, monkeypatch):
    shutil.rmtree(copy.round(1).path)
    monkeypatch.setattr(searches.Searches, "_thresholds", lambda *_: Thresholds(0.0, 0.0, 0.0))
    copy.journal(1).unlink()
    messages = Messages()
    optimize(small[0], copy.path, resume=True, progress=messages)
    assert "what was made again is not what it was" in messages.seen[-1]


def files_of(run):
    return sorted(path for path in run.path.rglob("*") if path.is_file() and path.name != ".axform")


@pytest.mark.parametrize("garbage", [b"", b"{", b"[" * 10_000, b"\xff\xfe\x00", b'{"a": "\\ud800"}', None])
def test_a_damaged_file_is_one_clear_error_or_does_not_matter(small, copy, garbage):
    for path in files_of(copy):
        content = path.read_bytes()
        path.unlink() if garbage is None else path.write_bytes(garbage)
        try:
            FinishedRun(copy)
            assert path.name.startswith("trials") or path.name == "options.json", path
        except AxformError:
            pass
        path.write_bytes(content)
    FinishedRun(copy)


@pytest.mark.parametrize("garbage", [b"\xff\xfe\n", b"[]\n", b"{}\n", b'{"settings": 3}\n', b"[" * 10_000 + b"\n"])
def test_a_damaged_journal_is_said(small, copy, garbage):
    copy.record_path.unlink()
    shutil.rmtree(copy.round(1).path)
    copy.journal(1).write_bytes(garbage)
    with pytest.raises(AxformError, match=r"trials.jsonl: damaged .*; delete it to search again"):
        optimize(small[0], copy.path, resume=True)


@pytest.mark.parametrize("split", ["train", "validation"])
def test_a_run_continues_on_its_own_rows_only(small, copy, tmp_path, split):
    options, _ = small
    data = Path(shutil.copytree(options.data, tmp_path / "data"))
    rows = pd.read_parquet(data / f"{split}.parquet")
    rows["label"] = 1 - rows["label"]
    rows.to_parquet(data / f"{split}.parquet")
    copy.record_path.unlink()
    copy.write_options(options.model_copy(update={"data": str(data)}))
    name = "train" if split == "train" else "report"
    with pytest.raises(AxformError, match=f"the rows of the {name} split are not those that the run was started on"):
        optimize(options.model_copy(update={"data": str(data)}), copy.path, resume=True)


def test_a_run_continues_on_its_own_model_only(small, copy, tmp_path):
    model = save_pretrained_only(tmp_path / "other", layers=3)
    copy.record_path.unlink()
    options = small[0].model_copy(update={"model": str(model)})
    copy.write_options(options)
    with pytest.raises(AxformError, match="the model's weights are not those that the run was started on"):
        optimize(options, copy.path, resume=True)


@pytest.mark.parametrize("part", ["baseline", "inputs", "round-1"])
def test_parts_of_another_run_are_not_exported(small, copy, tmp_path, part):
    """Whole and sealed, but made by a run with other rows."""
    other = RunFolder(tmp_path / "other")
    optimize(small[0].model_copy(update={"seed": 1}), other.path)
    shutil.rmtree(copy.path / part)
    shutil.copytree(other.path / part, copy.path / part)
    with pytest.raises(AxformError, match=f"{part}.*: is of another run"):
        FinishedRun(copy)


def test_weights_changed_and_sealed_again_are_not_exported(copy):
    loaded = load_fine_tuned(copy.baseline)
    with torch.no_grad():
        next(loaded.model.parameters()).add_(0.1)
    loaded.model.save_pretrained(copy.baseline)
    seal(copy.baseline)
    with pytest.raises(AxformError, match="baseline: is of another run: the fingerprint of its weights"):
        FinishedRun(copy)


def test_an_export_needs_the_run_folder_only_and_names_no_other(small, tmp_path, monkeypatch):
    """Started with relative paths in one folder, continued in another, exported when model and data are gone."""
    options, _ = small
    shutil.copytree(options.data, tmp_path / "a" / "data")
    shutil.copytree(options.model, tmp_path / "a" / "model")
    monkeypatch.chdir(tmp_path / "a")
    optimize(options.model_copy(update={"data": "data", "model": "model"}), tmp_path / "run")
    (tmp_path / "run" / "run.json").unlink()
    monkeypatch.chdir(tmp_path)
    optimize(options.model_copy(update={"data": "a/data", "model": "a/model"}), tmp_path / "run", resume=True)
    shutil.rmtree(tmp_path / "a")
    bundle, _ = export(tmp_path / "run", tmp_path / "bundle")
    for path in bundle.path.glob("*.json"):
        assert str(tmp_path) not in path.read_text(), path.name
    assert json.loads((bundle.path / "axform.json").read_text())["run"]["options"]["model"] == "model"


def test_rounds_go_on_from_the_last_that_was_kept_and_back_off(small, tmp_path, monkeypatch):
    """Round 2 misses the bound: round 3 starts again from round 1, with half the slack."""
    trained = []

    def trains(loaded, *arguments, **options):
        trained.append(arguments[4].name)
        return fine_tune(loaded, *arguments, **options)

    def removes_one_group(evaluator, *_):
        number = evaluator.plan.changes()
        measured = evaluator.measure()
        return SearchResult(evaluator.plan.without(Target(0, "ffn.group", number)), measured, measured, 1, 0.0)

    fine_tune = context.fine_tune
    monkeypatch.setattr(context, "fine_tune", trains)
    monkeypatch.setattr(rounds, "keeps_bound", lambda *_, **__: trained[-1] != "round-2-training")
    monkeypatch.setattr(searches, "search", removes_one_group)
    run, messages = RunFolder(tmp_path / "run"), Messages()
    options = small[0].model_copy(update={"recover": 0.5, "rounds": 3})
    optimize(options, run.path, progress=messages)
    records = [run.round(number).read_record() for number in range(4)]
    assert [record.slack for record in records] == [0, 0.5, 0.5, 0.25]
    assert [record.start for record in records] == [0, 0, 1, 1]
    assert [record.is_accepted for record in records] == [True, True, False, True]
    assert records[1].started_on == run.round(0).read_plan().model.fingerprint
    assert records[2].started_on == records[3].started_on == run.round(1).read_plan().model.fingerprint
    assert run.read_plan().changes() == 2 and records[3].parameters < records[1].parameters < records[0].parameters
    assert sum("refused" in text for text in messages.seen) == 1
    wanted = outcome(run)

    run.record_path.unlink()  # killed after the last round, then in it
    assert optimize(options, run.path, resume=True).rounds == 3 and outcome(run) == wanted
    run.record_path.unlink()
    shutil.rmtree(run.round(3).path)
    optimize(options, run.path, resume=True)
    assert outcome(run) == wanted


@pytest.mark.parametrize(
    ("needed", "refused", "asked"),
    [
        (1.0, (), [0.25, 0.25, 0.5, 1.0, 1.0]),
        (0.5, ("round-2-training",), [0.25, 0.25, 0.5, 0.25]),
        (9.0, (), [0.25, 0.25, 0.5, 1.0, 2.0, 4.0]),
    ],
)
def test_a_search_that_finds_nothing_is_made_again_with_more(small, tmp_path, monkeypatch, needed, refused, asked):
    """Round 1 finds something at once, round 2 with ``needed`` slack only; the least that was refused is not asked again."""
    slacks, trained = [], []

    def trains(loaded, *arguments, **options):
        trained.append(arguments[4].name)
        return fine_tune(loaded, *arguments, **options)

    def finds(evaluator, options, *_):
        slacks.append(options.thresholds.slack)
        number, measured = evaluator.plan.changes(), evaluator.measure()
        enough = number == 0 or slacks[-1] >= needed
        plan = evaluator.plan.without(Target(0, "ffn.group", number)) if enough else evaluator.plan
        return SearchResult(plan, measured, measured, 1, 0.0)

    fine_tune = context.fine_tune
    monkeypatch.setattr(context, "fine_tune", trains)
    monkeypatch.setattr(rounds, "keeps_bound", lambda *_, **__: trained[-1] not in refused)
    monkeypatch.setattr(searches, "search", finds)
    run, messages = RunFolder(tmp_path / "run"), Messages()
    record = optimize(small[0].model_copy(update={"recover": 0.25, "rounds": 3}), run.path, progress=messages)
    assert slacks == asked
    kept = {1.0: 3, 0.5: 1, 9.0: 1}[needed]
    assert record.round == kept and run.read_plan().changes() == kept
    assert any("finds nothing more to remove" in text for text in messages.seen) == (kept == 1)


def test_trials_are_measured_on_some_rows_and_epochs_on_all(small, tmp_path, monkeypatch):
    tried, made = [], searches.Evaluator

    def evaluator(loaded, task, split, *arguments, **options):
        tried.append(split)
        return made(loaded, task, split, *arguments, **options)

    monkeypatch.setattr(searches, "Evaluator", evaluator)
    options = small[0].model_copy(update={"rounds": 1})
    whole = optimize(options, tmp_path / "whole")
    part = optimize(options.model_copy(update={"trial_rows": 20}), tmp_path / "part")
    assert [len(split) for split in tried] == [whole.selection_rows, 20] and whole.selection_rows > 20
    assert part.baseline == whole.baseline, "epochs and rounds are judged by all rows"
    rows = {sample.tobytes() for sample in tried[0].features["input_ids"]}
    assert {sample.tobytes() for sample in tried[1].features["input_ids"]} <= rows


@pytest.mark.parametrize(("rare", "used"), [(1, 400), (200, 20)])
def test_trials_are_measured_on_all_rows_where_some_have_but_one_label(rare, used):
    rows = [np.ones(3, np.int64)] * 400
    split = EncodedSplit({"input_ids": rows}, (np.arange(400) < rare).astype(np.int64), {"input_ids": 0})
    options, messages = SimpleNamespace(seed=0, trial_rows=20), Messages()
    splits = SimpleNamespace(selection=split)
    run = SimpleNamespace(options=options, run=None, splits=splits, progress=messages)
    assert len(searches.Searches(run, None, None, None, 3)._trial_rows) == used
    assert len(messages.seen) == (used == 400)


@pytest.mark.parametrize("is_enough", [True, False])
def test_what_judges_and_teaches_is_as_long_as_what_is_reported(small, tmp_path, monkeypatch, is_enough):
    asked, taught = [], []

    def all_but_three(lengths, wanted, seed):
        asked.append((len(lengths), len(wanted)))
        return np.arange(3, len(lengths))

    def noted(loaded, task, train, *rest, **options):
        taught.append(len(train))
        return fine_tune(loaded, task, train, *rest, **options)

    monkeypatch.setattr(stages, "as_long_as", all_but_three)
    monkeypatch.setattr("axform.toolchain.context.fine_tune", noted)
    if is_enough:
        monkeypatch.setattr(stages, "_FEWEST_LESSONS", 10)
    messages = Messages()
    options = small[0].model_copy(update={"rounds": 1})
    record = optimize(options, tmp_path / "run", progress=messages)
    assert record.acceptance.rows == record.acceptance_rows
    judging = (record.selection_rows, record.acceptance_rows)
    for (held_back, reported), left in zip(asked[:2], judging, strict=True):
        assert left == held_back - 3 and reported == record.report_rows
        assert any(f"{left} of {held_back} are as long" in text for text in messages.seen)
    everything = record.train_rows
    assert taught == [everything, everything - 3 * is_enough]
    assert any(f"{everything - 3} of {everything} are as long" in text for text in messages.seen) == is_enough


@pytest.mark.parametrize(("label", "used"), [(1, 600), (0, 300)])
def test_rows_as_long_as_what_is_reported_judge_unless_all_have_one_label(label, used):
    """Only the first half of the rows are as long."""

    def split(lengths, labels):
        return EncodedSplit({"input_ids": [np.ones(length, np.int64) for length in lengths]}, labels, {"input_ids": 0})

    rows, report = split([30] * 300 + [5] * 300, np.ones(600, np.int64)), split([30] * 100, np.arange(100) % 2)
    rows.labels[:150] = label
    rows.labels[300:] = 0
    assert len(stages.Stages._like_reported(rows, report, 0, Progress(), "judge")) == used


def test_without_a_round_that_keeps_the_bound_the_result_is_the_baseline(small, tmp_path, monkeypatch):
    monkeypatch.setattr("axform.toolchain.rounds.keeps_bound", lambda *_, **__: False)
    run = RunFolder(tmp_path / "run")
    record = optimize(small[0].model_copy(update={"recover": 0.0}), run.path)
    assert (record.rounds, record.round) == (1, 0)
    assert run.read_plan().changes() == 0 and record.report.estimate == 0
    assert FinishedRun(run).student.identity() == FinishedRun(run).baseline.identity()
    assert FinishedRun(run, step=1).plan.changes() > 0
    with pytest.raises(AxformError, match=r"--step 2: .* has the rounds 0 .* to 1"):
        FinishedRun(run, step=2)


def test_what_was_measured_is_what_is_saved(small, monkeypatch, tmp_path):
    """Also where the training runs in bf16."""
    run = RunFolder(tmp_path / "run")
    record = optimize(small[0].model_copy(update={"bf16": True}), run.path)
    whole = FinishedRun(run)
    data = settle_task_data(small[0])
    split = encode(data.task, data.selection, whole.student.tokenizer, whole.student.inputs, 64)
    for loaded, plan, expected in (
        (whole.student, whole.plan, record.final),
        (whole.baseline, whole.plan.empty(whole.baseline.identity(), 16), record.baseline),
    ):
        evaluator = Evaluator(loaded, data.task, split, plan, batch_size=small[0].batch_size)
        assert evaluator.measure() == expected
        evaluator.close()
        assert "forward" not in vars(loaded.model)


def test_an_overwritten_run_stays_until_the_new_one_is_finished(small, copy, tmp_path):
    class Interrupted(Progress):
        def stage(self, title):
            if title.startswith("searching"):
                raise KeyboardInterrupt

    options, before = small[0].model_copy(update={"seed": 3}), outcome(copy)
    with pytest.raises(KeyboardInterrupt):
        optimize(options, copy.path, overwrite=True, progress=Interrupted())
    assert outcome(copy) == before and copy.replacement.is_started()
    optimize(options, copy.path, resume=True)
    assert copy.read_record().options.seed == 3 and copy.missing() is None
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


@pytest.mark.parametrize("loss", [float("nan"), float("inf"), -float("inf")])
def test_a_trial_without_a_finite_loss_is_written_so_that_it_reads_back(loss):
    record = TrialRecord(
        trial=0, element="layer.0.ffn", change="prune", loss=loss, metric=0.5, verdict=Verdict.RETAIN, seconds=1.0
    )
    line = record.model_dump_json()
    json.loads(line, parse_constant=pytest.fail)
    np.testing.assert_equal(TrialRecord.model_validate_json(line).loss, loss)


def test_exporting_over_a_bundle_of_another_run_keeps_it_until_the_new_one_is_whole(small, copy, finished, tmp_path):
    bundle = Path(shutil.copytree(finished[1], tmp_path / "bundle"))
    truncate(copy.round(1).model / "model.safetensors")
    with pytest.raises(AxformError):
        export(copy.path, bundle, overwrite=True)
    Bundle(bundle).verify()


def test_confidence_asks_for_the_end_of_the_interval(small, tmp_path):
    """The same round, on rows too few to be sure of it."""
    run = RunFolder(tmp_path / "run")
    sure = optimize(small[0].model_copy(update={"confidence": 0.99, "max_drop": 0.02, "rounds": 1}), run.path)
    change = run.round(1).read_record().change
    assert change.resolution > 0.02 and sure.round == 0 and sure.acceptance.estimate == 0
