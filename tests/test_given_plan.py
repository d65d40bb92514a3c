"""A plan that did not come from a run: exported with the model it is for, and refused with anything else."""

from __future__ import annotations

import json
import shutil

import numpy as np
import onnxruntime
import pytest
import torch
from axform.errors import AxformError
from axform.exporters import cli as export_cli
from axform.exporters import export_plan, given_plan
from axform.exporters.rewrites import REWRITES
from axform.runtime.bundle import Bundle
from axform.runtime.parity import check_bundle
from axform.toolchain.models import fingerprint, load_fine_tuned
from axform.toolchain.options import DEFAULTS
from support import run_command, save_pretrained_only, save_tiny

MODEL = {"family": "bert", "num_layers": 2, "num_heads": 4, "hidden_size": 32, "intermediate_size": 64}
PARTS = [
    {"target": "layer.1.ffn", "action": "remove"},
    {"target": "layer.0.attn.head.2", "action": "remove"},
    {"target": "layer.0.attn.in.group.1", "action": "remove"},
    {"target": "layer.1.attn", "action": "attention", "kind": "sign_matching", "k": 4},
]
TASK = ("--task", "text-classification")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return save_tiny(tmp_path_factory.mktemp("model") / "tuned")


@pytest.fixture
def written(tmp_path):
    """Writes a plan by hand, some of it replaced; returns its path."""

    def write(**values):
        path = tmp_path / "plan.json"
        plan = {"schema_version": 2, "model": MODEL, "group_size": 16, "parts": PARTS} | values
        path.write_text(json.dumps({name: value for name, value in plan.items() if value != "left out"}))
        return path

    return write


@pytest.fixture
def refused(capsys, tmp_path, sentiment, model):
    """The error of an export that fails, which leaves nothing behind."""

    def call(plan, *extra, source=model, out=tmp_path / "bundle", task=TASK):
        arguments = [source, "--plan", plan, "--out", out, "--data", sentiment, *task, *extra]
        code, captured = run_command(capsys, *arguments, app=export_cli)
        assert code == 2 and "Traceback" not in captured.err and not (out / "axform.json").exists()
        return " ".join(captured.err.split("error: ")[-1].split())

    return call


def test_a_plan_written_by_hand_becomes_a_bundle_that_proves_itself(capsys, written, tmp_path, sentiment, model):
    out = tmp_path / "bundle"
    flags = ["--plan", written(), "--out", out, *TASK, "--data", sentiment, "--max-drop", 1]
    code, captured = run_command(capsys, model, *flags, app=export_cli)
    assert code == 0, captured.err
    bundle, loaded = Bundle(out), load_fine_tuned(model)
    manifest = bundle.manifest
    assert manifest.step is manifest.round is manifest.run is None
    assert manifest.max_drop == 1 and manifest.task == "text-classification"
    assert manifest.plan.model.fingerprint == fingerprint(loaded.model) and manifest.plan.changes() == 4
    places = [place for rewrite in manifest.rewrites if rewrite.rewrite in REWRITES for place in rewrite.changes]
    assert ("layer 1 FFN", "skipped") in places and len(places) == 4
    assert [rewrite.rewrite for rewrite in manifest.rewrites][-3:] == ["key_mask", "attention_3d", "first_token"]
    removed = sum(rewrite.parameters_removed for rewrite in manifest.rewrites)
    assert manifest.baseline_size.parameters - manifest.model_size.parameters == removed > 0
    assert str(tmp_path) not in (out / "axform.json").read_text()

    report = check_bundle(bundle)
    assert report.passed and report.numeric.samples == 64 and report.task.samples == 80
    session = onnxruntime.InferenceSession(out / "baseline.onnx")
    feeds = {entry.name: np.ones((2, 5), dtype=np.int64) for entry in session.get_inputs()}
    with torch.inference_mode():
        wanted = loaded.model(**{name: torch.from_numpy(value) for name, value in feeds.items()}).logits.numpy()
    np.testing.assert_allclose(session.run(["logits"], feeds)[0], wanted, atol=1e-4, rtol=0)
    code, captured = run_command(capsys, "bench", out, "--batch", 1, "--seq", 8, "--runs", 3)
    assert code == 0 and "1 x 8" in captured.out

    code, captured = run_command(capsys, model, *flags, app=export_cli)
    assert code == 2 and "the folder is not empty; name another --out, or replace it" in " ".join(captured.err.split())
    shutil.copy(written(), out / "plan.json")
    with pytest.raises(AxformError, match="cannot be replaced, since it overlaps the plan"):
        export_plan(str(model), out / "plan.json", out, task="text-classification", overwrite=True)


def test_a_plan_that_names_its_task_and_weights_needs_neither_said(written, tmp_path, sentiment, model, monkeypatch):
    monkeypatch.setattr(given_plan, "export_source", lambda read, *_, **__: read())
    named = MODEL | {"fingerprint": fingerprint(load_fine_tuned(model).model)}
    path = written(model=named, task="text-classification")
    source = export_plan(str(model), path, tmp_path / "bundle", data=str(sentiment), max_length=8)
    assert source.promise.task == "text-classification" and source.promise.labels == ("LABEL_0", "LABEL_1")
    assert source.student is source.baseline and source.promise.max_drop == DEFAULTS["max_drop"]
    assert len(source.promise.report) == 80 and source.promise.report.lengths.max() == 8


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"model": MODEL | {"family": "roberta"}}, "a plan for another model: its family is roberta, that of"),
        ({"model": MODEL | {"num_layers": 4}}, "a plan for another model: its num_layers is 4, that of"),
        (
            {"model": MODEL | {"fingerprint": "0" * 64}},
            "give the model that it was made for, or leave the fingerprint out if the plan is for other weights, too.",
        ),
        (
            {"parts": [{"target": "layer.7.ffn", "action": "remove"}]},
            "plan.json: there is no layer.7.ffn: the model has 2 layers, counted from 0.",
        ),
        (
            {"parts": [*PARTS, {"target": "layer.1.ffn.group.0", "action": "remove"}]},
            "plan.json: layer.1.ffn: remove and layer.1.ffn.group.0: remove contradict each other",
        ),
        (
            {"parts": [{"target": "layer.1.ffn", "action": "quantize"}]},
            "plan.json: parts.0: Input tag 'quantize' found",
        ),
        ({"parts": "left out"}, "plan.json: parts: Field required"),
        ({"schema_version": 99}, "plan.json: schema 99 is newer than this axform understands (2); update axform."),
    ],
)
def test_plans_that_cannot_be_exported(refused, written, values, message):
    assert message in refused(written(**values))


def test_a_plan_without_a_task(refused, written):
    text = refused(written(), task=())
    assert text.endswith("plan.json: names no task; say which with --task.")
    assert "task 'glue/none' is not known" in refused(written(task="glue/none"), task=())
    assert "task '' is not known" in refused(written(task="glue/sst2"), task=("--task", ""))


def test_a_plan_that_cannot_be_read(refused, written, tmp_path):
    assert "none.json: no such file; restore it" in refused(tmp_path / "none.json")
    written().write_text("{ not json")
    assert "plan.json: damaged (not readable as JSON" in refused(tmp_path / "plan.json")


def test_models_that_cannot_be_exported(refused, written, tmp_path):
    untrained = save_pretrained_only(tmp_path / "untrained")
    text = refused(written(), source=untrained)
    assert (
        "has no trained sequence classification head; give a model that was fine-tuned for text-classification" in text
    )
    assert "model 'no/such-model': not a folder here" in refused(written(), source="no/such-model")
    assert "its task head has 2 labels" in refused(written(), task=("--task", "text-regression"))


def test_options_that_do_not_go_together(capsys, refused, written, tmp_path):
    assert "--step 1: is a round of a run; leave it out with --plan." in refused(written(), "--step", 1)
    assert "--max-drop: Input should be less than or equal to 1 (found 1.5)." in refused(written(), "--max-drop", 1.5)
    assert "--max-length: 2 tokens are too few" in refused(written(), "--max-length", 2)
    arguments = [tmp_path / "run", "--out", tmp_path / "bundle", "--max-drop", 0.1, "--label-column", "stars"]
    code, captured = run_command(capsys, *arguments, app=export_cli)
    assert code == 2 and "--label-column, --max-drop: only with --plan" in " ".join(captured.err.split())
