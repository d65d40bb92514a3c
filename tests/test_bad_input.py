"""A user's mistake gives one clear error that says what, where and what to do; nothing half-written stays."""

from __future__ import annotations

import errno
import json
import shutil
import sys
from pathlib import Path

import pytest
from axform import cli
from axform.exporters import cli as export_cli
from axform.seals import seal
from axform.toolchain.run_folder import RunFolder
from support import run_command, save_pretrained_only, save_tiny, sentiment_rows


def run(capsys, *arguments, app=cli):
    """Run a command in this process: (exit code, what it printed on stderr, line breaks folded)."""
    code, captured = run_command(capsys, *arguments, app=app)
    assert "Traceback" not in captured.err + captured.out
    return code, " ".join(captured.err.split())


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory):
    return save_pretrained_only(tmp_path_factory.mktemp("models") / "pretrained")


@pytest.fixture
def optimize(capsys, tmp_path, pretrained, sentiment):
    """`axform optimize` with good arguments, some of them replaced; returns the error text of a failed call."""

    def call(model=pretrained, task="text-classification", data=sentiment, out=tmp_path / "run", extra=()):
        code, text = run(capsys, "optimize", model, "--task", task, "--data", data, "--out", out, *extra)
        assert code == 2 and "error" in text.lower(), (code, text)
        assert not (out / "options.json").exists() or "started with" in text
        return text

    return call


def test_unknown_model_path(optimize):
    assert "model 'no/such-model': not a folder here" in optimize(model="no/such-model")


def test_folder_without_a_model(optimize, tmp_path):
    assert "give a hub name or a folder with config.json" in optimize(model=tmp_path)


def test_unknown_family(optimize, tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "mpnet"}')
    text = optimize(model=tmp_path)
    assert "model family 'mpnet' is not supported; supported families: bert, distilbert, electra, roberta" in text


def test_model_without_a_trained_head_and_no_fine_tuning(optimize):
    assert "no trained sequence classification head" in optimize(extra=["--baseline-epochs", "0"])


def test_head_of_another_task(optimize, tmp_path):
    model = save_tiny(tmp_path / "model", num_labels=3)
    text = optimize(model=model)
    assert "its task head has 3 labels (LABEL_0, LABEL_1, LABEL_2)" in text and "has 2" in text


def test_labels_in_another_order(optimize, tmp_path):
    model = save_tiny(tmp_path / "model")
    config = json.loads((model / "config.json").read_text())
    config["id2label"] = {"0": "POSITIVE", "1": "NEGATIVE"}
    (model / "config.json").write_text(json.dumps(config))
    text = optimize(model=model, task="sst2")
    assert "its labels are ordered POSITIVE, NEGATIVE, but task glue/sst2 numbers them negative, positive" in text


def test_unknown_task(optimize):
    text = optimize(task="glue/sst3")
    assert "task 'glue/sst3' is not known; known tasks: glue/cola, glue/sst2" in text


def test_missing_data_folder(optimize, tmp_path):
    assert "no such folder; --data names the folder" in optimize(data=tmp_path / "none")


def test_missing_split(optimize, tmp_path):
    sentiment_rows(9).to_csv(tmp_path / "train.csv", index=False)
    text = optimize(data=tmp_path)
    assert "split 'validation' is missing; found train.csv, expected validation.*" in text


def test_missing_column(optimize, tmp_path):
    for split in ("train", "validation"):
        sentiment_rows(9).rename(columns={"label": "stars"}).to_json(
            tmp_path / f"{split}.jsonl", orient="records", lines=True
        )
    text = optimize(data=tmp_path, task="sst2")
    assert "column label missing for task glue/sst2; found sentence, stars, expected sentence, label" in text


def test_no_text_column_recognised(optimize, tmp_path):
    for split in ("train", "validation"):
        sentiment_rows(9).rename(columns={"sentence": "review"}).to_csv(tmp_path / f"{split}.csv", index=False)
    text = optimize(data=tmp_path)
    assert "no text column recognised; found columns review, label" in text and "--text-columns" in text


def test_empty_split(optimize, tmp_path):
    sentiment_rows(9).to_parquet(tmp_path / "train.parquet")
    sentiment_rows(0).to_parquet(tmp_path / "validation.parquet")
    assert "validation.parquet: the split is empty" in optimize(data=tmp_path)


def test_unreadable_file(optimize, tmp_path):
    (tmp_path / "train.parquet").write_text("not parquet")
    assert "train.parquet: cannot be read as parquet" in optimize(data=tmp_path)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--focus", "fast"], "'fast' is not one of"),
        (["--max-drop", "-1"], "--max-drop: Input should be greater than or equal to 0"),
        (["--group-size", "512"], "--group-size 512: larger than the model's 32 features"),
        (["--text-columns", "a,b,c"], "--text-columns names 3 columns"),
        (["--train-samples", "1"], "train.parquet: 1 rows to train on are too few"),
    ],
)
def test_bad_options(optimize, flags, message, tmp_path):
    extra = [*flags, "--baseline-epochs", "1"] if "--group-size" in flags else flags
    assert message in optimize(extra=extra)


def test_output_folder_not_empty(optimize, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "precious").write_text("data")
    assert "the folder is not empty; name another --out, or replace it with --overwrite" in optimize()
    assert (tmp_path / "run" / "precious").read_text() == "data"


def test_output_is_a_file(optimize, tmp_path):
    (tmp_path / "run").write_text("data")
    assert "is a file" in optimize()


def test_output_not_writable(optimize, monkeypatch):
    def refuse(*_, **__):
        raise OSError(errno.EACCES, "Permission denied")  # tests may run as root, who may write anywhere

    monkeypatch.setattr("tempfile.TemporaryFile", refuse)
    assert "cannot be written (Permission denied); choose a folder you may write to" in optimize()


def test_resume_with_other_options(optimize, tmp_path, finished):
    shutil.copytree(finished[0], tmp_path / "run")
    text = optimize(extra=["--resume"])
    assert "was started with model =" in text and "start again with --overwrite" in text


def export(capsys, run_folder, out, *extra):
    return run(capsys, run_folder, "--out", out, *extra, app=export_cli)


@pytest.fixture
def run_copy(finished, tmp_path):
    return Path(shutil.copytree(finished[0], tmp_path / "run"))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda plan: "{ not json", "plan.json: damaged (not readable as JSON"),
        (
            lambda plan: json.dumps(plan | {"parts": [{"target": "layer.3.ffn", "action": "remove"}]}),
            "there is no layer.3.ffn: the model has 3 layers, counted from 0",
        ),
        (
            lambda plan: json.dumps(plan | {"model": plan["model"] | {"fingerprint": "0" * 64}}),
            "is of another run: the plan's model is",
        ),
    ],
)
def test_bad_plan(capsys, run_copy, tmp_path, damage, message):
    replace_plan(run_copy, damage)
    code, text = export(capsys, run_copy, tmp_path / "bundle")
    assert code == 2 and message in text
    assert not (tmp_path / "bundle").exists()


def replace_plan(run_folder, damage):
    """Change the plan of a finished run as if it had been written so."""
    counts = RunFolder(run_folder).round(RunFolder(run_folder).read_record().round)
    counts.plan_path.write_text(damage(json.loads(counts.plan_path.read_text())))
    seal(counts.path)


def test_run_that_is_not_finished_or_not_a_run(capsys, run_copy, tmp_path):
    assert "not a run folder" in export(capsys, tmp_path, tmp_path / "bundle")[1]
    assert "no such folder" in export(capsys, tmp_path / "none", tmp_path / "bundle")[1]
    (run_copy / "run.json").unlink()
    assert "the run is not finished; continue it with the same" in export(capsys, run_copy, tmp_path / "bundle")[1]


def test_disk_full_leaves_nothing_under_the_final_name(capsys, run_copy, tmp_path, monkeypatch):
    import axform.exporters.export as module

    def full(proto, path, *_):
        path.write_bytes(b"half of it")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(module, "save_onnx", full)
    code, text = export(capsys, run_copy, tmp_path / "bundle")
    assert code == 2 and "no space left while writing" in text
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run"]


def test_disk_full_keeps_the_bundle_that_was_there(capsys, run_copy, finished, tmp_path, monkeypatch):
    import axform.exporters.export as module

    shutil.copytree(finished[1], tmp_path / "bundle")
    monkeypatch.setattr(module, "record_files", lambda path: (_ for _ in ()).throw(OSError(errno.ENOSPC, "full")))
    assert export(capsys, run_copy, tmp_path / "bundle", "--overwrite")[0] == 2
    assert (tmp_path / "bundle" / "axform.json").exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bundle", "run"]


def test_bundle_changed_after_the_export(capsys, finished, tmp_path):
    bundle = Path(shutil.copytree(finished[1], tmp_path / "bundle"))
    content = bytearray((bundle / "model.onnx").read_bytes())
    content[len(content) // 2] ^= 1
    (bundle / "model.onnx").write_bytes(bytes(content))
    for command in ("check", "bench"):
        code, text = run(capsys, command, bundle)
        assert code == 2 and "model.onnx is not as it was written" in text


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: (folder / "axform.json").unlink(), "not a bundle (no axform.json)"),
        (lambda folder: (folder / "axform.json").write_text("{"), "axform.json: damaged"),
        (lambda folder: (folder / "check.npz").unlink(), "check.npz: missing from the bundle"),
    ],
)
def test_damaged_bundle(capsys, finished, tmp_path, damage, message):
    bundle = Path(shutil.copytree(finished[1], tmp_path / "bundle"))
    damage(bundle)
    code, text = run(capsys, "check", bundle)
    assert code == 2 and message in text


def test_no_onnxruntime(capsys, finished, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    code, text = run(capsys, "check", finished[1])
    assert code == 2 and "onnxruntime is not installed; run `pip install 'axform[cpu]'`" in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--batch", "1,x"], "--batch 1,x: give positive whole numbers"),
        (["--seq", "0"], "--seq 0: give positive whole numbers"),
        (["--seq", "4096"], "--seq 4096: the model takes at most 64 tokens"),
        (["--provider", "tpu"], "'tpu' is not one of"),
    ],
)
def test_bad_bench_arguments(capsys, finished, arguments, message):
    code, text = run(capsys, "bench", finished[1], *arguments)
    assert code == 2 and message in text


def test_cuda_without_a_cuda_onnxruntime(capsys, finished):
    import onnxruntime

    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("onnxruntime-gpu is installed")
    assert (
        "provider cuda: the installed onnxruntime offers" in run(capsys, "check", finished[1], "--provider", "cuda")[1]
    )
