"""Runs with several teachers, and runs that start from another run."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from axform import cli
from axform.errors import AxformError
from axform.seals import record_files
from axform.toolchain.optimize import optimize
from axform.toolchain.options import OptimizeOptions
from axform.toolchain.run_folder import RunFolder
from support import run_command, save_pretrained_only

TEACHERS = 3


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory):
    return save_pretrained_only(tmp_path_factory.mktemp("models") / "pretrained")


@pytest.fixture(scope="module")
def options(pretrained, sentiment):
    return OptimizeOptions(
        model=str(pretrained),
        task="text-classification",
        data=str(sentiment),
        focus="accuracy",
        teachers=TEACHERS,
        learning_rate=3e-3,
        baseline_epochs=3,
        final_epochs=1,
        rounds=2,
        group_size=16,
        max_drop=0.05,
    )


@pytest.fixture(scope="module")
def run(options, tmp_path_factory) -> RunFolder:
    """A finished run of the accuracy focus. Tests must not change it."""
    folder = tmp_path_factory.mktemp("runs") / "accuracy"
    optimize(options, folder)
    return RunFolder(folder)


def test_the_first_round_of_the_accuracy_focus_only_learns(run):
    first = run.round(1)
    assert first.read_plan().changes() == 0 and first.read_record().trials == 0
    assert record_files(first.model)["model.safetensors"] != record_files(run.baseline)["model.safetensors"]
    weights = {record_files(folder)["model.safetensors"].sha256 for folder in teachers(run)}
    assert len(weights) == TEACHERS - 1, "each teacher has a seed of its own"


def teachers(run: RunFolder) -> list[Path]:
    return [run.teacher(number) for number in range(1, TEACHERS)]


def test_a_run_whose_teachers_are_lost_makes_the_same_ones_again(run, options, tmp_path):
    again = RunFolder(Path(shutil.copytree(run.path, tmp_path / "again")))
    for folder in (*teachers(again), again.round(1).path, again.round(2).path):
        shutil.rmtree(folder, ignore_errors=True)
    again.record_path.unlink()
    optimize(options, again.path, resume=True)
    assert [record_files(folder) for folder in teachers(again)] == [record_files(folder) for folder in teachers(run)]
    assert not again.read_record().is_other_than(run.read_record())


def test_the_largest_seed_has_teachers_too(options, tmp_path):
    changes = {
        "seed": (1 << 32) - 1,
        "teachers": 2,
        "baseline_epochs": 1,
        "rounds": 1,
        "train_samples": 100,
        "max_drop": 1.0,
    }
    optimize(options.model_copy(update=changes), tmp_path / "run")
    run = RunFolder(tmp_path / "run")
    assert record_files(run.teacher(1))["model.safetensors"] != record_files(run.baseline)["model.safetensors"]


def from_run(run: RunFolder, options: OptimizeOptions, **changes) -> OptimizeOptions:
    return options.model_copy(update={"model": str(run.path), "baseline_epochs": None, **changes})


def test_another_focus_goes_on_from_the_kept_round_of_a_run(run, options, tmp_path):
    record = optimize(from_run(run, options, focus="speed", rounds=1), tmp_path / "speed")
    speed = RunFolder(tmp_path / "speed")
    assert record.baseline_fingerprint == run.read_record().baseline_fingerprint
    assert [record_files(folder) for folder in teachers(speed)] == [record_files(folder) for folder in teachers(run)]
    taken, kept = speed.round(1), run.round(run.read_record().round)
    weights = [record_files(folder)["model.safetensors"] for folder in (taken.model, kept.model)]
    assert run.read_record().round > 0 and weights[0] == weights[1]
    assert taken.read_plan().parts == kept.read_plan().parts and taken.read_plan().focus == "speed"
    assert taken.read_record().start == 0 and taken.read_record().change == kept.read_record().change
    searched = speed.round(2)
    assert searched.read_record().start == 1 and searched.read_plan().changes() > taken.read_plan().changes()

    for folder in (speed.teacher(1), taken.path, searched.path):
        shutil.rmtree(folder)
    speed.record_path.unlink()
    optimize(from_run(run, options, focus="speed", rounds=1), speed.path, resume=True)
    assert not speed.read_record().is_other_than(record)


def test_a_run_that_several_teach_learns_before_it_removes(options, tmp_path):
    optimize(options.model_copy(update={"focus": "speed", "rounds": 2}), tmp_path / "speed")
    speed = RunFolder(tmp_path / "speed")
    assert speed.round(1).read_plan().changes() == 0 and speed.round(1).read_record().trials == 0
    assert speed.round(2).read_plan().changes() > 0
    assert speed.round(2).read_record().start == int(speed.round(1).read_record().is_accepted)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"teachers": TEACHERS + 1}, f"its teacher {TEACHERS + 1} is not there whole; it has {TEACHERS}"),
        ({"baseline_epochs": 1}, "--baseline-epochs: .* is a run, whose baseline is taken as it is"),
        ({"seed": 1}, "was made with other rows in its train split; give the same --data, --seed"),
        ({"report_samples": 40}, "was made with other rows in its report split"),
        ({"group_size": 8}, "--group-size 8: .* has groups of 16; leave the option out"),
    ],
    ids=lambda value: "" if isinstance(value, str) else next(iter(value)),
)
def test_what_a_run_cannot_start_from_another_with(run, options, tmp_path, changes, message):
    with pytest.raises(AxformError, match=message):
        optimize(from_run(run, options, **changes), tmp_path / "other")
    assert not (tmp_path / "other").exists()


def test_a_run_without_a_baseline_is_no_start(run, options, tmp_path):
    begun = RunFolder(Path(shutil.copytree(run.path, tmp_path / "begun")))
    shutil.rmtree(begun.baseline)
    with pytest.raises(AxformError, match="its baseline is not there whole; continue that run with --resume first"):
        optimize(from_run(begun, options), tmp_path / "other")


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        ((), "the model is taken as the baseline as it is, so no others like it can be trained"),
        (("--no-distill",), "nothing is taught with --no-distill; leave one of them out"),
        (("--final-epochs", 0), "nothing is taught with --final-epochs 0; leave one of them out"),
    ],
)
def test_teachers_that_cannot_be_had(run, options, tmp_path, capsys, extra, message):
    words = ["--task", options.task, "--data", options.data, "--teachers", 2, "--out", tmp_path / "other", *extra]
    code, captured = run_command(capsys, "optimize", run.baseline, *words, app=cli)
    assert code == 2 and message in " ".join(captured.err.split())
    assert not (tmp_path / "other").exists()
