"""Older opsets: the same answers with Attention and Gelu written out, and one error where that cannot be."""

from __future__ import annotations

import random

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from axform.core.opset import OLDEST_OPSET, OPSET
from axform.core.plan import Bits
from axform.core.targets import Target
from axform.exporters import cli as export_cli
from axform.exporters.export import export, rewrite
from axform.exporters.passes import LAYOUT, Subject, lower_opset, run_passes
from axform.exporters.same_form import baseline_in_same_form
from axform.exporters.scoped_graph import ScopedGraph
from axform.runtime.parity import check_bundle
from axform.toolchain.apply import apply_plan
from support import FAMILIES, plan_of, random_batch, random_bits, random_plan, run_command

OLDER = (18, 20, 22)


def ops(proto: onnx.ModelProto) -> set[str]:
    return {node.op_type for node in proto.graph.node}


def run(proto: onnx.ModelProto, batch: dict[str, torch.Tensor]) -> np.ndarray:
    onnx.checker.check_model(proto, full_check=True)
    session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(["logits"], {name: value.numpy() for name, value in batch.items()})[0]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("seed", range(2))
def test_a_pruned_model_answers_alike_in_every_opset(exported, family, seed):
    loaded, baseline = exported[family]
    generator = random.Random(seed)
    plan = random_plan(loaded, generator)
    if seed:
        plan = random_bits(plan, generator).with_part(Bits(target=Target.outside("embeddings.word"), bits=4))
    batch = random_batch(loaded, generator)
    with apply_plan(loaded.model, plan), torch.inference_mode():
        wanted = loaded.model(**batch).logits.numpy()
    for opset in OLDER:
        graph = ScopedGraph(baseline)
        rewrite(graph, plan, loaded.family)
        reports = run_passes(graph, (*LAYOUT, "opset"), Subject(plan, loaded.family, opset=opset))
        assert not reports[-1].refused
        proto = graph.to_proto()
        in_4_bits = [t for t in proto.graph.initializer if t.data_type == onnx.TensorProto.INT4]
        assert bool(in_4_bits) == bool(seed and opset >= 21)
        assert {entry.domain: entry.version for entry in proto.opset_import}[""] == opset
        assert all(e.version == opset for f in proto.functions for e in f.opset_import if not e.domain)
        assert "Attention" not in ops(proto) and ("Gelu" in ops(proto)) <= (opset >= 20)
        np.testing.assert_allclose(run(proto, batch), wanted, atol=1e-4, rtol=0)


def test_heads_in_front_are_written_out_too_and_padding_alone_gives_no_nan(exported):
    loaded, baseline = exported["bert"]
    batch = random_batch(loaded, random.Random(0), (3, 7))
    wanted = run(baseline, batch)
    graph = ScopedGraph(baseline)
    assert len(lower_opset(graph, 18).done) == 4
    np.testing.assert_allclose(run(graph.to_proto(), batch), wanted, atol=1e-5, rtol=0)
    batch["attention_mask"][1] = 0
    assert np.isfinite(run(graph.to_proto(), batch)).all()


@pytest.mark.parametrize("precision", ["int8", "fp16"])
def test_other_precisions_in_an_older_opset(exported, precision):
    loaded, baseline = exported["bert"]
    batch = random_batch(loaded, random.Random(0), (3, 7))
    wanted = run(baseline, batch)
    graph = ScopedGraph(baseline)
    subject = Subject(plan_of(loaded.identity(), 8), loaded.family, opset=18)
    assert not any(report.refused for report in run_passes(graph, (*LAYOUT, "opset", precision), subject))
    found = run(graph.to_proto(), batch)
    assert 0 < np.abs(found - wanted).max() < 0.3 * np.abs(wanted).max()


def test_the_ir_is_one_that_runtimes_of_that_opset_read(exported):
    graph = ScopedGraph(exported["bert"][1])
    lower_opset(graph, 18)
    assert graph.to_proto().ir_version == 8


def test_what_an_older_opset_cannot_say_is_refused(exported):
    graph = ScopedGraph(exported["bert"][1])
    attention, other = (node for node in graph.graph.nodes if node.op == "Attention")
    attention.attrs["is_causal"] = 1
    other.attrs["softcap"] = 5.0
    graph.graph.outputs.append(
        graph.insert("RMSNormalization", "new", [attention.outputs[0], graph.constant("g", np.ones(8, np.float32))])
    )
    reasons = [change.refused for change in lower_opset(graph, 20).refused]
    assert reasons[:2] == ["it has no scale, or a causal mask or a cap"] * 2
    assert "opset 20 has no RMSNormalization" in reasons


def test_weights_of_a_newer_type_are_refused(exported):
    import ml_dtypes

    graph = ScopedGraph(exported["bert"][1])
    codes = graph.constant("codes", np.zeros((4, 4), ml_dtypes.int4))
    graph.graph.outputs.append(graph.insert("Cast", "values", [codes], to=1))
    assert lower_opset(graph, 21).refused == []
    graph.graph.nodes[-1].inputs[0] = codes
    assert any("came with opset 21" in str(c.refused) for c in lower_opset(graph, 20).refused)


def test_a_bundle_in_an_older_opset(finished, tmp_path):
    bundle, _ = export(finished[0], tmp_path / "bundle", opset=OLDEST_OPSET)
    assert bundle.manifest.opset == OLDEST_OPSET and check_bundle(bundle).passed
    for file in (bundle.model, bundle.baseline):
        proto = onnx.load(file)
        assert "Attention" not in ops(proto) and proto.opset_import[0].version == OLDEST_OPSET
    assert baseline_in_same_form(bundle, tmp_path / "same.onnx") is None


@pytest.mark.parametrize("opset", [OLDEST_OPSET - 1, OPSET + 1])
def test_an_opset_that_is_not_written(finished, tmp_path, capsys, opset):
    words = [finished[0], "--out", tmp_path / "bundle", "--opset", opset]
    code, captured = run_command(capsys, *words, app=export_cli)
    assert code == 2 and f"--opset {opset}: files are written in the opsets 18 to 23" in " ".join(captured.err.split())
    assert not (tmp_path / "bundle").exists()
