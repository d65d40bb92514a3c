"""float16 and bfloat16: the weights are the nearest ones, answers stay, and what 16 bits cannot say is refused."""

from __future__ import annotations

import random

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from axform import cli
from axform.exporters import cli as export_cli
from axform.exporters.export import export
from axform.exporters.given_plan import export_plan
from axform.exporters.passes import LAYOUT, Subject, run_passes, to_half
from axform.exporters.same_form import baseline_in_same_form
from axform.exporters.scoped_graph import ScopedGraph
from axform.runtime.bundle import Bundle
from onnx.reference import ReferenceEvaluator
from support import FAMILIES, plan_of, random_batch, run_command, save_tiny, tiny_model

HALF = {"fp16": onnx.TensorProto.FLOAT16, "bf16": onnx.TensorProto.BFLOAT16}
BITS_OF_THE_FRACTION = {"fp16": 11, "bf16": 8}


def converted(loaded, proto: onnx.ModelProto, kind: str) -> onnx.ModelProto:
    graph = ScopedGraph(proto)
    before = graph.parameters()
    reports = run_passes(graph, (*LAYOUT, kind), Subject(plan_of(loaded.identity(), 8), loaded.family))
    assert not reports[-1].refused and graph.parameters() == before
    return graph.to_proto()


def rounded(values: np.ndarray, kind: str) -> np.ndarray:
    """To the nearest number of so many bits, ties to even, in float64: none of the weights here is subnormal in bf16."""
    exponent = np.floor(np.log2(np.abs(np.where(values == 0, 1, values)).astype(np.float64)))
    exponent = np.maximum(exponent, -14 if kind == "fp16" else -126)
    step = np.exp2(exponent - (BITS_OF_THE_FRACTION[kind] - 1))
    return np.rint(values / step) * step


@pytest.mark.parametrize("kind", HALF)
@pytest.mark.parametrize("family", FAMILIES)
def test_weights_are_the_nearest_of_16_bits(exported, family, kind):
    loaded, proto = exported[family]
    smaller = converted(loaded, proto, kind)
    onnx.checker.check_model(smaller, full_check=True)
    full = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in proto.graph.initializer}
    floats = [tensor for tensor in smaller.graph.initializer if tensor.name.endswith(f".{kind}")]
    assert floats and all(tensor.data_type == HALF[kind] for tensor in floats)
    assert all(tensor.data_type != onnx.TensorProto.FLOAT for tensor in smaller.graph.initializer)
    for tensor in floats:
        stored = onnx.numpy_helper.to_array(tensor).astype(np.float64)
        np.testing.assert_array_equal(stored, rounded(full[tensor.name.removesuffix(f".{kind}")], kind))
    (output,) = smaller.graph.output
    assert output.name == "logits" and output.type.tensor_type.elem_type == onnx.TensorProto.FLOAT
    norms = [node for node in smaller.graph.node if node.op_type == "LayerNormalization"]
    assert all(a.i == 1 for node in norms for a in node.attribute if a.name == "stash_type")


@pytest.mark.parametrize("family", FAMILIES)
def test_a_model_in_fp16_answers_alike(exported, family):
    loaded, proto = exported[family]
    session = onnxruntime.InferenceSession(
        converted(loaded, proto, "fp16").SerializeToString(), providers=["CPUExecutionProvider"]
    )
    batch = random_batch(loaded, random.Random(0), (4, 12))
    batch["attention_mask"][-1] = 0  # a row of padding alone must not become NaN
    with torch.inference_mode():
        wanted = loaded.model(**batch).logits.numpy()[:-1]
    found = session.run(["logits"], {name: value.numpy() for name, value in batch.items()})[0]
    assert np.isfinite(found).all()
    # Two layers of some ten roundings each to 11 bits, of numbers that are a few times as large as the answers.
    error = np.abs(found[:-1] - wanted).max()
    assert 0 < error < 40 * 2**-11 * np.abs(wanted).max()


@pytest.mark.parametrize("opset", [18, 23])
@pytest.mark.parametrize("kind", HALF)
@pytest.mark.parametrize("family", ["bert", "electra", "distilbert"])
def test_16_bits_answer_alike_by_the_definition_of_the_operators(exported, family, kind, opset):
    """ONNX's own evaluator, in numpy: there is no kernel for bf16 to ask. It cannot look up RoBERTa's positions."""
    loaded, proto = exported[family]
    graph = ScopedGraph(proto)
    names = (*LAYOUT, *(("opset",) if opset < 23 else ()), kind)
    run_passes(graph, names, Subject(plan_of(loaded.identity(), 8), loaded.family, opset=opset))
    batch = random_batch(loaded, random.Random(0), (4, 12))
    with torch.inference_mode():
        wanted = loaded.model(**batch).logits.numpy()
    feeds = {name: value.numpy() for name, value in batch.items()}
    (found,) = ReferenceEvaluator(graph.to_proto()).run(["logits"], feeds)
    assert found.dtype == np.float32
    # As above: some tens of roundings to so many bits.
    assert 0 < np.abs(found - wanted).max() < 40 * 2.0 ** -BITS_OF_THE_FRACTION[kind] * np.abs(wanted).max()


def test_what_is_too_large_for_fp16_is_refused(exported):
    graph = ScopedGraph(exported["bert"][1])
    place = next(n for n in graph.graph.nodes if n.op == "LayerNormalization")
    place.inputs[2] = graph.constant("large", np.float32([1, -1e5, np.inf]))
    nodes = len(graph.graph.nodes)
    (refused,) = to_half(graph, "fp16").refused
    assert refused.refused == "holds 1e+05, which fp16 cannot say" and refused.place == "large"
    assert len(graph.graph.nodes) == nodes and place.inputs[2].values.dtype == np.float32
    assert not to_half(graph, "bf16").refused


def test_an_export_that_fp16_cannot_say_leaves_nothing(tmp_path, sentiment, capsys):
    loaded = tiny_model("bert")
    model = save_tiny(tmp_path / "model")
    with torch.no_grad():
        loaded.model.bert.encoder.layer[0].output.dense.bias[3] = 7e4
    loaded.model.save_pretrained(model)
    plan = plan_of(loaded.identity(), 8, "layer.1.ffn")
    plan.model_copy(update={"task": None}).save(tmp_path / "plan.json")
    task = ["--task", "text-classification", "--text-columns", "sentence", "--label-column", "label"]
    words = [model, "--plan", tmp_path / "plan.json", "--out", tmp_path / "bundle", "--data", sentiment, *task]
    code, captured = run_command(capsys, *words, "--precision", "fp16", app=export_cli)
    text = " ".join(captured.err.split())
    assert code == 2 and "the graph does not allow --precision fp16" in text and "7e+04" in text
    assert not (tmp_path / "bundle").exists()


def test_where_the_plan_removes_what_fp16_cannot_say_the_baseline_has_no_such_form(tmp_path, sentiment):
    """Left in float32, it would be timed as if it were in the model's form."""
    model = save_tiny(tmp_path / "model")
    loaded = tiny_model("bert")
    with torch.no_grad():
        loaded.model.bert.encoder.layer[1].output.dense.bias[3] = 7e4
    loaded.model.save_pretrained(model)
    plan_of(loaded.identity(), 8, "layer.1.ffn").save(tmp_path / "plan.json")
    given = {"task": "text-classification", "data": str(sentiment), "precision": "fp16"}
    bundle, _ = export_plan(str(model), tmp_path / "plan.json", tmp_path / "bundle", **given)
    assert baseline_in_same_form(bundle, tmp_path / "same.onnx") is None
    assert not (tmp_path / "same.onnx").exists()


@pytest.mark.parametrize("kind", HALF)
def test_a_bundle_in_16_bits(finished, tmp_path, capsys, kind):
    bundle, _ = export(finished[0], tmp_path / "bundle", precision=kind)
    full = Bundle(finished[1]).manifest
    assert bundle.manifest.precision == kind
    assert bundle.manifest.model_size.parameters == full.model_size.parameters
    assert bundle.manifest.model_size.bytes < 0.85 * full.model_size.bytes
    code, captured = run_command(capsys, "check", tmp_path / "bundle", "--provider", "cpu", app=cli)
    if kind == "fp16":
        assert code == 0 and "changed" in captured.out
        assert Bundle(tmp_path / "bundle").manifest.results["check"]["numeric"]["max_abs_error"] > 1e-5
    else:
        text = " ".join(captured.err.split())
        assert code == 2 and "no kernel" in text and "--provider cuda" in text and "Traceback" not in text
