"""Bits on disk: the file computes with exactly the values that its codes have, and is as large as they are."""

from __future__ import annotations

import random

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from axform.core.plan import ApproximationPlan, Bits
from axform.core.quantization import layer_matrices
from axform.core.targets import Target
from axform.errors import AxformError
from axform.exporters.annotations import annotations_of, stored_codes
from axform.exporters.coded_weights import floats_of, is_coded
from axform.exporters.export import rewrite
from axform.exporters.passes import Subject, run_passes
from axform.exporters.scoped_graph import ScopedGraph
from axform.toolchain.apply import apply_plan
from axform.toolchain.fake_quantization import in_bits
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support import FAMILIES, cpu_session, plan_of, random_batch, random_bits, random_plan


def quantized(baseline: onnx.ModelProto, plan: ApproximationPlan, family) -> onnx.ModelProto:
    graph = ScopedGraph(baseline)
    rewrite(graph, plan, family)
    proto = graph.to_proto()
    onnx.checker.check_model(proto, full_check=True)
    return proto


@pytest.mark.parametrize("family", FAMILIES)
@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], derandomize=True)
@given(seed=st.integers(0, 2**32))
def test_random_plans_with_bits_equal_the_live_model(exported, family, seed):
    loaded, baseline = exported[family]
    generator = random.Random(seed)
    plan = random_bits(random_plan(loaded, generator), generator)
    proto = quantized(baseline, plan, loaded.family)
    batches = [random_batch(loaded, generator) for _ in range(2)]
    with apply_plan(loaded.model, plan), torch.inference_mode():
        expected = [loaded.model(**batch).logits.numpy() for batch in batches]
    for with_library in (False, True):
        run = cpu_session(proto, with_library).run
        for batch, wanted in zip(batches, expected, strict=True):
            result = run(["logits"], {name: value.numpy() for name, value in batch.items()})[0]
            np.testing.assert_allclose(result, wanted, atol=1e-4, rtol=0)


def test_weights_are_folded_to_the_values_of_the_live_model(exported, tmp_path):
    """After ONNX Runtime's own folding: floats equal to 1e-6, no decoding left but for rows that are looked up."""
    loaded, baseline = exported["bert"]
    plan = plan_of(loaded.identity(), 16, "layer.0.ffn.group.0")
    parts = [
        ("layer.0.ffn", 5, None),
        ("layer.0.ffn.group.2", 3, None),
        ("layer.1.ffn", 4, 24),
        ("layer.1.attn", 8, None),
    ]
    for target, bits, group in parts:
        plan = plan.with_part(Bits(target=Target.parse(target), bits=bits, group=group))
    proto = quantized(baseline, plan.with_part(Bits(target=Target.outside("embeddings.word"), bits=4)), loaded.family)
    cpu_session(
        proto,
        optimized_model_filepath=str(tmp_path / "optimized.onnx"),
        graph_optimization_level=onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED,
    )
    folded = onnx.load(tmp_path / "optimized.onnx")
    assert "UnpackBits" not in {node.op_type for node in folded.graph.node}
    looked_up = [node for node in folded.graph.node if node.op_type == "Cast" and "word_embeddings" in node.output[0]]
    assert len(looked_up) == 1
    (table,) = [
        t for t in folded.graph.initializer if list(t.dims) == [64, 32] and t.data_type == onnx.TensorProto.INT8
    ]
    assert np.abs(onnx.numpy_helper.to_array(table)).max() == 7
    values = [onnx.numpy_helper.to_array(tensor) for tensor in folded.graph.initializer]
    floats = [value for value in values if value.ndim == 2 and value.dtype == np.float32]
    down = loaded.model.get_submodule("bert.encoder.layer.1.output.dense").weight.detach()
    up = loaded.model.get_submodule("bert.encoder.layer.0.intermediate.dense").weight.detach()
    up = torch.cat([in_bits(up[16:32], 5), in_bits(up[32:48], 3), in_bits(up[48:], 5)])
    query = loaded.model.get_submodule("bert.encoder.layer.1.attention.self.query").weight.detach()
    for wanted in (in_bits(down, 4, 24), up, in_bits(query, 8)):
        same_shape = [value for value in floats if value.shape == wanted.T.shape]
        assert min(np.abs(value - wanted.T.numpy()).max() for value in same_shape) <= 1e-6


def test_the_file_tells_its_codes_and_is_no_larger(exported):
    loaded, baseline = exported["bert"]
    plan = random_bits(plan_of(loaded.identity(), 16), random.Random(2), share=0.7)
    proto = quantized(baseline, plan, loaded.family)
    told, tensors = annotations_of(proto.graph), {tensor.name: tensor for tensor in proto.graph.initializer}
    assert {one.bits for one in told} >= {4, 5, 8}
    for one, stored in zip(told, stored_codes(proto.graph, proto.graph.initializer), strict=True):
        tensor = tensors[one.tensor]
        assert len(tensor.raw_data) == -(-one.values * one.bits // 8) == one.bytes
        assert tensor.data_type == {4: onnx.TensorProto.INT4, 8: onnx.TensorProto.INT8}.get(
            one.bits, onnx.TensorProto.UINT8
        )
        scales = onnx.numpy_helper.to_array(tensors[one.scales])
        assert stored.storage_bits == pytest.approx(one.bits, rel=0.02) and stored.scales[1] == scales.max()
        assert scales.size * one.group >= one.values
    assert ScopedGraph(proto).parameters() == ScopedGraph(baseline).parameters()
    again = ScopedGraph(proto).to_proto()
    assert [t.raw_data for t in again.graph.initializer] == [t.raw_data for t in proto.graph.initializer]
    assert annotations_of(again.graph) == told and len(again.functions) == len(proto.functions)


@pytest.mark.parametrize(
    ("bits", "group", "is_multiplied"), [(4, None, True), (7, None, True), (8, None, False), (4, 16, False)]
)
def test_codes_are_what_int8_multiplies(exported, bits, group, is_multiplied):
    """Codes with a scale for each output go into the integer products as they are, and the file stays as small."""
    loaded, baseline = exported["bert"]
    plan = plan_of(loaded.identity(), 16, "layer.0.ffn.group.1", "layer.1.attn.head.2")
    plan = plan.with_part(Bits(target=Target.outside("rest"), bits=bits, group=group))
    plan = plan.with_part(Bits(target=Target.parse("layer.0.attn.head.3"), bits=6))
    graph = ScopedGraph(baseline)
    rewrite(graph, plan, loaded.family)
    (report,) = run_passes(graph, ["int8"], Subject(plan, loaded.family))
    assert not report.refused and len(report.done) == 13
    proto = graph.to_proto()
    onnx.checker.check_model(proto, full_check=True)
    told = {(one.module, one.bits) for one in annotations_of(proto.graph)}
    assert {code.tensor for code in stored_codes(proto.graph, proto.graph.initializer)} == {
        one.tensor for one in annotations_of(proto.graph)
    }
    assert (("bert.encoder.layer.1.intermediate.dense", bits) in told) == is_multiplied
    assert (("bert.encoder.layer.0.attention.self.key", 6) in told) == is_multiplied
    batch = random_batch(loaded, random.Random(0), (3, 9))
    with apply_plan(loaded.model, plan), torch.inference_mode():
        wanted = loaded.model(**batch).logits.numpy()
    found = cpu_session(proto).run(["logits"], {name: value.numpy() for name, value in batch.items()})[0]
    # inputs of 8 bits: a graph that multiplied something else would be off by more than a standard deviation
    assert 0 < np.abs(found - wanted).max() < 0.3 * max(wanted.std(), 0.1)


@pytest.mark.parametrize("family", FAMILIES)
def test_what_is_read_back_is_what_the_live_model_has(exported, family):
    loaded, baseline = exported[family]
    plan = random_bits(plan_of(loaded.identity(), 16), random.Random(5), share=0.8)
    graph = ScopedGraph(baseline)
    rewrite(graph, plan, loaded.family)
    described, read = loaded.family, 0
    for index, layer in enumerate(plan.layers):
        for matrix in layer_matrices(described, layer):
            module = described.scope(index, matrix.path)
            (product,) = [
                node for op in ("MatMul", "Gemm") for node in graph.nodes_in(module, op) if is_coded(node.inputs[1])
            ]
            linear = loaded.model.get_submodule(module)
            with apply_plan(loaded.model, plan), torch.inference_mode():
                wanted = linear(torch.eye(linear.in_features)) - linear.bias
            np.testing.assert_allclose(floats_of(product.inputs[1]), wanted, atol=1e-6, rtol=0)
            read += 1
    assert read >= 6


@pytest.mark.parametrize("kind", ["fp16", "bf16"])
def test_scales_in_16_bits_are_still_told(exported, kind):
    loaded, baseline = exported["bert"]
    plan = plan_of(loaded.identity(), 16).with_part(Bits(target=Target.outside("rest"), bits=4))
    graph = ScopedGraph(baseline)
    rewrite(graph, plan, loaded.family)
    run_passes(graph, [kind], Subject(plan, loaded.family))
    proto = graph.to_proto()
    onnx.checker.check_model(proto, full_check=True)
    half = {"fp16": onnx.TensorProto.FLOAT16, "bf16": onnx.TensorProto.BFLOAT16}[kind]
    types = {tensor.name: tensor.data_type for tensor in proto.graph.initializer}
    assert {types[one.scales] for one in annotations_of(proto.graph)} == {half}
    assert stored_codes(proto.graph, proto.graph.initializer)
    if kind == "fp16":  # ONNX Runtime has no bfloat16 kernels on the CPU
        batch = random_batch(loaded, random.Random(0), (3, 9))
        with apply_plan(loaded.model, plan), torch.inference_mode():
            wanted = loaded.model(**batch).logits.numpy()
        found = cpu_session(proto).run(["logits"], {name: value.numpy() for name, value in batch.items()})[0]
        # weights rounded to 11 bits, over two layers of sums of 32 to 64
        assert np.abs(found - wanted).max() < 0.05 * wanted.std()


def test_padded_heads_and_bits_are_refused(exported):
    loaded, baseline = exported["bert"]
    plan = plan_of(loaded.identity(), 16, "layer.0.attn.head.1").with_part(
        Bits(target=Target.parse("layer.0.attn"), bits=4)
    )
    with pytest.raises(AxformError, match="--heads fold"):
        rewrite(ScopedGraph(baseline), plan, loaded.family, "pad")
