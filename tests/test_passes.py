"""The passes after the rewrites: numbers stay, what is asked for is done, and what another form forbids is left alone."""

from __future__ import annotations

import random
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import onnxruntime
import pytest
import torch
from axform import cli
from axform.core.families import FAMILIES as KNOWN
from axform.exporters.export import rewrite, rewritten
from axform.exporters.passes import (
    LAYOUT,
    PASSES,
    Subject,
    asked_passes,
    attention_3d,
    first_token,
    key_mask,
    run_passes,
)
from axform.exporters.same_form import baseline_in_same_form
from axform.exporters.scoped_graph import ScopedGraph
from axform.runtime.bundle import Bundle
from axform.runtime.session import create_session
from axform.toolchain.apply import apply_plan
from bundles import with_its_checksums
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support import FAMILIES, cpu_session, plan_of, random_batch, random_bits, random_plan, run_command


def answers(proto: onnx.ModelProto, batch: dict[str, torch.Tensor], output: str = "logits") -> np.ndarray:
    return cpu_session(proto).run([output], {name: value.numpy() for name, value in batch.items()})[0]


def unpruned(exported, family: str = "bert"):
    """A graph of its own, the plan that changes nothing, and what goes with it."""
    loaded, proto = exported[family]
    plan = plan_of(loaded.identity(), 8)
    return ScopedGraph(proto), plan, loaded


@pytest.mark.parametrize("family", FAMILIES)
@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], derandomize=True)
@given(seed=st.integers(0, 2**32))
def test_the_layout_changes_no_answer(exported, family, seed):
    loaded, baseline = exported[family]
    generator = random.Random(seed)
    plan, heads = random_plan(loaded, generator), generator.choice(("fold", "pad"))
    if heads == "fold" and generator.random() < 0.5:
        plan = random_bits(plan, generator)
    graph = ScopedGraph(baseline)
    rewrite(graph, plan, loaded.family, heads)
    reports = run_passes(graph, LAYOUT, Subject(plan, loaded.family))
    assert not [report.refused for report in reports if report.refused]
    optimized = cpu_session(graph.to_proto())
    for batch in (random_batch(loaded, generator) for _ in range(3)):
        found = optimized.run(["logits"], {name: value.numpy() for name, value in batch.items()})[0]
        with apply_plan(loaded.model, plan), torch.inference_mode():
            expected = loaded.model(**batch).logits.numpy()
        # Sums over one token instead of all are taken in another order, no more: rounding over two layers.
        np.testing.assert_allclose(found, expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("family", FAMILIES)
def test_heads_are_split_nowhere_and_the_mask_is_short(exported, family):
    graph, plan, loaded = unpruned(exported, family)
    before = len(graph.graph.nodes)
    reports = run_passes(graph, LAYOUT, Subject(plan, loaded.family))
    assert [len(report.done) for report in reports] == [1, 2, 5]
    found = [node.op for node in graph.graph.nodes]
    assert {"Transpose", "Reshape", "GatherND"}.isdisjoint(found) and found.count("Attention") == 2
    assert before - len(found) == sum(report.nodes_removed for report in reports) > 30
    proto = graph.to_proto()
    # Shapes of inner tensors would let ONNX Runtime find its SkipLayerNormalization, which is slower on the CPU.
    assert not proto.graph.value_info


def test_a_row_that_is_all_padding_answers_as_before(exported):
    graph, plan, loaded = unpruned(exported)
    batch = random_batch(loaded, random.Random(0), (3, 9))
    batch["attention_mask"][1] = 0
    expected = answers(graph.to_proto(), batch)
    run_passes(graph, LAYOUT, Subject(plan, loaded.family))
    np.testing.assert_allclose(answers(graph.to_proto(), batch), expected, atol=1e-5, rtol=0)
    assert np.isfinite(expected).all()


def test_only_the_first_token_passes_the_last_layer(exported):
    graph, plan, loaded = unpruned(exported)
    attention_3d(graph, plan, loaded.family)
    first_token(graph, plan, loaded.family)
    watched = {
        "intermediate": graph.linear(loaded.family.scope(1, loaded.family.up)).output,
        "queries": graph.linear(loaded.family.scope(1, loaded.family.query)).output,
        "keys": graph.linear(loaded.family.scope(1, loaded.family.key)).output,
        "earlier": graph.linear(loaded.family.scope(0, loaded.family.up)).output,
    }
    proto = graph.to_proto()
    for tensor in watched.values():
        proto.graph.output.append(onnx.helper.make_tensor_value_info(tensor.name, onnx.TensorProto.FLOAT, None))
    batch = {name: value.numpy() for name, value in random_batch(loaded, random.Random(0), (3, 9)).items()}
    found = onnxruntime.InferenceSession(proto.SerializeToString()).run([t.name for t in watched.values()], batch)
    assert [value.shape[:2] for value in found] == [(3, 1), (3, 1), (3, 9), (3, 9)]


def test_without_attention_only_first_tokens_are_looked_up(exported):
    loaded, baseline = exported["bert"]
    plan = plan_of(loaded.identity(), 8, "layer.0.attn", "layer.1.attn")
    graph, _ = rewritten(baseline, plan, loaded.family)
    batch = random_batch(loaded, random.Random(0), (3, 9))
    expected = answers(graph.to_proto(), batch)
    run_passes(graph, LAYOUT, Subject(plan, loaded.family))
    np.testing.assert_allclose(answers(graph.to_proto(), batch), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("how", ["mean", "output", "second"])
def test_a_head_that_reads_other_tokens_gets_them(exported, how):
    graph, plan, loaded = unpruned(exported)
    select = next(node for node in graph.graph.nodes if node.op == "Gather" and node.attrs.get("axis") == 1)
    if how == "mean":
        axes = graph.constant("axes", np.array([1]))
        graph.replace_everywhere(
            select.outputs[0], graph.insert("ReduceMean", "mean", [select.inputs[0], axes], select, keepdims=0)
        )
    elif how == "second":
        select.inputs[1] = graph.constant("second", np.array(1))
    else:
        hidden = select.inputs[0]
        hidden.dtype, hidden.shape = np.float32, ["batch", "sequence", 32]
        graph.graph.outputs.append(hidden)
    graph.tidy()
    attention_3d(graph, plan, loaded.family)
    nodes = len(graph.graph.nodes)
    assert first_token(graph, plan, loaded.family).changes == []
    assert len(graph.graph.nodes) == nodes


def test_a_mask_that_hides_more_than_padding_is_left_as_it_is(exported):
    graph, plan, loaded = unpruned(exported)
    mask = next(node for node in graph.graph.nodes if node.op == "Attention").inputs[3]
    lower = graph.insert("Trilu", "causal", [graph.insert("Cast", "wide", [mask], to=7)], upper=0)
    causal = graph.insert("Cast", "narrow", [lower], to=9)
    for node in graph.graph.nodes:
        if node.op == "Attention":
            node.inputs[3] = causal
    report = key_mask(graph, plan, loaded.family)
    assert not report.done and "narrow hides more than the padded keys" in str(report.refused[0].refused)
    assert report.nodes_removed == 0


def test_an_attention_in_another_form_is_left_as_it_is(exported):
    graph, plan, loaded = unpruned(exported)
    first, second = (node for node in graph.graph.nodes if node.op == "Attention")
    first.inputs[0].inputs[0].attrs["perm"] = [0, 2, 3, 1]
    second.inputs.append(gs.Variable("past", np.float32))
    report = attention_3d(graph, plan, loaded.family)
    assert ["transposed by [0, 2, 3, 1]" in str(c.refused) or "past" in str(c.refused) for c in report.changes] == [
        True,
        True,
    ]
    assert not first.attrs.get("q_num_heads") and not second.attrs.get("q_num_heads")


def test_passes_run_in_the_order_that_they_need(exported):
    graph, plan, loaded = unpruned(exported)
    for names in (("first_token",), ("attention_3d", "int8", "first_token")):
        with pytest.raises(ValueError, match="pass first_token requires"):
            run_passes(graph, names, Subject(plan, loaded.family))
    held: set[str] = {"float32 products"}
    for name in (*LAYOUT, *asked_passes("int8")):
        assert PASSES[name].requires <= held
        held = (held | PASSES[name].ensures) - PASSES[name].ends


def test_a_graph_without_the_key_mask_keeps_its_own(exported):
    graph, plan, loaded = unpruned(exported)
    other = replace(KNOWN["bert"], attention_mask="visible")
    assert "no input visible" in str(key_mask(graph, plan, other).refused[0].refused)
    assert loaded.family.attention_mask == "attention_mask"


def test_bench_times_the_baseline_in_the_models_form(finished, tmp_path, capsys, monkeypatch):
    folder = Path(shutil.copytree(finished[1], tmp_path / "bundle"))
    seen = []
    monkeypatch.setattr("axform.runtime.latency.create_session", watched(create_session, seen))
    code, captured = run_command(capsys, "bench", folder, "--batch", 1, "--seq", 8, "--runs", 6, app=cli)
    assert code == 0 and "What the plan gains by itself" in captured.out
    baseline, model, same = seen
    batch = {entry.name: np.ones((2, 8), np.int64) for entry in baseline.get_inputs()}
    np.testing.assert_allclose(same.run(None, batch)[0], baseline.run(None, batch)[0], atol=1e-5, rtol=0)
    assert not np.allclose(model.run(None, batch)[0], baseline.run(None, batch)[0], atol=1e-3)
    (shape,) = Bundle(folder).manifest.results["bench"]["shapes"]
    assert shape["plan_low"] <= shape["plan_ratio"] <= shape["plan_high"]
    assert shape["plan_ratio"] == shape["same_form"]["median"] / shape["model"]["median"]


def test_a_bundle_without_passes_has_no_other_form(finished, tmp_path):
    folder = Path(shutil.copytree(finished[1], tmp_path / "bundle"))
    manifest = Bundle(folder).manifest
    plain = with_its_checksums(folder, rewrites=[entry for entry in manifest.rewrites if entry.rewrite not in PASSES])
    assert baseline_in_same_form(plain, tmp_path / "baseline.onnx") is None
    assert not (tmp_path / "baseline.onnx").exists()


def watched(make, seen):
    def call(*arguments, **options):
        seen.append(make(*arguments, **options))
        return seen[-1]

    return call
