"""The size focus, end to end: a round that gives weights fewer bits, what it leaves on disk, and what is refused."""

from __future__ import annotations

import json
import shutil

import onnx
import pytest
from axform.core.plan import Bits
from axform.core.targets import Target
from axform.errors import AxformError
from axform.exporters import cli as export_cli
from axform.exporters.annotations import annotations_of
from axform.exporters.export import export
from axform.runtime.bundle import Bundle
from axform.runtime.parity import check_bundle
from axform.toolchain import context, rounds, searches
from axform.toolchain.optimize import optimize
from axform.toolchain.options import USED_BY, OptimizeOptions
from axform.toolchain.run_folder import RunFolder
from axform.toolchain.trials import SearchResult
from support import run_command, save_tiny


@pytest.fixture(scope="module")
def options(finished):
    """Of a run that goes on from a finished one and removes nothing more."""
    return OptimizeOptions(
        model=str(finished[0]),
        task="text-classification",
        focus="size",
        data=RunFolder(finished[0]).read_record().options.data,
        learning_rate=3e-3,
        final_epochs=1,
        group_size=16,
        max_drop=1.0,
        rounds=0,
        fewest_bits=3,
    )


@pytest.fixture(scope="module")
def sized(options, tmp_path_factory):
    run = RunFolder(tmp_path_factory.mktemp("sized") / "run")
    optimize(options, run.path)
    return run


def test_weights_learn_to_do_with_fewer_bits(finished, options, sized, tmp_path):
    """The round starts from what the other run kept, removes nothing, and its file is as small as its codes."""
    before, record, plan = RunFolder(finished[0]).read_plan(), sized.read_record(), sized.read_plan()
    assert (record.rounds, record.round) == (3, 3) and plan.focus == "size"
    removed = {part for part in plan.parts if not isinstance(part, Bits)}
    assert removed == {*before.parts} and plan.rest is not None and plan.rest.bits < 8
    assert plan.model.fingerprint != sized.round(1).read_plan().model.fingerprint

    bundle, reports = export(sized.path, tmp_path / "bundle")
    assert check_bundle(bundle).passed
    manifest, proto = bundle.manifest, onnx.load(bundle.model)
    told = {one.tensor: one for one in annotations_of(proto.graph)}
    assert {code.tensor: code.bits for code in manifest.codes} == {name: one.bits for name, one in told.items()}
    assert manifest.model_size.parameters == Bundle(finished[1]).manifest.model_size.parameters
    matrices = [tensor for tensor in proto.graph.initializer if len(tensor.dims) > 1]
    left_as_floats = [tensor.name for tensor in matrices if tensor.data_type == onnx.TensorProto.FLOAT]
    assert all("scales" in name for name in left_as_floats)
    assert sum(report.rewrite == "quantize" and bool(report.done) for report in reports) == 1
    floats, _ = export(sized.path, tmp_path / "floats", step=1)
    assert floats.manifest.codes == [] and bundle.model.stat().st_size < floats.model.stat().st_size

    again = RunFolder(shutil.copytree(sized.path, tmp_path / "again"))
    again.record_path.unlink()
    shutil.rmtree(again.round(3).path)  # killed in its last fine-tuning
    optimize(options, again.path, resume=True)
    assert again.read_plan() == plan


def test_a_refused_round_is_tried_with_half_the_slack(options, tmp_path, monkeypatch):
    trained = []

    def trains(loaded, *arguments, **kept):
        trained.append(arguments[4].name)
        return fine_tune(loaded, *arguments, **kept)

    fine_tune = context.fine_tune
    monkeypatch.setattr(context, "fine_tune", trains)
    monkeypatch.setattr(rounds, "keeps_bound", lambda *_, **__: not trained)
    run = RunFolder(tmp_path / "run")
    optimize(options, run.path)
    records = [run.round(number).read_record() for number in range(2, 5)]
    assert [(record.start, record.slack, record.is_accepted) for record in records] == [
        (1, 0.25, False),
        (1, 0.125, False),
        (1, 0.0625, False),
    ]
    assert run.read_record().round == 1 and run.read_plan().rest is None


def test_a_search_for_bits_that_finds_nothing_is_made_again_with_more(options, tmp_path, monkeypatch):
    """The first is refused, the second kept with half the slack, the third finds nothing with that."""
    slacks, trained = [], []

    def trains(loaded, *arguments, **kept):
        trained.append(arguments[4].name)
        return fine_tune(loaded, *arguments, **kept)

    def finds(evaluator, search_options, *_):
        slacks.append(search_options.thresholds.slack)
        measured, fewer = evaluator.measure(), Bits(target=Target.outside("rest"), bits=8)
        plan = evaluator.plan.with_part(fewer) if len(slacks) < 3 else evaluator.plan
        return SearchResult(plan, measured, measured, 1, 0.0)

    fine_tune = context.fine_tune
    monkeypatch.setattr(context, "fine_tune", trains)
    monkeypatch.setattr(rounds, "keeps_bound", lambda *_, **__: trained[-1:] != ["round-2-training"])
    monkeypatch.setattr(searches, "bits_search", finds)
    optimize(options, tmp_path / "run")
    assert slacks == [0.25, 0.125, 0.125, 0.25]
    assert RunFolder(tmp_path / "run").read_record().round == 3


def test_without_the_size_focus_no_round_is_nothing_to_do(tmp_path, capsys):
    words = ["optimize", "m", "--task", "t", "--out", tmp_path / "run", "--rounds", 0]
    code, captured = run_command(capsys, *words)
    assert code == 2 and "--rounds: Value error, 0 rounds leave nothing to do" in " ".join(captured.err.split())
    code, captured = run_command(capsys, *words[:-2], "--focus", "size", "--fewest-bits", 1)
    assert code == 2 and "--fewest-bits" in captured.err and list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("option", USED_BY)
def test_an_option_of_another_focus_is_not_ignored(option, tmp_path):
    other = {
        "fewest_bits": 3,
        "sign_matching": "off",
        "selection": "count",
        "ffn_groups": "contiguous",
        "attention_groups": "any",
    }
    values = {option: other[option], "focus": "speed" if USED_BY[option] == "size" else "size"}
    with pytest.raises(
        AxformError, match=rf"--{option.replace('_', '-')} {other[option]}: only --focus {USED_BY[option]} "
    ):
        optimize(OptimizeOptions(model=str(tmp_path), task="sst2", **values), tmp_path / "run")
    assert list(tmp_path.iterdir()) == []


def test_a_plan_by_hand_gives_weights_their_bits(tmp_path, sentiment, capsys):
    model, plan = save_tiny(tmp_path / "model"), tmp_path / "plan.json"
    shape = {"family": "bert", "num_layers": 2, "num_heads": 4, "hidden_size": 32, "intermediate_size": 64}
    parts = [
        {"target": "rest", "action": "bits", "bits": 8},
        {"target": "embeddings.word", "action": "bits", "bits": 4},
        {"target": "layer.1.ffn", "action": "bits", "bits": 6, "group": 24},
    ]
    plan.write_text(json.dumps({"schema_version": 2, "model": shape, "group_size": 16, "parts": parts}))
    words = [model, "--plan", plan, "--task", "text-classification", "--data", sentiment, "--max-drop", 1, "--out"]
    code, captured = run_command(capsys, *words, tmp_path / "bundle", app=export_cli)
    assert code == 0, captured.err
    bundle = Bundle(tmp_path / "bundle")
    assert check_bundle(bundle).passed
    assert bundle.manifest.plan.bits_of(Target.parse("layer.1.ffn")).bits == 6
    by_module = {code.module: code.bits for code in bundle.manifest.codes}
    assert by_module["bert.embeddings.word_embeddings"] == 4 and by_module["classifier"] == 8
    assert by_module["bert.encoder.layer.1.output.dense"] == 6
    code, captured = run_command(capsys, "inspect", bundle.path, "--json", tmp_path / "told.json")
    told = json.loads((tmp_path / "told.json").read_text())
    assert code == 0 and "UINT8, codes of 6 bits" in captured.out
    by_name = {tensor["name"]: tensor for tensor in told["weights"]}
    for stored in bundle.manifest.codes:
        assert (by_name[stored.tensor]["bits"], by_name[stored.tensor]["shape"]) == (stored.bits, [*stored.shape])
